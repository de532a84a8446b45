"""Notes which keys of params.yaml a stage reads while it runs.

Python imports this file at its start where its folder is on PYTHONPATH. In a stage that DVC runs it puts a recorder in
place of the settings that `params.load` returns; what was read is appended to the file named by PARAMS_READ, a line
`STAGE KEY` each.
"""

import os
import sys
from typing import Any

# They read settings to name a run, a figure or a page. A stage whose outs carry such a name depends on run.json or
# declares the selectors itself.
NAMING = {"tracked", "train_run", "is_synthetic", "origin", "title"}


def names_only() -> bool:
    """Whether a function of `stages/__init__.py` asks that only names things."""
    frame = sys._getframe(2)
    while frame:
        if frame.f_globals.get("__name__") == "stages" and frame.f_code.co_name in NAMING:
            return True
        frame = frame.f_back
    return False


class Recorder:
    """A section of the settings that notes which of its keys are read."""

    def __init__(self, section: Any, path: str = "") -> None:
        self._section, self._path = section, path

    def _note(self, name: str) -> None:
        field = type(self._section).model_fields[name]
        with open(os.environ["PARAMS_READ"], "a") as file:
            file.write(f"{os.environ['DVC_STAGE']} {self._path}{field.alias or name}\n")

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section, name)
        field = type(self._section).model_fields[name]
        if hasattr(value, "model_dump"):
            return Recorder(value, f"{self._path}{field.alias or name}.")
        if not names_only():
            self._note(name)
        return value

    def model_dump(self, *, exclude: Any = (), **options: Any) -> dict[str, Any]:
        if not names_only():
            for name in type(self._section).model_fields.keys() - set(exclude):
                if hasattr(getattr(self._section, name), "model_dump"):
                    getattr(self, name).model_dump()
                else:
                    self._note(name)
        return dict(self._section.model_dump(exclude=set(exclude), **options))

    def __repr__(self) -> str:  # of a section in a key to resume by
        self.model_dump()
        return repr(self._section)


if "DVC_STAGE" in os.environ and "PARAMS_READ" in os.environ:
    from pneumonia import params

    load = params.load
    params.load = lambda *path: Recorder(load(*path))  # type: ignore[assignment,return-value]
