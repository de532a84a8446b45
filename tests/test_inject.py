"""The faults that `tests/faults` injects are those that they say, and only where they should be."""

import errno
import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.faults import inject

CONTENT = bytes(range(256)) * 8
READERS = {
    "read_bytes": lambda path: path.read_bytes(),
    "open": lambda path: open(path, "rb").read(),  # noqa: SIM115 - warnings of open files are errors
    "unbuffered": lambda path: open(path, "rb", buffering=0).readall(),  # noqa: SIM115
    "copied": lambda path: Path(shutil.copyfile(path, path.with_suffix(".copy"))).read_bytes(),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    return tmp_path / "file.bin"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("reader", READERS)
def test_what_is_read_has_the_fault(path: Path, reader: str) -> None:
    read = READERS[reader]
    with inject.ends_early("*/file.bin", at=1000):
        assert read(path) == CONTENT[:1000]
    with inject.changes("*/file.bin", at=1000) as hits:
        assert read(path) == CONTENT[:1000] + bytes([CONTENT[1000] ^ 255]) + CONTENT[1001:]
    assert hits == [str(path)]
    with inject.fails("*/file.bin", on="read"), pytest.raises(OSError, match="Input/output error"):
        read(path)
    assert read(path) == CONTENT


def test_what_is_written_has_the_fault(path: Path) -> None:
    with inject.ends_early("*/file.bin", on="write", at=3):
        path.write_bytes(CONTENT)
    assert path.read_bytes() == CONTENT[:3]
    with inject.changes("*/file.bin", on="write", at=0):
        path.write_text("abc")
    assert path.read_bytes() == bytes([ord("a") ^ 255]) + b"bc"
    with inject.fails("*/file.bin", on="write", error=errno.ENOSPC, at=2), pytest.raises(OSError) as full:  # noqa: PT011
        path.write_bytes(CONTENT)
    assert full.value.errno == errno.ENOSPC
    table = pd.DataFrame({"a": np.arange(1000)})
    with inject.fails("*/file.bin", on="write", error=errno.ENOSPC), pytest.raises(OSError, match="No space"):
        table.to_csv(path)


def test_once_is_once_and_always_is_always(path: Path) -> None:
    with inject.fails("*/file.bin", on="open", error=errno.EACCES, times=1):
        with pytest.raises(PermissionError):
            path.read_bytes()
        assert path.read_bytes() == CONTENT
    with inject.fails("*/file.bin", on="read", times=None) as hits:
        for _ in range(3):
            with pytest.raises(OSError, match=r"file\.bin"):
                path.read_bytes()
    assert len(hits) == 3


def test_other_files_and_other_operations_are_as_they_were(path: Path) -> None:
    other = path.with_name("other.bin")
    with inject.fails("*/file.bin", on="read", times=None):
        other.write_bytes(CONTENT)
        path.write_bytes(b"new")
        assert other.read_bytes() == CONTENT
        with pytest.raises(OSError, match="Input"):
            path.read_text()
    assert path.read_bytes() == b"new"
    assert open is io.open
    assert os.replace.__module__ == "posix"


def test_a_rename_fails_where_its_new_path_matches(path: Path) -> None:
    new = path.with_name("new.bin")
    for rename in (path.replace, path.rename, lambda target: shutil.move(path, target)):
        with inject.fails("*/new.bin", on="replace", error=errno.EXDEV, times=1):
            if getattr(rename, "__name__", "") == "<lambda>":  # it copies instead
                rename(new)
            else:
                with pytest.raises(OSError, match="cross-device"):
                    rename(new)
    assert new.read_bytes() == CONTENT


def test_a_delay_takes_time_and_changes_nothing(path: Path) -> None:
    start = time.monotonic()
    with inject.waits("*/file.bin", on="read", seconds=0.02):
        assert path.read_bytes() == CONTENT
    assert time.monotonic() - start >= 0.02


def test_a_fault_that_nothing_meets_is_an_error() -> None:
    with pytest.raises(AssertionError, match="nothing met the fault"), inject.fails("*/none", on="read"):
        pass
