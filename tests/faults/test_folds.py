"""A training of several folds that is killed goes on with the fold in which it was, and ends as if nothing happened."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.conftest import copied
from tests.faults.test_ends import INSIDE, settled

SETTINGS = {"rebalance.folds": 2, "tune.n_trials": 0}
OUTS = ("models/model.keras", "reports/history.csv", "reports/predictions.csv", "reports/metrics.json")


@pytest.mark.slow
@pytest.mark.fault(
    kind="ends",
    where="train",
    injected="KILL in the last epoch of the second of two folds",
    before="there were no folds",
    now="dvc repro goes on there, with the same results",
)
def test_a_killed_fold_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    from tests.test_end_to_end import Project  # here, because it imports for seconds

    project = Project(tmp_path / "project")
    project.set(SETTINGS)
    project.dvc("repro", "tune")
    whole = copied(project, tmp_path / "whole")
    whole.dvc("repro", "evaluate")
    # Its epoch is done and its weights are written, its backup is not.
    fault = {"FAULT_AT": "pneumonia.training.callbacks:Backup.on_epoch_end", "FAULT_CALL": "4"}
    path = {"PYTHONPATH": INSIDE, "FAULT_IN": "stages.train", "FAULT_SIGNAL": str(int(signal.SIGKILL))}
    output = project.dvc("repro", "train", expect=255, **path, **fault)
    assert "failed to run" in output
    assert not (project.folder / "models/model.keras").exists()
    project.dvc("repro", "evaluate")
    for name in OUTS:
        one, other = ((folder / name).read_bytes() for folder in (project.folder, whole.folder))
        assert settled(name, one) == settled(name, other), name
    of_folds = {run.data.tags["fold"]: run for run in project.runs("fold")}
    assert len(of_folds) == len(project.runs("fold")) == 2, "no fold has a second run"
    assert {run.info.status for run in of_folds.values()} == {"FINISHED"}
    steps = {
        name: [one.step for one in project.client.get_metric_history(run.info.run_id, "epoch/val_auc")]
        for name, run in of_folds.items()
    }
    assert steps == {"fold 0": [1, 2], "fold 1": [1, 2, 2]}, "only the epoch in which it was killed is done again"
