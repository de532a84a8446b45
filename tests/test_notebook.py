"""The notebook of the documentation: its cells run, and say what its text says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_holds_no_outputs() -> None:
    # They would be those of one machine and one day.
    assert len(CODE) >= 7
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS if cell["cell_type"] == "code")


def test_the_cells_call_what_there_is(tmp_path: Path) -> None:
    """Names and arguments, in seconds: the test below takes minutes, and runs more rarely."""
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(CODE), encoding="utf-8")
    told = subprocess.run([sys.executable, "-m", "mypy", str(script)], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode in (0, 1), told.stdout + told.stderr
    wrong = [line for line in told.stdout.splitlines() if line.endswith(("[call-arg]", "[name-defined]"))]
    wrong += [line for line in told.stdout.splitlines() if "pneumonia" in line and line.endswith("[attr-defined]")]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_the_cells_run_in_order_and_the_network_learns(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    check = 'assert auc > 0.5, "no better than chance"\nassert sum(counts) == len(test_scores)\nprint("end reached")\n'
    script.write_text("\n\n".join([*CODE, check]), encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": f"{ROOT / 'src'}", "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning:__main__", str(script)],  # plt.show() has no window
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "quarantined: " in run.stdout
    assert run.stdout.endswith("end reached\n")
