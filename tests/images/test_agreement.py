"""What we show of public DICOM files is what another program shows: DCMTK, where it is installed."""

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from pneumonia import UserError
from pneumonia.images import decode

# Not with get_testdata_files(), which downloads more.
FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))


def shown_by_dcmtk(path: Path, folder: Path) -> np.ndarray | None:
    """The first window or VOI table as DCMTK shows it; None if it cannot read the file."""
    dataset = pydicom.dcmread(path, force=True)
    window = ["+Wi", "1"] if "WindowWidth" in dataset else ["+Wl", "1"] if "VOILUTSequence" in dataset else ["-W"]
    compressed_by = {"1.2.840.10008.1.2.5": "dcmdrle", "1.2.840.10008.1.2.4.8": "dcmdjpls"}
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    program = next((name for start, name in compressed_by.items() if syntax.startswith(start)), "dcmdjpeg")
    raw, shown = folder / "raw.dcm", folder / "shown.pnm"
    for old in (raw, shown):
        old.unlink(missing_ok=True)
    subprocess.run([program, path, raw], capture_output=True)
    source = raw if raw.exists() else path
    subprocess.run(["dcm2pnm", "--write-raw-pnm", "-O", *window, source, shown], capture_output=True)
    return np.asarray(Image.open(shown).convert("L")).astype(int) if shown.exists() else None


@pytest.mark.slow
def test_public_files_are_shown_as_dcmtk_shows_them(tmp_path: Path) -> None:
    if not shutil.which("dcm2pnm"):
        pytest.skip("needs DCMTK, the Debian package dcmtk")
    compared = []
    for path in FILES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of these files are malformed on purpose
            try:
                ours = decode.decode(path.read_bytes())
            except UserError:
                continue
            header = pydicom.dcmread(path, force=True)
            stretched = header.BitsStored != 8 and "WindowWidth" not in header and "VOILUTSequence" not in header
            if stretched or (reference := shown_by_dcmtk(path, tmp_path)) is None:
                continue
        assert np.abs(reference - ours).max() <= 2, path.name
        compared.append(path.name)
    assert len(compared) >= 25
