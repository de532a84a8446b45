"""`pneumonia lungs` writes a mask of the size of each film and a table that says what was found."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pneumonia import cli
from pneumonia.data import phantom
from pneumonia.images import lungs
from tests.conftest import png


@pytest.fixture
def films(in_project: Path) -> Path:
    folder = in_project / "films"
    folder.mkdir()
    (folder / "chest.png").write_bytes(png(phantom.render(phantom.plan(24, seed=3)[0])[0].image))
    (folder / "nothing.png").write_bytes(png(np.full((50, 60), 90, np.uint8)))
    (folder / "damaged.png").write_bytes(png(np.full((50, 60), 90, np.uint8))[:40])
    return folder


def test_masks_and_a_table_are_written_for_films(films: Path, in_project: Path) -> None:
    done = CliRunner().invoke(cli.main, ["lungs", "films", "--output", "masks"])
    assert done.exit_code == 1, "a file could not be read"
    assert "3 images: lungs found in 1, none in 1, without an answer 1" in done.stderr
    rows = {row["image"]: row for row in csv.DictReader((in_project / "masks/lungs.csv").read_text().splitlines())}
    chest, nothing, damaged = (rows[f"films/{name}.png"] for name in ("chest", "nothing", "damaged"))
    assert (nothing["found"], nothing["problem"], nothing["mask"]) == ("no", "no lungs", "")
    assert damaged["found"] == ""
    assert damaged["error"]
    mask = np.asarray(Image.open(in_project / "masks" / chest["mask"]))
    image = np.asarray(Image.open(films / "chest.png"))
    expected = lungs.find(image)
    assert expected is not None
    np.testing.assert_array_equal(mask, 255 * expected.mask(*image.shape).astype(np.uint8))
    assert float(chest["share"]) == pytest.approx(expected.share, abs=1e-4)
    assert float(chest["width"]) == pytest.approx(expected.box.width, abs=0.06)
    assert sorted(path.name for path in (in_project / "masks").iterdir()) == sorted(["lungs.csv", chest["mask"]])


def test_without_output_the_table_is_printed_and_a_mask_of_an_earlier_run_goes_with_its_lungs(
    films: Path, in_project: Path
) -> None:
    printed = CliRunner().invoke(cli.main, ["lungs", "films/chest.png"])
    assert printed.exit_code == 0
    (row,) = csv.DictReader(printed.stdout.splitlines())
    assert (row["found"], row["mask"]) == ("yes", "")
    CliRunner().invoke(cli.main, ["lungs", "films/chest.png", "--output", "masks"])
    assert len(list((in_project / "masks").glob("*.png"))) == 1
    (films / "chest.png").write_bytes((films / "nothing.png").read_bytes())
    CliRunner().invoke(cli.main, ["lungs", "films/chest.png", "--output", "masks"])
    assert not list((in_project / "masks").glob("*.png"))


def test_a_damaged_installation_is_one_line_and_no_table_is_written(
    films: Path, in_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = in_project / "lungs.onnx"
    damaged.write_bytes(lungs.FILE.read_bytes()[:-1])
    monkeypatch.setattr(lungs, "open_segmenter", partial(lungs.open_segmenter, damaged))
    done = CliRunner().invoke(cli.main, ["lungs", "films", "--output", "masks"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ")
    assert "the network that finds lungs is damaged or of another version; install the project again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((in_project / "masks").iterdir())


def test_a_folder_without_images_is_one_line(in_project: Path) -> None:
    (in_project / "empty").mkdir()
    done = CliRunner().invoke(cli.main, ["lungs", "empty"])
    assert done.exit_code == 1
    assert done.stderr == "Error: empty: no images (0 other files)\n"
