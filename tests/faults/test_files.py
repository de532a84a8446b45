"""Faults of the disk under outs, caches, the image store and what is kept to resume: the same results, or one line."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumonia import UserError, preprocess, validate, workspace
from pneumonia.data import tables
from pneumonia.images.geometry import Preparation
from tests.conftest import files_under, noise
from tests.faults import inject

pytestmark = pytest.mark.fault(kind="files")

FULL, BROKEN, DENIED, QUOTA = errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT
TABLE = pd.DataFrame({"image_id": [f"image{n}" for n in range(2000)], "label": 1})
WRITERS: dict[str, Callable[[Path], None]] = {
    "table": lambda path: tables.write_table(TABLE, path),
    "report": lambda path: tables.write_json({"values": list(range(2000))}, path),
}
WRITING = {
    "a full disk at once": {"on": "write", "error": FULL},
    "a full disk after 100 bytes": {"on": "write", "error": FULL, "at": 100},
    "a quota that is used up": {"on": "write", "error": QUOTA},
    "an error of the disk": {"on": "write", "error": BROKEN},
    "a folder that cannot be written": {"on": "open", "error": DENIED},
    "an error when the file gets its name": {"on": "replace", "error": BROKEN},
}


@pytest.mark.fault(before="as now", now="an error of one line, the old file as it was, no partial file")
@pytest.mark.parametrize(
    ("writer", "fault"),
    [
        pytest.param(writer, fault, marks=pytest.mark.fault(where=f"a {writer} that is written", injected=fault))
        for writer in WRITERS
        for fault in WRITING
    ],
)
def test_an_out_is_written_whole_or_not_at_all(tmp_path: Path, writer: str, fault: str) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with inject.fails("*/out" if fault.endswith("name") else "*/.partial-out", **WRITING[fault]):
        with pytest.raises(OSError, match=r"^\[Errno \d+\] [^\n]+$"):
            WRITERS[writer](path)
        assert files_under(tmp_path) == {"out": b"old"}
        WRITERS[writer](path)  # the second time all is well
    assert path.read_bytes() != b"old"
    assert list(tmp_path.iterdir()) == [path]


HOW = Preparation(size=24)


@pytest.fixture
def splits(write_manifest: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """12 images in 5 chunks."""
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_CHUNK", 3)
    manifest = write_manifest({f"{number:02}": noise(30, 30, seed=number) for number in range(12)})
    return manifest.assign(split=["train"] * 6 + ["val"] * 3 + ["test"] * 3, weight=1.0, repeats=1)


def prepare(splits: pd.DataFrame, folder: Path) -> int:
    resume = folder / "resume"
    resume.mkdir(parents=True, exist_ok=True)
    return preprocess.write_store(
        splits, folder / "data" / "images.zarr", HOW, workers=1, attributes={"digest": "d"}, resume=resume
    )


STORE_FAULTS: dict[str, Callable[[], Any]] = {
    "a full disk in a chunk": lambda: inject.fails("*/train/images/c/1/0/0*", on="write", error=FULL),
    "an error of the disk in a chunk": lambda: inject.fails("*/val/images/c/0/0/0*", on="write", error=BROKEN),
    "an error when a chunk gets its name": lambda: inject.fails("*/test/images/c/0/0/0", on="replace"),
    "a full disk in the labels": lambda: inject.fails("*/train/labels/c/0*", on="write", error=FULL),
    "a full disk in the journal": lambda: inject.fails("*/resume/finished/val-0", on="write", error=FULL),
    "an error when the store gets its name": lambda: inject.fails("*/data/images.zarr", on="replace"),
    "an image that is read with an error": lambda: inject.fails("*/07.png", on="read"),
    "an image that ends early": lambda: inject.ends_early("*/07.png", at=100),
    "an image with a changed byte": lambda: inject.changes("*/07.png", at=60),
    "an image that cannot be opened": lambda: inject.fails("*/07.png", on="open", error=DENIED),
}


@pytest.mark.slow
@pytest.mark.fault(now="one line and no out; the next call ends with the same bytes")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            name,
            marks=pytest.mark.fault(
                where="preprocess", injected=name, before="did not exist" if "journal" in name else "as now"
            ),
        )
        for name in STORE_FAULTS
    ],
)
def test_the_image_store_is_the_same_after_a_fault(splits: pd.DataFrame, tmp_path: Path, fault: str) -> None:
    prepare(splits, tmp_path / "whole")
    expected = files_under(tmp_path / "whole" / "data")
    with STORE_FAULTS[fault](), pytest.raises((OSError, UserError)) as error:
        prepare(splits, tmp_path / "faulty")
    assert "\n" not in str(error.value)
    assert files_under(tmp_path / "faulty" / "data") == {}
    prepare(splits, tmp_path / "faulty")
    assert files_under(tmp_path / "faulty" / "data") == expected
    assert files_under(tmp_path / "faulty" / "resume") == {}


@pytest.mark.slow
@pytest.mark.fault(where="preprocess", injected="a slow disk", before="as now", now="the same bytes, later")
def test_a_slow_disk_changes_no_pixel(splits: pd.DataFrame, tmp_path: Path) -> None:
    prepare(splits, tmp_path / "whole")
    with (
        inject.waits("*/07.png", on="read", seconds=0.02),
        inject.waits("*/c/0/0/0*", on="write", seconds=0.02, times=None),
    ):
        prepare(splits, tmp_path / "slow")
    assert files_under(tmp_path / "slow" / "data") == files_under(tmp_path / "whole" / "data")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def clear(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = {"lost its end": cut, "one changed bit": flip, "became empty": clear, "was deleted": Path.unlink}
JOURNAL = {
    "a finished chunk": ("resume/images.zarr/train/images/c/0/0/0", "it went into the store without a word", 9),
    "the labels": ("resume/images.zarr/train/labels/c/0", "they went into the store without a word", 12),
    "the metadata": ("resume/images.zarr/train/images/zarr.json", "a traceback", 12),
    "the list of finished chunks": ("resume/finished/train-0", "did not exist", 9),
}


CHEAP = (("a finished chunk", "one changed bit"), ("the labels", "lost its end"))


@pytest.mark.fault(now="what is damaged is made again: the same bytes")
@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        pytest.param(
            *(kind, damage),
            marks=[
                pytest.mark.fault(
                    where=f"to resume preprocess: {kind}",
                    injected=damage,
                    before="as now" if (kind, damage) == ("a finished chunk", "was deleted") else before,
                ),
                *([] if (kind, damage) in CHEAP else [pytest.mark.slow]),
            ],
        )
        for kind, (_, before, _) in JOURNAL.items()
        for damage in DAMAGE
    ],
)
def test_a_damaged_part_of_a_stopped_preprocess_is_made_again(
    splits: pd.DataFrame, tmp_path: Path, kind: str, damage: str
) -> None:
    prepare(splits, tmp_path / "whole")
    with inject.fails("*/val/images/c/0/0/0*", on="write"), pytest.raises(OSError, match="Input/output"):
        prepare(splits, tmp_path / "stopped")
    name, _, n_again = JOURNAL[kind]
    DAMAGE[damage](tmp_path / "stopped" / name)
    assert prepare(splits, tmp_path / "stopped") == n_again
    assert files_under(tmp_path / "stopped" / "data") == files_under(tmp_path / "whole" / "data")


@pytest.fixture
def manifest(write_manifest: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setattr(validate, "_CHUNK", 3)
    images = {f"{number}": noise(80, 90, seed=number) for number in range(6)}
    return write_manifest(images, labels={"0": 0, "1": 0})


def measure(manifest: pd.DataFrame, resume: Path) -> pd.DataFrame:
    return validate.measure(manifest, min_side=64, min_std=4.0, workers=1, resume=resume)


def wider(path: Path) -> None:
    assert path.read_text().count(" 90") == 3
    path.write_text(path.read_text().replace(" 90", " 91"))


MEASURES = DAMAGE | {"one changed bit": wider}


@pytest.mark.fault(where="to resume validate: measures of a chunk", now="the chunk is measured again: the same table")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(name, marks=pytest.mark.fault(injected=name, before=before))
        for name, before in zip(
            MEASURES, ("a traceback", "silently another number", "a traceback", "as now"), strict=True
        )
    ],
)
def test_damaged_measures_of_a_stopped_validate_are_made_again(
    manifest: pd.DataFrame, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = tmp_path / "resume"
    resume.mkdir()
    expected = measure(manifest, resume)
    MEASURES[damage](resume / "1.json")
    pd.testing.assert_frame_equal(measure(manifest, resume), expected, check_exact=True)
    assert json.loads((resume / "1.json").read_text())["rows"]


@pytest.mark.slow
@pytest.mark.fault(where="validate", before="as now", now="one line that names the file, no row of a bad image")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=pytest.mark.fault(injected=name))
        for name in STORE_FAULTS
        if name.startswith("an image")
    ],
)
def test_a_disk_with_errors_puts_no_image_into_quarantine(manifest: pd.DataFrame, tmp_path: Path, fault: str) -> None:
    shutil.copyfile(manifest.loc[5, "uri"], tmp_path / "07.png")
    manifest.loc[5, "uri"] = str(tmp_path / "07.png")
    with STORE_FAULTS[fault](), pytest.raises(UserError, match=r"07\.png: [^\n]*again") as error:
        measure(manifest, tmp_path)
    assert "\n" not in str(error.value)
    assert measure(manifest, tmp_path)["valid"].all()


NO_REMEDY = "an error of HDF5, without the remedy"


class Network:
    """A network that is nothing but an array."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights

    def save_weights(self, path: str) -> None:
        Path(path).write_bytes(np.array(self.weights, np.float64).tobytes())

    def load_weights(self, path: str) -> None:
        self.weights = np.frombuffer(Path(path).read_bytes()).tolist()


@pytest.mark.fault(where="to resume train: weights of the best epoch", now="one line with the remedy")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(name, marks=pytest.mark.fault(injected=name, before=before))
        for name, before in zip(DAMAGE, (NO_REMEDY, "silently other weights", NO_REMEDY, NO_REMEDY), strict=True)
    ],
)
def test_damaged_weights_are_never_loaded(tmp_path: Path, damage: str) -> None:
    from pneumonia.training import callbacks

    path = tmp_path / "all.weights.h5"
    callbacks.save_weights(Network([1, 2, 3]), path)
    loaded = Network([0])
    callbacks.load_weights(loaded, path)
    assert loaded.weights == [1, 2, 3]
    DAMAGE[damage](path)
    with pytest.raises(UserError, match=r"weights\.h5: damaged since it was written; remove .* and run again") as error:
        callbacks.load_weights(loaded, path)
    assert "\n" not in str(error.value)
    assert loaded.weights == [1, 2, 3]


@pytest.mark.fault(
    where="to resume train: the state after an epoch", before="a traceback", now="one line with the remedy"
)
@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=pytest.mark.fault(injected=name)) for name in (*DAMAGE,)[:3]]
)
def test_a_damaged_state_is_refused(tmp_path: Path, damage: str) -> None:
    from pneumonia.training import callbacks

    path = tmp_path / "state.npz"
    np.savez(path, noise(300, 300), history=np.array(json.dumps([{"epoch": 1}])))
    history, (array,) = callbacks.read_backup(tmp_path)
    assert (history, array.shape) == ([{"epoch": 1}], (300, 300))
    DAMAGE[damage](path)
    with pytest.raises(UserError, match=r"state\.npz: damaged since it was written; remove .* and run again") as error:
        callbacks.read_backup(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.fault(
    where="a folder that survives a crash",
    injected="a full disk",
    before="as now",
    now="the folder and what is in it stay for the next call",
)
def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def stop() -> None:
        with workspace.resumable("fetch", "a") as folder:
            (folder / "part").write_text("half")
            (folder / "next").write_text("x")

    with inject.fails("*/next", on="write", error=FULL), pytest.raises(OSError, match="No space"):
        stop()
    with workspace.resumable("fetch", "a") as folder:
        assert (folder / "part").read_text() == "half"
