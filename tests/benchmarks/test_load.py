"""The load and the fuzz of `make bench`, shortened: no wrong answer, and a bad one would be seen."""

from pathlib import Path

import pytest

from benchmarks import fuzz, load
from pneumonia.models.predictor import Predictor
from tests import predictors
from tests.service.conftest import film


@pytest.mark.slow
def test_many_clients_get_right_answers_and_so_do_those_with_bad_files(tmp_path: Path) -> None:
    folder = predictors.write(tmp_path / "predictor")
    one = Predictor(folder)
    films = [
        load.Film(f"{level}", film(level), score=next(one.scores([film(level)])).score) for level in (90, 130, 170)
    ]
    with load.service(str(folder)) as service:
        assert load.largest_difference(service, films) == 0
        for share in (0, 0.1):
            done = load.load(service, films, seconds=4, bad_share=share)
            assert done.wrong == []
            assert done.statuses[200] >= 8
            assert (set(done.statuses) == {200}) == (share == 0)
        wrong = load.load(service, [films[0]._replace(score=0.5)], clients=1, seconds=0.5)
        assert wrong.wrong
        assert "reported 0.5" in wrong.wrong[0]


@pytest.mark.slow
def test_the_memory_of_large_uploads_is_returned(tmp_path: Path) -> None:
    large = [load.Film("text", n * b"x", 415) for n in (5_000_000, 20_000_000, 45_000_000)]
    with load.service(str(predictors.write(tmp_path / "predictor"))) as service:
        load.load(service, [load.Film("x.png", film())], clients=8, seconds=1)
        before = service.memory()
        done = load.load(service, large, clients=8, seconds=6)
        assert done.wrong == []
        assert sum(done.statuses.values()) >= 8
        assert service.memory() < 1.25 * before


@pytest.mark.slow
def test_damaged_files_and_requests_are_answered_in_time_and_in_one_line(tmp_path: Path) -> None:
    with load.service(str(predictors.write(tmp_path / "predictor"))) as service:
        done = fuzz.fuzz(service, seconds=15)
    assert done.problems == []
    assert {200, 400, 415, 422} <= set(done.statuses)
