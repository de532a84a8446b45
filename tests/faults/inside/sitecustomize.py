"""Sends a signal to a process when it comes to a given place.

Python imports this file at its start where its folder is on PYTHONPATH. It acts in the process whose command line has
the word FAULT_IN, such as `stages.train`:

FAULT_AT: `module:function` or `module:Class.method`, or only `module`: at the beginning of its import.
FAULT_CALL: number of the call, from 1. FAULT_WHEN: `before` or `after` that call.
FAULT_SIGNAL: number of the signal. FAULT_TO: `group` = to all processes of the group, as a terminal does.
"""

import functools
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any

VARIABLES = os.environ


def send() -> None:
    number = int(VARIABLES["FAULT_SIGNAL"])
    if VARIABLES.get("FAULT_TO") == "group":
        os.killpg(os.getpgrp(), number)
    else:
        os.kill(os.getpid(), number)


def watch(module: ModuleType, place: str) -> None:
    """Put a function that counts its calls in the place of one of the module."""
    *owners, name = place.split(".")
    owner: Any = functools.reduce(getattr, owners, module)
    function, calls = getattr(owner, name), 0

    @functools.wraps(function)
    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        is_due = calls == int(VARIABLES.get("FAULT_CALL", "1"))
        if is_due and VARIABLES.get("FAULT_WHEN", "before") == "before":
            send()
        result = function(*args, **options)
        if is_due and VARIABLES.get("FAULT_WHEN") == "after":
            send()
        return result

    setattr(owner, name, counted)


class Finder:
    """Finds the module of FAULT_AT, and changes it when it is imported."""

    def __init__(self, name: str, place: str) -> None:
        self.name, self.place = name, place

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if not self.place:
                send()
            execute(module)
            if self.place:
                watch(module, self.place)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if VARIABLES.get("FAULT_IN") in sys.orig_argv:
    module_name, _, place = VARIABLES["FAULT_AT"].partition(":")
    if module_name in sys.modules:
        watch(sys.modules[module_name], place)
    else:
        sys.meta_path.insert(0, Finder(module_name, place))  # type: ignore[arg-type]
