"""A data set is a row: its licence, where it comes from, who is a patient, what its labels go by."""

import re

import pytest

from pneumonia import UserError, files
from pneumonia.data import own, sources


@pytest.mark.parametrize("name", sources.DATASETS)
def test_every_source_states_its_licence_where_it_comes_from_and_who_a_patient_is(name: str) -> None:
    row = sources.source(name)
    assert all((row.title, row.licence, row.citation, row.patients))
    assert re.fullmatch("[a-z_0-9]+", name)
    assert row.url == "" or row.url.startswith("https://")
    assert row.checksum == "" or (row.url and re.fullmatch("md5:[0-9a-f]{32}", row.checksum))


def test_only_the_phantom_is_synthetic_and_only_ones_own_images_have_no_published_count() -> None:
    assert [name for name, row in sources.DATASETS.items() if row.synthetic] == ["phantom"]
    assert [name for name, row in sources.DATASETS.items() if not row.n_images] == ["phantom", "folder"]


def test_a_source_says_what_its_labels_go_by_and_whether_everybody_can_see_its_test_split() -> None:
    assert all(row.reference_standard for row in sources.DATASETS.values())
    # All of them are the Kermany set, whose test split is that of MedMNIST too.
    public = {"chest_xray", "pneumoniamnist", "pneumoniamnist_64", "pneumoniamnist_128", "pneumoniamnist_224"}
    assert {name for name, row in sources.DATASETS.items() if row.public_test} == public
    assert all("graded by two expert physicians" in sources.DATASETS[name].reference_standard for name in public)


def test_published_arrays_of_every_size_have_checksums_of_their_own() -> None:
    rows = {name: row for name, row in sources.DATASETS.items() if name.startswith("pneumoniamnist")}
    assert list(rows) == ["pneumoniamnist", *(f"pneumoniamnist_{side}" for side in (64, 128, 224))]
    assert len({row.checksum for row in rows.values()}) == len({row.url for row in rows.values()}) == 4
    assert all(f"/{name}.npz" in row.url and row.checksum.startswith("md5:") for name, row in rows.items())
    assert files.MAX_FILE_BYTES > 4708 * 224 * 224 + 1000  # the largest array is read as a member of an archive


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=rf"^data = 'xrays' is unknown; known: {', '.join(sources.DATASETS)}$"):
        sources.source("xrays")


@pytest.mark.parametrize(
    ("data", "url", "expected"),
    [
        ("kermany", "x.zip", "data = 'kermany' is unknown; known: phantom, "),
        ("phantom", None, "data = phantom is synthetic; an external test needs films of patients"),
        ("folder", None, "data = folder needs a url, the place of the images"),
    ],
)
def test_an_external_source_that_cannot_be_tested_is_refused(data: str, url: str | None, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        sources.require_external("clinic", data, url)
    assert str(caught.value).startswith(f"external source clinic: {expected}")
    sources.require_external("clinic", "chest_xray", None)  # it has a published address


def test_a_detector_needs_a_source_with_boxes() -> None:
    line = r"^model = detector needs boxes, and data = chest_xray has none; take data: phantom, folder, rsna \(docs/det"
    with pytest.raises(UserError, match=line):
        sources.require_boxes("chest_xray")
    with pytest.raises(
        UserError, match=r"data = folder has none; put boxes\.csv or one COCO file into the folder of all images \("
    ):
        sources.require_boxes("folder", 0)
    for data in ("phantom", "rsna", "folder"):
        sources.require_boxes(data)
        sources.require_boxes(data, 1)


def test_the_layout_of_own_images_names_the_table_of_labels() -> None:
    assert f"as {own.LABELS} above the images" in sources.source("folder").layout
