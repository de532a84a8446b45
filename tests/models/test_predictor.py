"""The answer for an image file is the reported one, a bad file is an answer with its error."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pneumonia import UserError
from pneumonia.data import phantom
from pneumonia.images import geometry, lungs
from pneumonia.metrics import calibration
from pneumonia.models.predictor import BATCH, DEFAULTS, LUNGS, Predictor, calibrate, facts_digest
from tests import predictors
from tests.conftest import png

GRAY = np.full((40, 40), 100, np.uint8)
FILM = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return predictors.write(tmp_path / "predictor")


def test_boxes_of_a_detector_lie_in_the_image_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A film of 50 x 100 pixels lies in the middle of its square, between black bars."""
    one = Predictor(folder)
    film = one.read(np.full((50, 100), 100, np.uint8))
    assert [len(boxes) for boxes, _ in one.boxes([film])] == [0], "no detector"
    in_bar = [0.2, 0.0, 0.3, 0.2]
    cells = np.array([[[0.2, 0.2, 0.3, 0.2], [0.6, 0.4, 0.3, 0.3], [0.0, 0.5, 0.1, 0.1], in_bar]], np.float32)
    outputs = {"boxes": cells, "box_scores": np.array([[0.7, 0.9, 0.3, 0.8]], np.float32)}
    run, calls = one._run, []

    def fake(names: list[str], prepared: np.ndarray) -> list[np.ndarray]:
        calls.append(names)
        return [outputs[name] if name in outputs else run([name], prepared)[0] for name in names]

    monkeypatch.setattr(one, "finds_boxes", True)
    monkeypatch.setattr(one, "_run", fake)
    monkeypatch.setitem(one.facts, "boxes", {"threshold": 0.5})
    ((boxes, scores),) = one.boxes([film])
    np.testing.assert_allclose(boxes, [[60, 15, 30, 30], [20, 0, 30, 15]], atol=1e-4)
    assert scores.tolist() == pytest.approx([0.9, 0.7])
    assert one.answers_for([film])[0].boxes == ((60, 15, 30, 30, 0.9), (20, 0, 30, 15, 0.7))
    assert one.predict([np.full((50, 100), 100, np.uint8)])["boxes"].tolist() == ["60 15 30 30 0.90; 20 0 30 15 0.70"]
    assert calls[1] == ["probability", "boxes", "box_scores"], "one run of the network for all of an answer"


def test_score_probability_and_label_of_a_known_network(folder: Path) -> None:
    dark, bright = Predictor(folder).scores([np.full((40, 40), level, np.uint8) for level in (100, 160)])
    assert dark.score == pytest.approx(predictors.expected_score(100), abs=1e-6)
    assert bright.score == pytest.approx(predictors.expected_score(160), abs=1e-6)
    assert (dark.label, bright.label) == ("normal", "pneumonia")
    assert (dark.image, bright.image) == ("#1", "#2")
    assert (dark.error, dark.unusual, dark.operating_point, dark.threshold) == ("", "", "youden", 0.73105858)


def test_probability_is_the_calibration_of_the_workflow() -> None:
    platt = calibration.Platt(slope=0.66, bias=-1.13)
    scores = [0.0, 1e-9, 1e-4, 0.3, 0.5, 0.999, 1.0]
    expected = calibration.apply(platt, scores).round(7).tolist()
    assert [calibrate(score, *platt) for score in scores] == pytest.approx(expected, abs=1.1e-7)


def test_the_operating_point_decides(folder: Path) -> None:
    (youden,) = Predictor(folder).scores([GRAY])
    (sensitive,) = Predictor(folder, operating_point="target_sensitivity").scores([GRAY])
    assert youden.score == sensitive.score
    assert (youden.label, sensitive.label) == ("normal", "pneumonia")
    assert sensitive.probability >= sensitive.threshold == 0.57611688
    with pytest.raises(UserError, match="'best' is unknown; known: youden, target_sensitivity"):
        Predictor(folder, operating_point="best")


def test_pixels_bytes_path_and_url_of_one_image_have_one_score(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    path.write_bytes(png(FILM))
    answers = list(Predictor(folder).scores([FILM, png(FILM), path, str(path), f"file://{path}", FILM[..., None]]))
    assert len({answer.score for answer in answers}) == 1
    assert [answer.image for answer in answers] == ["#1", "#2", str(path), str(path), f"file://{path}", "#6"]


def test_the_network_gets_the_pixels_that_preprocess_makes(folder: Path) -> None:
    one = Predictor(folder)
    expected = geometry.prepare(FILM, geometry.Preparation(**predictors.FACTS["preparation"]))
    assert np.array_equal(one.prepare(png(FILM)), expected)
    assert one.answers(expected[None])[0] == next(one.scores([FILM]))._replace(image="")


@pytest.fixture(scope="module")
def chest() -> Any:
    return phantom.render(phantom.plan(24, seed=3)[0])[0].image


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """A predictor whose films are prepared around their lungs."""
    settings = {"size": 32, "aspect": "lungs", "clip_limit": 0.0, "margin": 0.1, "segmenter": geometry.SEGMENTER}
    folder = predictors.write(tmp_path / "around", preparation=settings)
    shutil.copyfile(lungs.FILE, folder / LUNGS)
    return folder


def test_a_film_is_prepared_around_its_lungs_and_one_without_lungs_is_unusual(around: Path, chest: Any) -> None:
    predictor = Predictor(around)
    found = lungs.find(chest)
    assert found is not None
    film = predictor.read(png(chest))
    np.testing.assert_array_equal(film.prepared, geometry.prepare(chest, predictor.preparation, found.box))
    assert film.lungs is not None
    assert film.lungs.box == found.box
    assert film.part.width == pytest.approx(1.2 * found.box.width, abs=1)
    with_lungs, without = predictor.scores([chest, GRAY])
    assert with_lungs.score == pytest.approx(predictors.expected_score(film.prepared.mean()), abs=1e-6)
    assert with_lungs.unusual == ""
    assert without.unusual == "shows no two lungs, around which this model prepares films (no lungs)"
    assert without.score == pytest.approx(predictors.expected_score(100), abs=1e-6)
    assert without.label


@pytest.mark.parametrize("picture", ["half", "side", "two", "page"])
def test_a_picture_without_two_lungs_is_prepared_as_a_whole_and_unusual(around: Path, chest: Any, picture: str) -> None:
    image = {
        "half": chest[:, : chest.shape[1] // 2],
        "side": np.rot90(chest).copy(),
        "two": np.vstack([chest, chest]),
        "page": np.pad(chest[::4, ::4], ((10, 200), (10, 200)), constant_values=240),
    }[picture]
    one = Predictor(around)
    film = one.read(image)
    assert film.lungs is None
    assert (film.part.width, film.part.height) == image.shape[::-1]
    np.testing.assert_array_equal(film.prepared, geometry.prepare(image, one.preparation))
    assert one.answers_for([film])[0].unusual.startswith("shows no two lungs, around which this model prepares films (")


def test_no_lungs_and_an_unusual_look_are_both_named(around: Path) -> None:
    facts = json.loads((around / "predictor.json").read_text())
    predictors.write(around, preparation=facts["preparation"], unusual=predictors.usual_gray(limit=0.0))
    (answer,) = Predictor(around).scores([GRAY])
    assert answer.unusual.startswith("shows no two lungs, around which this model prepares films (no lungs); does not")


@pytest.mark.parametrize(("low", "high", "words"), [(0.0, 0.9, ""), (0.6, 0.9, "60% to 90%"), (0.01, 0.02, "1% to 2%")])
def test_lungs_that_take_another_share_of_the_film_than_usual_are_unusual(
    around: Path, chest: Any, low: float, high: float, words: str
) -> None:
    facts = json.loads((around / "predictor.json").read_text())
    usual = predictors.usual_gray(limit=1e9) | {"lungs": {"low": low, "high": high}}
    predictors.write(around, preparation=facts["preparation"], unusual=usual)
    (answer,) = Predictor(around).scores([chest])
    assert bool(answer.unusual) == bool(words)
    assert words in answer.unusual
    assert not words or answer.unusual.startswith("shows lungs on ")


def test_a_predictor_around_the_lungs_without_its_own_segmenter_is_refused(around: Path) -> None:
    (around / LUNGS).write_bytes(lungs.FILE.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"lungs\.onnx: the network that finds lungs is damaged or of another version"):
        Predictor(around)
    (around / LUNGS).unlink()
    with pytest.raises(UserError, match=r"lungs\.onnx: the network that finds lungs cannot be read .*export"):
        Predictor(around)


def test_colour_pixels_are_rgb(folder: Path) -> None:
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    file = cv2.imencode(".png", red[..., ::-1])[1].tobytes()  # OpenCV writes BGR
    of_pixels, of_file = Predictor(folder).scores([red, file])
    assert of_pixels.score == of_file.score


def test_images_are_read_as_answers_are_taken(folder: Path) -> None:
    read = []

    def endless() -> Any:
        while True:
            read.append(1)
            yield GRAY

    answers = Predictor(folder).scores(endless())
    assert [next(answers).label for _ in range(3)] == ["normal"] * 3
    assert len(read) == BATCH


def test_a_bad_image_is_an_answer_with_its_error_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    bad = [b"", b"no image", png(FILM)[:60], tmp_path / "missing.png", np.zeros((0, 4), np.uint8)]
    answers = list(Predictor(folder).scores([GRAY, *bad, GRAY]))
    assert [bool(answer.error) for answer in answers] == [False, *[True] * len(bad), False]
    for answer in answers[1:-1]:
        assert math.isnan(answer.probability)
        assert math.isnan(answer.score)
        assert answer.label == ""
    assert "no such file" in answers[4].error
    assert answers[0].score == answers[-1].score


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4)), "an array of float64, expected uint8 or uint16: give the pixels as the image file has them"),
        (np.zeros((4, 4), np.int32), "an array of int32"),
        (np.zeros((4, 4, 4), np.uint8), r"an array of shape \(4, 4, 4\), expected \(height, width\)"),
        (np.zeros(4, np.uint8), r"an array of shape \(4,\)"),
    ],
)
def test_an_array_of_another_kind_is_refused_with_the_remedy(folder: Path, array: Any, message: str) -> None:
    (answer,) = Predictor(folder).scores([array])
    with pytest.raises(UserError, match=message):
        Predictor(folder).prepare(array)
    assert answer.error


@pytest.mark.parametrize("image", ["film.png", Path("film.png"), b"film", GRAY, np.zeros((4, 5, 3), np.uint8)])
def test_one_image_instead_of_a_list_is_refused_with_the_remedy(folder: Path, image: Any) -> None:
    with pytest.raises(UserError, match=r"one image where a list of images was expected: give \[image\]"):
        next(Predictor(folder).scores(image))


def test_an_array_of_images_is_a_list_of_images(folder: Path) -> None:
    assert len(list(Predictor(folder).scores(np.stack([GRAY, GRAY])))) == 2


def test_the_order_of_bytes_of_an_array_has_no_effect(folder: Path) -> None:
    deep = FILM.astype(np.uint16) * 16
    native, other = Predictor(folder).scores([deep, deep.astype(">u2")])
    assert native.score == other.score


def test_a_score_at_the_threshold_has_a_probability_on_the_side_of_its_label(tmp_path: Path) -> None:
    score = round(predictors.expected_score(100), 7)
    for threshold, label in ((score, "pneumonia"), (score + 1e-7, "normal")):
        calibrated = calibrate(threshold, slope=0.5, bias=1.0)
        for shifted in (calibrated - 3e-8, calibrated + 3e-8):  # rounded to other digits
            points = {"youden": {"threshold": threshold, "threshold_calibrated": shifted}}
            (answer,) = Predictor(predictors.write(tmp_path, operating_points=points)).scores([GRAY])
            assert answer.label == label
            assert (answer.probability >= answer.threshold) == (label == "pneumonia")


def test_a_network_without_a_number_gives_no_answer(tmp_path: Path) -> None:
    folder = predictors.write(tmp_path, predictors.network(infinite=True))
    (answer,) = Predictor(folder).scores([GRAY])
    assert answer.error == "the network returned no number for this image; the predictor is damaged"
    assert answer.label == ""


def test_unlike_images_are_said_to_be_unusual_and_still_answered(tmp_path: Path) -> None:
    one = Predictor(predictors.write(tmp_path, unusual=predictors.usual_gray(limit=50)))
    usual, unusual = one.scores([np.full((40, 40), level, np.uint8) for level in (130, 250)])
    assert usual.unusual == ""
    assert unusual.unusual.startswith("does not look like the chest X-rays this model learnt from (distance ")
    assert unusual.label == "pneumonia"


def test_every_answer_names_model_version_and_data(folder: Path) -> None:
    table = Predictor(folder, version="3").predict([GRAY, b"bad"])
    assert list(table) == [
        *("image", "probability", "label", "threshold", "operating_point", "score", "unusual", "error", "boxes"),
        *("model", "version", "data", "caution"),
    ]
    assert set(table["version"]) == {"3"}
    assert set(table["data"]) == {"chest_xray"}
    assert set(table["caution"]) == {DEFAULTS["caution"]}
    assert set(table["model"]) == {Predictor(folder).digest[:12]}


def test_synthetic_data_are_named_in_every_answer(tmp_path: Path) -> None:
    one = Predictor(predictors.write(tmp_path, synthetic=True, data="phantom"))
    assert one.origin["data"] == "phantom (synthetic)"


# --- the folder ---


def test_a_folder_of_the_first_schema_is_read_by_later_code(repo: Path) -> None:
    """Written once by the first version of `export`; it stays as it is."""
    film = np.linspace(0, 255, 60 * 50).reshape(60, 50).astype(np.uint8)
    (answer,) = Predictor(repo / "tests" / "golden" / "predictor_1_0").scores([film])
    assert (answer.score, answer.probability) == pytest.approx((0.4709419, 0.7194668), abs=1e-6)
    assert (answer.label, answer.threshold) == ("normal", 0.73105858)
    assert "distance 1520, at most 9 is usual" in answer.unusual


def test_a_key_that_is_missing_has_its_default(folder: Path) -> None:
    assert Predictor(folder).facts["labels"] == ["normal", "pneumonia"]


def test_a_later_minor_version_is_read_with_keys_that_are_not_known(tmp_path: Path) -> None:
    one = Predictor(predictors.write(tmp_path, schema="1.7", prevalence=0.2))
    assert next(one.scores([GRAY])).label == "normal"


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "has no predictor.json: it is no predi"),
    "no network": (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read"),
    "another network": (
        lambda folder: (folder / "model.onnx").write_bytes(b"x"),
        "is not the file that predictor.json",
    ),
    "no JSON": (lambda folder: (folder / "predictor.json").write_text("{"), "predictor.json is damaged"),
    "a list": (lambda folder: (folder / "predictor.json").write_text("[]"), "predictor.json is damaged"),
    "another major version": (lambda folder: predictors.write(folder, schema="2.0"), "has schema 2.0, this version of"),
    "no preparation": (lambda folder: predictors.write(folder, preparation=None), "lacks preparation"),
    "an unknown preparation": (
        lambda folder: predictors.write(folder, preparation={"size": 32, "lungs": True}),
        "prepared in a way that this version of pneumonia does not know",
    ),
    "an unknown way of preparation": (
        lambda folder: predictors.write(folder, preparation={"size": 32, "aspect": "spiral"}),
        r"prepared in a way that .* does not know \(aspect spiral\)",
    ),
    "no calibration": (lambda folder: predictors.write(folder, calibration={}), "predictor.json is damaged"),
    "no threshold": (
        lambda folder: predictors.write(folder, operating_points={"youden": {}}),
        "predictor.json is damaged",
    ),
    "no size": (lambda folder: predictors.write(folder, preparation={}), "predictor.json is damaged"),
    "no digests": (lambda folder: predictors.write(folder, digests={}), "predictor.json is damaged"),
    "a network that is none": (lambda folder: predictors.write(folder, b"no network"), "cannot be opened"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_predictor_is_refused_in_one_line(folder: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        Predictor(folder)
    assert "\n" not in str(error.value)


def test_an_answer_needs_neither_tensorflow_nor_mlflow_nor_pandas(folder: Path) -> None:
    code = f"""
import sys
from pneumonia.models.predictor import Predictor
import numpy as np
print(next(Predictor({str(folder)!r}).scores([np.full((40, 40), 100, np.uint8)])).label)
print(sorted({{"tensorflow", "keras", "mlflow", "pandas", "sklearn", "matplotlib", "zarr"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["normal", "[]"]


def test_the_digest_changes_with_the_network_and_with_the_facts(tmp_path: Path) -> None:
    first = Predictor(predictors.write(tmp_path / "a")).digest
    assert first == Predictor(predictors.write(tmp_path / "b")).digest
    assert first != Predictor(predictors.write(tmp_path / "c", caution="other")).digest
    assert first != Predictor(predictors.write(tmp_path / "d", predictors.network(infinite=True))).digest


def test_the_digest_of_the_facts_is_that_of_their_values_and_not_of_their_form() -> None:
    facts = predictors.FACTS | {"digests": {"model.onnx": "a"}}
    digest = facts_digest(facts)
    assert digest == facts_digest(
        dict(reversed(facts.items())) | {"digests": {"predictor.json": "b", "model.onnx": "a"}}
    )
    assert digest == facts_digest(json.loads(json.dumps(facts, indent=8)))
    for change in (
        {"caution": ""},
        {"digests": {"model.onnx": "c"}},
        {"calibration": {"slope": 0.5, "bias": 1.0000001}},
    ):
        assert digest != facts_digest(facts | change)


def test_a_server_reads_no_path_that_a_client_names(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    path.write_bytes(png(FILM))
    named, sent = Predictor(folder, only_bytes=True).scores([str(path), path.read_bytes()])
    assert named.error == "the bytes of an image file were expected, not str"
    assert not sent.error
