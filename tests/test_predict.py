"""Files, folders, archives and patterns become answers, in their order; an interrupted run goes on."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pneumonia import UserError, predict
from pneumonia.data import phantom
from pneumonia.data.targets import PNEUMONIA, TARGETS
from pneumonia.images import geometry, lungs
from pneumonia.models import predictor
from pneumonia.models.predictor import MAPS, NETWORK, FoundBox, Predictor
from pneumonia.saliency import methods
from tests import predictors
from tests.conftest import noise, png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return predictors.write(tmp_path / "predictor")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three films in folders, a text, a hidden file, and a film without an ending."""
    place = tmp_path / "films"
    for name, level in (("a.png", 100), ("sub/b.png", 160), ("sub/scan", 90)):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((40, 40), level, np.uint8)))
    (place / "notes.txt").write_text("no image")
    (place / ".hidden.png").write_bytes(b"x")
    return place


def names(*paths: Path | str) -> list[str]:
    return [item.name for item in predict.find([str(path) for path in paths])[0]]


def test_a_folder_gives_its_images_by_ending_or_first_bytes_and_counts_the_rest(films: Path) -> None:
    items, n_skipped = predict.find([str(films)])
    assert [item.name for item in items] == [f"{films}/{name}" for name in ("a.png", "sub/b.png", "sub/scan")]
    assert n_skipped == 2
    assert names(f"{films}/") == names(films)


def test_a_file_that_is_named_is_taken_whatever_it_is(films: Path) -> None:
    assert names(films / "notes.txt", films / "missing.png") == [f"{films}/notes.txt", f"{films}/missing.png"]


def test_images_of_an_archive_are_named_by_archive_and_member(films: Path, tmp_path: Path) -> None:
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("a.png", "sub/b.png", "notes.txt"):
            packed.write(films / name, name)
        packed.writestr("__MACOSX/._a.png", b"x")
    items, n_skipped = predict.find([str(archive)])
    assert [item.name for item in items] == [f"{archive}::a.png", f"{archive}::sub/b.png"]
    assert n_skipped == 2
    of_archive, of_folder = (answer(predictors.write(tmp_path / "p"), found) for found in (items, named(films)))
    assert [one.score for one in of_archive] == [one.score for one in of_folder[:2]]


def named(place: Path) -> list[predict.Item]:
    return predict.find([str(place)])[0]


def answer(folder: Path, items: list[predict.Item], **options: Any) -> list[Any]:
    return [one for chunk in predict.answers(predict.Source(folder), items, **options) for one in chunk]


def test_patterns_are_expanded_in_order(films: Path) -> None:
    assert names(films / "sub/*", films / "a.pn?") == [f"{films}/sub/b.png", f"{films}/sub/scan", f"{films}/a.png"]
    assert names(films / "**/*.png") == [f"{films}/a.png", f"{films}/sub/b.png"]
    (item,), _ = predict.find([str(films / "*.dcm")])
    assert item.error == "no file matches this pattern"


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(films: Path) -> None:
    (films / "a[1].png").write_bytes(b"x")
    assert names(films / "a[1].png") == [f"{films}/a[1].png"]


def test_urls_of_files_folders_and_patterns(films: Path) -> None:
    assert names(f"file://{films}/a.png") == [f"file://{films}/a.png"]
    assert names(f"file://{films}/sub") == [f"file://{films}/sub/b.png", f"file://{films}/sub/scan"]
    assert names(f"file://{films}/*.png") == [f"file://{films}/a.png"]


def test_a_name_with_a_control_character_is_answered_on_one_line(folder: Path, films: Path) -> None:
    (films / "sub").rename(films / "su\nb")
    items = named(films)
    answers = answer(folder, items)
    assert not any(one.error for one in answers)
    rows = [predict.row_of(one, {}) for one in answers]
    assert rows[1]["image"] == f"{films}/su\\nb/b.png"


def test_workers_give_the_same_answers_in_the_same_order(folder: Path, films: Path) -> None:
    items = named(films) * 50
    assert answer(folder, items, workers=2) == answer(folder, items)


def test_rows_have_the_columns_of_every_table(folder: Path, films: Path) -> None:
    one = predict.load(folder)
    (row,) = [predict.row_of(prediction, one.origin) for prediction in one.scores([films / "a.png"])]
    assert tuple(row) == predict.COLUMNS == tuple(one.predict([films / "a.png"]))
    text = predict.as_csv([row], header=True)
    assert next(csv.DictReader(io.StringIO(text)))["label"] == "normal"
    assert json.loads(predict.as_json_lines([row], header=True))["probability"] == row["probability"]


def test_an_image_without_an_answer_has_empty_numbers(folder: Path, films: Path) -> None:
    one = predict.load(folder)
    (row,) = [predict.row_of(prediction, one.origin) for prediction in one.scores([films / "notes.txt"])]
    assert row["error"]
    assert row["probability"] is row["score"] is None
    assert predict.in_words(row, PNEUMONIA).startswith("no answer: ")


def test_a_place_that_cannot_be_read_is_a_row_and_the_rest_go_on(folder: Path, films: Path, tmp_path: Path) -> None:
    (films / "dangling").symlink_to("nowhere")
    archive = tmp_path / "cut.zip"
    archive.write_bytes(b"PK\x03\x04 and no more")
    items, _ = predict.find([str(archive), str(films), "file:///films.zip"])
    answers = answer(folder, items)
    errors = {Path(one.image).name: one.error for one in answers if one.error}
    assert set(errors) == {"cut.zip", "dangling", "films.zip"}
    assert "not a complete zip archive" in errors["cut.zip"]
    assert errors["films.zip"] == "a zip archive at a URL is not opened; download it first"
    assert "fetch" not in " ".join(errors.values())
    assert [Path(one.image).name for one in answers if not one.error] == ["a.png", "b.png", "scan"]


def test_no_row_has_a_line_break_or_the_path_of_this_machine_in_its_error(folder: Path, tmp_path: Path) -> None:
    names = [f"{tmp_path}/miss\ning.png", f"{tmp_path}/miss\u2028ing.png", f"{tmp_path}/\udcff.png"]
    one = predict.load(folder)
    rows = [predict.row_of(prediction, one.origin) for prediction in one.scores(names)]
    for row in rows:
        assert row["error"] == "no such file"
    for text in (predict.as_csv(rows, header=False), predict.as_json_lines(rows, header=False)):
        assert len(text.splitlines()) == len(rows)
        text.encode()


# --- a table that is written row by row ---


def run_into(path: Path, folder: Path, items: list[predict.Item], n: int | None = None, **options: Any) -> None:
    """Answer the first `n` of the images that are not in the table yet."""
    one = predict.load(folder, **options)
    table = predict.Table(path, one.origin, one.operating_point, items)
    rest = items[table.n_finished :][:n]
    table.append(
        [predict.row_of(answer, one.origin) for answer in one.scores([i.uri for i in rest], [i.name for i in rest])]
    )


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@pytest.mark.parametrize("cut", [0, 1, 30])
def test_an_interrupted_run_goes_on_after_its_last_complete_row(
    folder: Path, films: Path, tmp_path: Path, ending: str, cut: int
) -> None:
    items = [*named(films), predict.Item("bad", str(films / "notes.txt"))]
    whole, path = tmp_path / f"whole{ending}", tmp_path / f"part{ending}"
    run_into(whole, folder, items)
    run_into(path, folder, items, 2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    run_into(path, folder, items)
    assert path.read_bytes() == whole.read_bytes()
    assert len(whole.read_text().splitlines()) == 4 + (ending == ".csv")
    assert predict.Table(path, predict.load(folder).origin, "youden", items).n_errors == 1


def test_answers_of_another_run_are_not_overwritten(folder: Path, films: Path, tmp_path: Path) -> None:
    items, path = named(films), tmp_path / "answers.csv"
    run_into(path, folder, items, 2)
    before = path.read_bytes()
    for other_folder, other_items, options in (
        (predictors.write(tmp_path / "other", caution="another"), items, {}),
        (folder, items, {"operating_point": "target_sensitivity"}),
        (folder, items[::-1], {}),
        (folder, items[:1], {}),
    ):
        with pytest.raises(UserError, match=r"answers\.csv exists and holds other rows .* from line \d on: .* delete"):
            run_into(path, other_folder, other_items, **options)
    path.write_text("something else\n")
    with pytest.raises(UserError, match="holds other rows"):
        run_into(path, folder, items)
    path.write_bytes(before)
    run_into(path, folder, items)


# --- which model ---


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one network, in a folder without a project."""
    monkeypatch.setattr(predictor, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    figures = {"test_split": "official", "test": {"n": 624, "auc": 0.99, "auc_low": 0.98, "auc_high": 1.0}}
    return predictors.write(tmp_path / "pretrained" / "mobilenet", figures=figures, shipped={"name": "mobilenet"})


def test_a_network_that_ships_is_named_in_each_of_its_answers(package: Path, films: Path) -> None:
    source = predict.resolve("pretrained:mobilenet")
    assert source == predict.Source(package, "pretrained:mobilenet")
    one = predict.load("pretrained:mobilenet")
    assert set(one.predict([films / "a.png"])["version"]) == {"pretrained:mobilenet"}
    assert predict.notes(one) == [
        "answered by pretrained:mobilenet, toy on chest_xray; official test split, n = 624: AUC 0.990 [0.980, 1.000]; "
        "no medical device",
        one.facts["caution"].removesuffix("."),
    ]


def test_a_network_that_ships_stands_in_where_there_is_no_champion_and_no_store_is_made(package: Path) -> None:
    assert predict.stand_in(None) == predict.stand_in("phantom") == "pretrained:mobilenet"
    assert sorted(path.name for path in Path().iterdir()) == ["pretrained"]
    shutil.rmtree(package)
    assert predict.stand_in(None) == predict.stand_in("phantom") == ""


def test_a_model_of_synthetic_films_names_the_network_that_ships(package: Path, folder: Path, tmp_path: Path) -> None:
    one = predict.load(predictors.write(folder, synthetic=True, data="phantom"))
    introduction, advice = predict.notes(one)
    assert introduction == (
        f"answered by predictor {one.digest[:12]}, toy on phantom (synthetic); no test figures; no medical device"
    )
    assert advice == (
        "a network that learnt from films of patients ships with this version: --model pretrained:mobilenet"
    )
    predict.write_page(tmp_path / "page.html", one, [], None)
    assert "A network that learnt from films of patients ships with this" in (tmp_path / "page.html").read_text()
    shutil.rmtree(package)
    assert predict.notes(one) == [introduction]


def test_a_network_that_ships_without_maps_says_so_and_one_with_maps_shows_them(package: Path) -> None:
    assert predict.no_maps(Predictor(package).facts) == "no saliency maps: this network ships without them"
    predictors.write_with_maps(package, shipped={"name": "mobilenet"})
    assert predict.no_maps(Predictor(package).facts) == ""


def test_a_folder_that_does_not_exist_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder .*nowhere does not exist; make it first"):
        predict.Table(tmp_path / "nowhere" / "a.csv", predict.load(folder).origin, "youden", [])
    with pytest.raises(
        UserError, match=r"no such folder; name a folder such as models/predictor, or a registered version"
    ):
        predict.load(tmp_path / "nowhere")


def test_the_name_of_a_network_that_ships_is_not_taken_for_a_folder(package: Path) -> None:
    with pytest.raises(UserError, match=r"^mobilenet: no such folder; .* ships: --model pretrained:mobilenet$"):
        predict.load("mobilenet")


def test_only_known_endings_are_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers are written as \.csv or \.jsonl"):
        predict.Table(tmp_path / "answers.xlsx", predict.load(folder).origin, "youden", [])


# --- words, page and maps ---


def test_words_say_on_which_side_of_the_threshold() -> None:
    row = {"error": "", "unusual": "", "label": "pneumonia", "probability": 0.62, "threshold": 0.57}
    assert (
        predict.in_words(row, PNEUMONIA)
        == "pneumonia: probability of pneumonia 62 %, at or above the threshold of 57 %"
    )
    assert predict.in_words(row | {"unusual": "it does"}, PNEUMONIA).endswith("57 %; unusual: it does")
    near = {"label": "normal", "probability": 0.5704, "threshold": 0.5709}
    assert (
        predict.in_words(row | near, PNEUMONIA)
        == "normal: probability of pneumonia 57.0 %, below the threshold of 57.1 %"
    )


def test_the_page_shows_films_words_and_caution(folder: Path, films: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    items = [*named(films), predict.Item("<b>.png", str(films / "notes.txt"))]
    predict.write_page(page, predict.load(folder), items, None)
    text = page.read_text()
    assert text.count("<img") == 3
    assert "normal: probability of pneumonia" in text
    assert "of 0 test images" not in text
    assert "not an image, expected" in text
    assert "&lt;b&gt;.png" in text
    assert "<b>.png" not in text
    assert "Not a medical device" in text
    assert "://" not in text, "no external request"


def test_maps_need_the_network_of_the_predictor(folder: Path) -> None:
    one = predict.load(folder)
    with pytest.raises(UserError, match=r"needs the Keras network .*model\.keras is missing; put it there"):
        predict.load_network(predict.resolve(folder), one)
    (folder.parent / "model.keras").write_bytes(b"another")
    with pytest.raises(UserError, match=r"model\.keras is another network"):
        predict.load_network(predict.resolve(folder), one)


def test_a_map_is_never_that_of_another_film(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "smoothgrad", lambda network, images, **options: images / 255)
    one = Predictor(predictors.write(tmp_path / "p", saliency={"method": "smoothgrad"}))
    maps, items = tmp_path / "maps", named(films)
    predict.write_maps(maps, None, one, items)
    before = [path.read_bytes() for path in sorted(maps.iterdir())]
    (films / "a.png").write_bytes(png(np.full((40, 40), 20, np.uint8)))
    (films / "sub" / "b.png").write_bytes(b"damaged")
    predict.write_maps(maps, None, one, items)
    after = {path.name: path.read_bytes() for path in sorted(maps.iterdir())}
    assert list(after) == ["00001-a.png", "00003-scan.png"]
    assert after["00001-a.png"] != before[0]
    assert after["00003-scan.png"] == before[2]


def test_maps_come_with_their_verdict(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(methods.METHODS, "hires_cam", lambda network, images, **options: images / 255)
    saliency = {"method": "hires_cam", "verdict": "cannot be told (n = 3)"}
    one = Predictor(predictors.write(tmp_path / "p", saliency=saliency))
    predict.write_maps(tmp_path / "maps", None, one, named(films))
    line = "saliency maps: HiResCAM: cannot be told (n = 3)"
    assert capsys.readouterr().err.count(f"{line}\n") == 1
    one = Predictor(predictors.write(tmp_path / "q", saliency=saliency, synthetic=True))
    predict.write_maps(tmp_path / "maps", None, one, named(films))
    told = f"{line}, measured on synthetic films: it says nothing about maps of real ones\n"
    assert capsys.readouterr().err.count(told) == 1
    predict.write_page(tmp_path / "page.html", one, [], None)
    assert "(n = 3), measured on synthetic films" in " ".join((tmp_path / "page.html").read_text().split())


def test_of_a_film_around_its_lungs_outline_square_and_map_lie_on_the_whole_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that is 1 in the middle of the square is bright in the middle of the lungs' box, and nowhere else."""
    bright = np.zeros((1, 64, 64), np.float32)
    bright[0, 24:40, 24:40] = 1
    monkeypatch.setitem(methods.METHODS, "smoothgrad", lambda network, images, **options: bright)
    film = phantom.render(phantom.plan(24, seed=3)[0])[0].image
    (tmp_path / "film.png").write_bytes(png(film))
    (tmp_path / "gray.png").write_bytes(png(np.full((50, 80), 90, np.uint8)))
    how = {"size": 64, "aspect": "lungs", "clip_limit": 0.0, "segmenter": geometry.SEGMENTER}
    folder = predictors.write(tmp_path / "p", preparation=how, saliency={"method": "smoothgrad"})
    shutil.copyfile(lungs.FILE, folder / "lungs.onnx")
    one = Predictor(folder)
    items, _ = predict.find([str(tmp_path / "film.png"), str(tmp_path / "gray.png")])
    read = one.read(items[0].uri)
    outlined, mapped = predict.outlined(one, read), predict._with_map_on_film(read, bright[0])
    scale = 320 / film.shape[0]
    assert outlined.shape == mapped.shape == (320, round(scale * film.shape[1]), 3)
    x, y, width, height = (scale * side for side in read.part)
    blue = (outlined == predict._BLUE).all(axis=2)
    assert blue[round(y), round(x) + 5 : round(x + width) - 5].all(), "the upper side of the square"
    yellow = np.argwhere((outlined == predict._YELLOW).all(axis=2))
    assert (yellow.min(axis=0) >= (y, x)).all()
    assert (yellow.max(axis=0) <= (y + height, x + width)).all()
    coloured = np.argwhere(np.ptp(mapped.astype(int), axis=2) > 30)
    expected = (y + 0.375 * height, x + 0.375 * width, y + 0.625 * height, x + 0.625 * width)
    assert [*coloured.min(axis=0), *(coloured.max(axis=0) + 1)] == pytest.approx(expected, abs=4)
    predict.write_maps(tmp_path / "maps", None, one, items)
    predict.write_page(tmp_path / "page.html", one, items, tmp_path / "maps")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<img") == 2
    assert "unusual: shows no two lungs" in text


def test_of_a_model_of_whole_films_too_the_outline_is_drawn_and_the_map_leaves_out_the_black_bars(
    folder: Path,
) -> None:
    """The upper half of the square is the upper half of a wide film, and the bars above and below it are not drawn."""
    film = phantom.render(phantom.plan(24, seed=3)[0])[0].image
    one = predict.load(folder)
    assert one.preparation.aspect == "pad"
    read = one.read(film[60:-60])
    outlined = predict.outlined(one, read, width=100, height=300)
    height = round(100 * read.image.shape[0] / read.image.shape[1])
    assert outlined.shape == (height, 100, 3)
    assert (outlined == predict._YELLOW).all(axis=2).any(), "outline of the lungs"
    assert (outlined == predict._BLUE).all(axis=2).sum() == 2 * (100 + height) - 4, "the model saw the whole film"
    upper = np.zeros((predictors.SIZE, predictors.SIZE), np.float32)
    upper[: predictors.SIZE // 2] = 1
    mapped = np.ptp(predict._with_map_on_film(read, upper).astype(int), axis=2).mean(axis=1) > 20
    square = read.square
    middle = round(len(mapped) * (square.y + square.height / 2) / read.image.shape[0])
    assert middle == pytest.approx(len(mapped) / 2, rel=0.1)
    assert mapped[: middle - 10].all()
    assert not mapped[middle + 10 :].any()


def test_boxes_of_a_detector_are_drawn_where_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = predict.load(folder)
    read = one.read(np.full((200, 100), 90, np.uint8))
    monkeypatch.setattr(one, "boxes", lambda films: [(np.array([[20.0, 50, 40, 100]]), np.array([0.8]))])
    picture = predict.outlined(one, read, width=50, height=100)
    drawn = np.argwhere((picture == predict._ORANGE).all(axis=2))
    below = drawn[drawn[:, 0] > 45]  # above it is the score
    assert [drawn[:, 0].min(), *below[:, 1][[0, -1]], drawn[:, 0].max()] == pytest.approx([25, 10, 29, 74], abs=1)
    monkeypatch.setattr(one, "boxes", None)  # the network does not run again where the answer has them
    answer = one.failed("", "")._replace(boxes=(FoundBox(20, 50, 40, 100, 0.8),))
    np.testing.assert_array_equal(predict.outlined(one, read, width=50, height=100, answer=answer), picture)


def test_the_outline_on_a_large_film_needs_no_mask_of_its_size(folder: Path) -> None:
    film = phantom.render(phantom.plan(24, seed=3)[0])[0].image
    one = predict.load(folder)
    read = one.read(cv2.resize(film, (4000, 3000)))
    predict.outlined(one, read)  # opens the network
    tracemalloc.start()
    try:
        picture = predict.outlined(one, read)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (picture == predict._YELLOW).all(axis=2).any()
    assert peak < read.image.nbytes / 2


def test_a_picture_on_the_page_has_bounds_whatever_the_form_of_a_film(folder: Path) -> None:
    one = predict.load(folder)
    for shape in ((1, 3000), (3000, 1), (7, 7)):
        height, width, _ = predict.outlined(one, one.read(noise(*shape))).shape
        assert height <= 320
        assert width <= 640


def test_maps_without_tensorflow_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--saliency needs TensorFlow for this model, and it is not installed"):
        predict.load_network(predict.resolve(folder), predict.load(folder))


def test_maps_of_an_exported_network_need_neither_tensorflow_nor_pandas(films: Path, tmp_path: Path) -> None:
    folder = predictors.write_with_maps(tmp_path / "p")
    code = f"""
import sys
from pathlib import Path
from pneumonia import predict
source = predict.resolve({str(folder)!r})
one = predict.open_predictor(source)
items, _ = predict.find([{str(films)!r}])
predict.write_maps(Path({str(tmp_path / "maps")!r}), predict.load_network(source, one), one, items)
print(sorted({{"tensorflow", "keras", "onnx", "mlflow", "pandas", "scipy", "sklearn", "zarr"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
    assert [path.name for path in sorted((tmp_path / "maps").iterdir())] == [
        "00001-a.png",
        "00002-b.png",
        "00003-scan.png",
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (MAPS, b"x", r"maps\.onnx is not the file that predictor\.json describes"),
        (MAPS, None, r"maps\.onnx cannot be read"),
        (NETWORK, b"x", r"model\.onnx is not the file that predictor\.json describes"),
    ],
)
def test_a_file_for_maps_that_is_damaged_or_missing_is_one_line(
    file: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    folder = predictors.write_with_maps(tmp_path / "p")
    one = predict.load(folder)
    (folder / file).unlink()
    if content:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        predict.load_network(predict.resolve(folder), one)


def test_a_model_whose_methods_all_fail_shows_no_map_and_says_so_in_one_line() -> None:
    facts = {"synthetic": False, "saliency": {"method": "grad_cam", "verdict": "no better than anatomy"}}
    line = "no saliency maps: every method that was measured is excluded (Grad-CAM: no better than anatomy)"
    assert predict.no_maps(facts) == line
    assert predict.no_maps({"saliency": {"method": "grad_cam", "verdict": "cannot be told (n = 3)"}}) == ""
    assert predict.no_maps({"saliency": {"method": "smoothgrad"}}) == "", "a predictor of an earlier version"


# --- another target ---


@pytest.fixture
def bacterial(tmp_path: Path) -> Path:
    return predictors.write(tmp_path / "bacterial", target="bacterial", labels=["viral", "bacterial"])


def test_answers_and_their_page_have_the_words_of_the_target(bacterial: Path, films: Path, tmp_path: Path) -> None:
    one = predict.load(bacterial)
    dark, bright = (predict.row_of(answer, one.origin) for answer in one.scores([films / "a.png", films / "sub/b.png"]))
    assert (dark["label"], bright["label"]) == ("viral", "bacterial")
    assert predict.in_words(bright, TARGETS["bacterial"]).startswith("bacterial: probability of bacterial pneumonia ")
    assert "at or above the threshold" in predict.in_words(bright, TARGETS["bacterial"])
    answered_by, limit = predict.notes(one)
    assert "on chest_xray, viral or bacterial;" in answered_by
    assert limit == TARGETS["bacterial"].limit.rstrip(".")
    items, _ = predict.find([str(films / "sub")])
    predict.write_page(tmp_path / "answers.html", one, items, None)
    text = (tmp_path / "answers.html").read_text(encoding="utf-8")
    assert "<h1>Bacterial pneumonia on chest X-rays: answers</h1>" in text
    assert "An answer is bacterial at or above" in text
    assert "normal" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


def test_the_network_that_ships_stands_in_for_no_other_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_has_champion", lambda subject: False)
    assert predict.stand_in("chest_xray")
    assert predict.stand_in("chest_xray-bacterial") == ""
