"""The data sets, one row of `DATASETS` each: what they are, where they come from, what counts as a patient.

`layouts.READERS` has a function for each of them that lists its images. A new source is one row in both tables.
"""

from __future__ import annotations

from typing import NamedTuple

from pneumonia import UserError


class Source(NamedTuple):
    """A row of `DATASETS`.

    Attributes:
        title: what the images are.
        licence, citation: as stated by the authors.
        patients: the rule for which images belong to one patient.
        reference_standard: how the labels were made, in the words of the source.
        url: published address of the archive; empty where there is none.
        checksum: of the published archive, as stated by its publishers; empty if they state none.
        n_images: in the published set; 0 if there is none.
        side: pixels, of an archive of MedMNIST's arrays; 0 = the archive contains files.
        layout: files that its reader in `layouts` expects, as text for messages.
        public_test: the source has an official, public test split. The authors of this project had looked at it
            before, so that it is not an untouched test set; the model card says so.
        boxes: its findings may have boxes.
        synthetic: no patients; stated wherever its figures are shown.
    """

    title: str
    licence: str
    citation: str
    patients: str
    reference_standard: str
    url: str = ""
    checksum: str = ""
    n_images: int = 0
    side: int = 0
    layout: str = ""
    public_test: bool = False
    boxes: bool = False
    synthetic: bool = False


_KERMANY_STANDARD = (
    '"The diagnoses for the images were then graded by two expert physicians before being cleared for training the AI '
    'system. In order to account for any grading errors, the evaluation set was also checked by a third expert"'
)
"""Quoted from Kermany et al. (2018), doi:10.1016/j.cell.2018.02.010; PneumoniaMNIST has its labels from there."""


def _medmnist(name: str, size: int, md5: str) -> Source:
    return Source(
        title=f"PneumoniaMNIST: the Kermany set cropped to a square and shrunk to {size} pixels",
        licence="CC BY 4.0",
        citation="Yang et al. (2023), MedMNIST v2, doi:10.1038/s41597-022-01721-8",
        patients="not published: each image counts as one patient",
        reference_standard=f"as in the Kermany set: {_KERMANY_STANDARD}",
        url=f"https://zenodo.org/records/10519652/files/{name}.npz?download=1",
        checksum=f"md5:{md5}",
        n_images=5856,
        side=size,
        public_test=True,
    )


DATASETS = {
    "phantom": Source(
        title="synthetic frontal chest radiographs, made here from a small physical model",
        licence="MIT, as this project",
        citation="none: no patients",
        patients="given by the generator of the images",
        reference_standard="not needed: pneumonia is present where the generator drew it",
        boxes=True,
        synthetic=True,
    ),
    "chest_xray": Source(
        title="paediatric chest X-rays of Guangzhou Women and Children's Medical Center",
        licence="CC BY 4.0",
        citation="Kermany, Zhang, Goldbaum (2018), Mendeley Data, doi:10.17632/rscbjbr9sj.2",
        patients="(subtype, number) for pneumonia, (NORMAL2- or not, number) for normals",
        reference_standard=_KERMANY_STANDARD,
        layout="train/NORMAL/IM-0115-0001.jpeg or NORMAL-1000-0001.jpeg, train/PNEUMONIA/person1_bacteria_1.jpeg or "
        "BACTERIA-1000-0001.jpeg, test/…",
        url="https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        n_images=5856,
        public_test=True,
    ),
    "pneumoniamnist": _medmnist("pneumoniamnist", 28, "28209eda62fecd6e6a2d98b1501bb15f"),
    "pneumoniamnist_64": _medmnist("pneumoniamnist_64", 64, "8f4eceb4ccffa70c672198ea285246c6"),
    "pneumoniamnist_128": _medmnist("pneumoniamnist_128", 128, "05b46931834c231683c68f40c47b2971"),
    "pneumoniamnist_224": _medmnist("pneumoniamnist_224", 224, "d6a3c71de1b945ea11211b03746c1fe1"),
    "folder": Source(
        title="images of your own",
        licence="yours",
        citation="yours",
        patients="table, else folder between class and image, else DICOM header, else one per image",
        reference_standard="yours",
        layout="images below folders NORMAL and PNEUMONIA, 0 and 1, or as in fetch.classes; or a table "
        "path,label,patient_id, as labels.csv above the images or as fetch.url",
        boxes=True,
    ),
    "rsna": Source(
        title="frontal chest X-rays of the RSNA Pneumonia Detection Challenge 2018, with boxes",
        licence="terms of the challenge; images of the NIH Clinical Center",
        citation="Shih et al. (2019), Radiology: Artificial Intelligence, doi:10.1148/ryai.2019180041",
        patients="those of NIH ChestX-ray14 if the published mapping is present, else one per image",
        reference_standard="radiologists drew boxes around pulmonary opacities that may represent pneumonia; an image "
        "with a box counts as pneumonia",
        layout="stage_2_train_labels.csv and the DICOM files it names",
        n_images=26_684,
        boxes=True,
    ),
}


def source(data: str) -> Source:
    """The row of `DATASETS`; an unknown name is a `UserError` that lists the known ones."""
    if data not in DATASETS:
        raise UserError(f"data = {data!r} is unknown; known: {', '.join(DATASETS)}")
    return DATASETS[data]


def require_boxes(data: str, n_boxes: int | None = None) -> None:
    """Check that a detector can learn from a data set.

    Args:
        data: a key of `DATASETS`.
        n_boxes: number of its boxes; None = not known yet.

    Raises:
        UserError: it has no boxes.
    """
    if n_boxes == 0 or not source(data).boxes:
        others = ", ".join(name for name, row in DATASETS.items() if row.boxes and name != data)
        own = (
            "put boxes.csv or one COCO file into the folder of all images"
            if data == "folder"
            else f"take data: {others}"
        )
        raise UserError(
            f"model = detector needs boxes, and data = {data} has none; {own} (docs/detector.md), or take another model"
        )


def require_external(name: str, data: str, url: str | None) -> None:
    """Check what can be checked of an item of `external.sources` before anything is downloaded.

    Raises:
        UserError: a source that is unknown, synthetic, or has no place.
    """
    try:
        row = source(data)
    except UserError as error:
        raise UserError(f"external source {name}: {error}") from error
    if row.synthetic:
        raise UserError(f"external source {name}: data = {data} is synthetic; an external test needs films of patients")
    if not (url or row.url):
        raise UserError(
            f"external source {name}: data = {data} needs a url, the place of the images (folder, table or archive; "
            "path or URL)"
        )


SYNTHETIC = "The images are synthetic: the figures say nothing about patients."
"""Beside the figures of such a data set."""


def in_titles(name: str) -> str:
    """A data set in the title of a figure or page, which says whether its images are synthetic.

    >>> in_titles("phantom"), in_titles("chest_xray")
    ('phantom (synthetic)', 'chest_xray')
    """
    return f"{name}{' (synthetic)' if source(name).synthetic else ''}"
