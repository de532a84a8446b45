"""Studies without networks: a trial is worth a known function of its values."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pneumonia import UserError
from pneumonia.tuning import study as studies

SPACE: dict[str, Any] = {"x": {"low": -1.0, "high": 1.0}, "kind": ["a", "b"]}
FIRST = {"x": 0.5, "kind": "b"}


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def value(values: dict[str, Any]) -> float:
    return float(-(values["x"] ** 2)) + (0.1 if values["kind"] == "a" else 0.0)


def queue(folder: Path, n_trials: int = 6, sampler: str = "tpe", space: Any = SPACE, **place: Any) -> studies.Queue:
    study = studies.open_study(studies.Place(folder, **place), "none", 3)
    return studies.Queue(study, space, FIRST, n_trials=n_trials, sampler=sampler, seed=1, shared=bool(place.get("url")))


def run(queue: studies.Queue, stop_at: int | None = None) -> list[dict[str, Any]]:
    """Runs trials; with `stop_at` it is "killed" in the middle of the trial with this number."""
    done = []
    while trial := queue.next():
        if trial.number == stop_at:
            break
        done.append(dict(trial.params))
        queue.tell(trial, value(trial.params), TrialState.COMPLETE)
    return done


def params(folder: Path) -> list[dict[str, Any]]:
    study = studies.open_study(studies.Place(folder), "none", 3)
    return [trial.params for trial in study.get_trials()]


@pytest.mark.parametrize("sampler", studies.SAMPLERS)
def test_trial_0_has_the_defaults_and_all_others_differ(tmp_path: Path, sampler: str) -> None:
    space = SPACE if sampler != "grid" else {"x": {"low": -1.0, "high": 1.0, "step": 0.5}, "kind": ["a", "b"]}
    done = run(queue(tmp_path, sampler=sampler, space=space))
    assert len(done) == 6
    assert done[0] == FIRST
    assert len({json.dumps(one) for one in done}) == 6


@pytest.mark.parametrize("stop_at", [0, 1, 3, 5])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_that_was_killed_ends_like_an_uninterrupted_one(tmp_path: Path, sampler: str, stop_at: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    run(queue(whole, sampler=sampler))
    run(queue(parts, sampler=sampler), stop_at=stop_at)
    run(queue(parts, sampler=sampler))
    assert params(parts) == params(whole)
    assert len(params(parts)) == 6


def test_a_finished_study_has_no_further_trial_and_more_trials_continue_it(tmp_path: Path) -> None:
    first = run(queue(tmp_path, n_trials=3))
    assert run(queue(tmp_path, n_trials=3)) == []
    run(queue(tmp_path, n_trials=5))
    assert len(params(tmp_path)) == 5
    assert params(tmp_path)[:3] == first


def test_a_journal_cut_anywhere_loses_its_last_entry_only(tmp_path: Path) -> None:
    run(queue(tmp_path, n_trials=3))
    journal = tmp_path / studies.JOURNAL
    content = journal.read_bytes()
    for size in range(len(content) // 2, len(content), 97):
        journal.write_bytes(content[:size])
        expected = content[:size].rfind(b"\n") + 1
        assert studies.repair(journal) == size - expected
        assert journal.read_bytes() == content[:expected]
    run(queue(tmp_path, n_trials=3))
    assert len(params(tmp_path)) == 3


def test_a_failed_trial_does_not_count(tmp_path: Path) -> None:
    waiting = queue(tmp_path, n_trials=3)
    trial = waiting.next()
    assert trial
    waiting.tell(trial, None, TrialState.FAIL)
    run(waiting)
    assert studies.counts(waiting.study) == {"complete": 3, "pruned": 0, "fail": 1}


def test_a_study_in_which_all_trials_fail_ends(tmp_path: Path) -> None:
    waiting = queue(tmp_path, n_trials=4)
    for _ in range(4):
        trial = waiting.next()
        assert trial
        waiting.tell(trial, None, TrialState.FAIL)
    with pytest.raises(UserError, match=r"not finite in any of 4 trials; lower the learning rates in tune\.space"):
        waiting.next()


def test_a_grid_smaller_than_the_number_of_trials_ends_the_study(tmp_path: Path) -> None:
    waiting = queue(tmp_path, n_trials=50, sampler="grid", space={"x": [0.0, 0.5, 1.0], "kind": ["a", "b"]})
    assert waiting.n_trials == 6
    assert len(run(waiting)) == 6


def test_tpe_finds_more_than_chance(tmp_path: Path) -> None:
    """Of a bowl: after 25 trials TPE is nearer to its bottom than the median of random searches."""
    tpe, chance = tmp_path / "tpe", tmp_path / "random"
    tpe.mkdir()
    chance.mkdir()
    best = {
        sampler: max(map(value, run(queue(folder, n_trials=25, sampler=sampler))))
        for sampler, folder in (("tpe", tpe), ("random", chance))
    }
    assert best["tpe"] > best["random"]
    assert best["tpe"] > 0.099


def test_a_database_of_sqlite_keeps_a_study_and_gives_lost_trials_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    monkeypatch.setattr(studies, "HEARTBEAT", 1)
    first = queue(tmp_path, url=url)
    trial = first.next()
    assert trial
    number, chosen = trial.number, trial.params
    with sqlite3.connect(tmp_path / "study.db") as database:  # its process is gone for long
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    second = queue(tmp_path, url=url)
    run(second)
    trials = second.study.get_trials()
    assert trials[number].state == TrialState.FAIL
    assert [one.params for one in trials if one.state == TrialState.COMPLETE].count(chosen) == 1
    assert studies.counts(second.study)["complete"] == 6


def test_a_trial_that_never_gave_a_sign_of_life_is_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    monkeypatch.setattr(studies, "HEARTBEAT", 1)
    assert queue(tmp_path, url=url).next()
    with sqlite3.connect(tmp_path / "study.db") as database:  # its process was killed before it gave one
        assert database.execute("DELETE FROM trial_heartbeats").rowcount == 1
    second = queue(tmp_path, url=url)
    trial = second.next()
    assert trial
    assert trial.number == 1
    with sqlite3.connect(tmp_path / "study.db") as database:  # it has one now; no other follows
        changed = database.execute(
            "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour') WHERE trial_id = 1"
        )
        assert changed.rowcount == 1
    second.tell(trial, 0.5, TrialState.COMPLETE)
    run(second)
    assert second.study.get_trials()[0].state == TrialState.FAIL
    assert studies.counts(second.study)["complete"] == 6


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nothing", "no database that can be used here"),
        ("nosuch://host/db", "no database that can be used here"),
        ("sqlite:////nowhere/at/all/study.db", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        studies.open_storage(studies.Place(tmp_path, url=url, password="very-secret"))
    assert "\n" not in str(refusal.value)
    assert "very-secret" not in str(refusal.value)
    assert "very-secret" not in repr(studies.Place(tmp_path, url=url, password="very-secret"))


def test_a_database_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies.time, "sleep", lambda seconds: None)
    answers = iter([optuna.exceptions.StorageInternalError("away"), optuna.exceptions.StorageInternalError("away"), 7])

    def ask() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert studies.patiently(ask) == 7


def test_a_database_that_stays_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "PATIENCE", 0.0)

    def ask() -> int:
        raise optuna.exceptions.StorageInternalError("away")

    with pytest.raises(UserError, match=r"does not answer for 0 s .*finished trials are kept"):
        studies.patiently(ask)


def test_importances_need_trials_that_differ(tmp_path: Path) -> None:
    waiting = queue(tmp_path, n_trials=3)
    run(waiting)
    assert studies.importances(waiting.study) == {}
    more = queue(tmp_path, n_trials=12)
    run(more)
    shares = studies.importances(more.study)
    assert set(shares) == {"x", "kind"}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["x"] > shares["kind"]
