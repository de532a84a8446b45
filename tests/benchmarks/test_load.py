"""The load and the fuzz of `make bench`, shortened: no wrong answer, and a bad one would be seen."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks import fuzz, load
from pneumonia.models.predictor import Predictor
from tests import predictors
from tests.service.conftest import film


class Canned(NamedTuple):
    """A service that always gives the same answer."""

    status: int
    answer: dict[str, Any]
    port: int = 0

    def send(self, connection: object, film: load.Film) -> tuple[int, dict[str, Any]]:
        return self.status, self.answer


@pytest.mark.parametrize(
    ("status", "answer", "wrong"),
    [
        (200, {"predictions": [{"score": 0.50005}]}, []),
        (200, {"predictions": [{"score": 0.501}]}, ["a: score 0.501, reported 0.5"]),
        (503, {"error": "late"}, ["a: 503, expected 200: late"]),
    ],
)
def test_a_wrong_score_and_a_missing_one_end_the_load_with_an_error(
    status: int, answer: dict[str, Any], wrong: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Canned(status, answer)
    assert load.send_once(one, [load.Film("a", b"", score=0.5)])[1] == wrong  # type: ignore[arg-type]
    done = load.Report(Counter({200: 1}), [], [0.1], 1, Counter(), (1, 1))
    monkeypatch.setattr(load, "test_films", lambda *paths: [load.Film("a", b"", score=0.5)])
    monkeypatch.setattr(load, "service", lambda model: nullcontext(one))
    monkeypatch.setattr(load, "load", lambda *arguments, **options: done)
    with pytest.raises(SystemExit, match="1 answers were wrong") if wrong else nullcontext():
        load.report("x", seconds=1, clients=1)


def test_no_answer_is_right_only_where_the_request_has_not_ended() -> None:
    statuses: Counter[int] = Counter()
    assert fuzz._problem(b"", True, statuses) == "no answer to a whole request"
    assert fuzz._problem(b"", False, statuses) == ""
    assert fuzz._problem(b'HTTP/1.1 400 x\r\n\r\n{"error": "a"}', True, statuses) == ""
    assert fuzz._problem(b'HTTP/1.1 500 x\r\n\r\n{"error": "a"}', True, statuses).startswith("status 500")
    assert statuses == {0: 2, 400: 1, 500: 1}


@pytest.mark.slow
def test_many_clients_get_right_answers_and_so_do_those_with_bad_files(tmp_path: Path) -> None:
    folder = predictors.write(tmp_path / "predictor")
    one = Predictor(folder)
    films = [
        load.Film(f"{level}", film(level), score=next(one.scores([film(level)])).score) for level in (90, 130, 170)
    ]
    with load.service(str(folder)) as service:
        assert load.send_once(service, films) == (0, [])
        for share in (0, 0.1):
            done = load.load(service, films, seconds=4, bad_share=share, tolerance=0)
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
