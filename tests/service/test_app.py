"""Films in, answers out: the scores of a prediction in Python, and for each bad file its status."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from pneumonia import predict
from pneumonia.models.predictor import FoundBox, Predictor
from pneumonia.saliency import methods
from pneumonia.service import app, current, maps
from pneumonia.service.limits import RefusedError
from pneumonia.service.uploads import Upload
from tests import predictors
from tests.conftest import noise
from tests.images.test_decode import dicom, encoded, png_file
from tests.service.conftest import Served, eventually, film, serving

PIXELS = np.full((40, 50), 300, np.uint16)
FRAMES = [Image.fromarray(noise(16, 16, seed)) for seed in range(3)]
MANY = {"save_all": True, "append_images": FRAMES[1:]}
JPEG = encoded(Image.fromarray(noise(64, 64)), "JPEG")
DICOM = dicom(PIXELS, PatientName="Doe^Jane", PatientID="MRN-4711")


def without_pixels() -> bytes:
    dataset, file = pydicom.dcmread(io.BytesIO(DICOM)), io.BytesIO()
    del dataset.PixelData
    dataset.save_as(file)
    return file.getvalue()


BAD = {
    "empty": (b"", 400, "the file is empty"),
    "text": (b"no image", 415, "not an image, expected JPEG"),
    "archive": (b"PK\x03\x04" + bytes(40), 415, "not an image"),
    "page": (b"<!doctype html><script>alert(1)</script>", 415, "not an image"),
    "gif": (encoded(FRAMES[0], "GIF", **MANY), 415, "a GIF file"),
    "animated": (encoded(FRAMES[0], "WEBP", lossless=True, **MANY), 422, "several pages or frames"),
    "pages": (encoded(FRAMES[0], "TIFF", **MANY), 422, "several pages or frames"),
    "truncated": (JPEG[: len(JPEG) // 2], 422, "truncated"),
    "only a header": (JPEG[:20], 422, ""),
    "huge": (png_file(60_000, 60_000, b""), 413, "claims 60,000 x 60,000 pixels, more than 100,000,000"),
    "huge dicom": (dicom(PIXELS, Rows=60_000, Columns=60_000), 413, "claims 60,000 x 60,000 pixels"),
    "report": (without_pixels(), 422, "a DICOM file without an image"),
    "frames": (dicom(PIXELS, NumberOfFrames=2), 422, "a DICOM file of 2 frames"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_single_bad_file_has_the_status_of_its_kind_and_the_service_lives_on(served: Served, name: str) -> None:
    content, status, message = BAD[name]
    answer = served.send(("my-film.png", content))
    assert answer.status == status
    assert message in answer.error
    assert "\n" not in answer.error
    assert served.send(("film.png", film())).status == 200


def test_one_bad_file_of_several_is_an_answer_with_its_error(served: Served, folder: Path) -> None:
    names = ["a.png", *BAD, "b.png"]
    contents = [film(90), *(content for content, _, _ in BAD.values()), film(170)]
    answer = served.send(*zip(names, contents, strict=True))
    assert answer.status == 200
    one = Predictor(folder)
    expected = [predict.row_of(row, one.origin) | {"boxes": []} for row in one.scores(contents, names)]
    assert answer.json == {"model": one.origin, "predictions": expected}
    assert [bool(row["error"]) for row in expected] == [False, *[True] * len(BAD), False]
    assert answer.json["predictions"][1]["probability"] is None


@pytest.mark.parametrize("kind", ["application/dicom", "image/png", "application/octet-stream", ""])
def test_a_body_that_is_one_file_is_recognised_by_its_content(served: Served, folder: Path, kind: str) -> None:
    for content in (film(), DICOM, JPEG):
        answer = served.ask("POST", "/v1/predict", content, {"Content-Type": kind} if kind else {})
        (expected,) = Predictor(folder).scores([content])
        (row,) = answer.json["predictions"]
        assert (row["score"], row["label"], row["image"]) == (expected.score, expected.label, "#1")


def test_a_photograph_is_answered_and_called_unusual(served: Served) -> None:
    colour = Image.fromarray(np.dstack([noise(60, 80, seed) for seed in range(3)]))
    (row,) = served.send(("holiday.jpg", encoded(colour, "JPEG"))).json["predictions"]
    assert row["unusual"].startswith("does not look like")
    assert 0 <= row["probability"] <= 1
    (row,) = served.send(("gray.png", film(128))).json["predictions"]
    assert row["unusual"] == ""


def test_the_operating_point_is_chosen_for_each_request(served: Served) -> None:
    labels = {}
    for name in ("youden", "target_sensitivity"):
        answer = served.ask("POST", f"/v1/predict?operating_point={name}", film(110))
        (row,) = answer.json["predictions"]
        labels[row["operating_point"]] = row["label"]
    assert labels == {"youden": "normal", "target_sensitivity": "pneumonia"}
    answer = served.ask("POST", "/v1/predict?operating_point=best", film())
    assert (answer.status, answer.error) == (
        400,
        "this operating point is not known; known: youden, target_sensitivity",
    )


def test_names_are_one_line_that_can_be_printed(served: Served) -> None:
    names = ["a\tb.png", "müller\u202egnp.png", "C:\\fakepath\\x.png", "n" * 2000, "", "<b>.png"]
    rows = served.send(*((name, film()) for name in names)).json["predictions"]
    assert [row["image"] for row in rows] == [
        "a\\tb.png", "müller\\u202egnp.png", "x.png", "n" * 200, "#5", "<b>.png",
    ]  # fmt: skip


def test_no_file_is_said_to_be_missing(served: Served) -> None:
    for path in ("/v1/predict", "/v1/film"):
        assert served.send(path=path).status == 400
        assert served.ask("POST", path).status == 400
    assert served.send(("a", film()), ("b", film()), path="/v1/film").error == "2 files, expected one"


def test_a_film_is_the_picture_that_the_network_gets(served: Served, folder: Path) -> None:
    for content in (film(), DICOM, JPEG):
        answer = served.send(("x", content), path="/v1/film")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
        picture = Image.open(io.BytesIO(answer.body))
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), Predictor(folder).prepare(content))
    assert served.send(("x", BAD["truncated"][0]), path="/v1/film").status == 422


def test_a_whole_film_comes_with_the_place_of_the_square_that_the_network_gets(served: Served) -> None:
    """A film twice as wide as high is padded to a square: this reaches beyond the film by half of its height."""
    for content, square in (
        (film(), "0.000000 0.000000 1.000000 1.000000"),
        (encoded(Image.fromarray(noise(40, 80)), "PNG"), "0.000000 -0.500000 1.000000 2.000000"),
    ):
        answer = served.send(("x", content), path="/v1/whole")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.headers["x-square"] == square
        assert answer.headers["x-model"] == served.model.model.predictor.origin["model"]
        assert max(Image.open(io.BytesIO(answer.body)).size) == 480
    assert served.send(("x", BAD["truncated"][0]), path="/v1/whole").status == 422


def test_a_map_lies_over_its_film_and_is_transparent_where_it_is_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saliency = {"method": "smoothgrad", "verdict": "may be trusted"}
    folder = predictors.write(tmp_path / "p", saliency=saliency, synthetic=True)
    monkeypatch.setattr(maps, "problem", lambda model: "")
    monkeypatch.setattr(predict, "load_network", lambda source, predictor, threads: "network")
    monkeypatch.setitem(methods.METHODS, "smoothgrad", lambda network, images, **options: images / np.float32(255))
    content = encoded(Image.fromarray(noise(32, 32)), "PNG")
    with serving(folder) as served:
        picture = Image.open(io.BytesIO(served.send(("x", content), path="/v1/saliency").body))
        assert picture.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(picture)[..., 3], Predictor(folder).prepare(content))
        assert served.send(("x", b"no image"), path="/v1/saliency").status == 415
        facts = served.ask("GET", "/v1/model").json["saliency"]
    verdict = "may be trusted, measured on synthetic films: it says nothing about maps of real ones"
    assert facts == {"method": "smoothgrad", "verdict": verdict, "available": True, "reason": ""}


def test_without_maps_the_reason_is_said_beforehand_and_with_the_refusal(served: Served) -> None:
    facts = served.ask("GET", "/v1/model").json["saliency"]
    assert facts["available"] is False
    answer = served.send(("x", film()), path="/v1/saliency")
    assert (answer.status, answer.error) == (503, f"no map: {facts['reason']}")


def test_the_boxes_of_an_answer_are_numbers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.send(("x", film())).json["predictions"][0]["boxes"] == []
    one = served.model.model.predictors["youden"]
    answers, two = one.answers_for, (FoundBox(20, 0, 30, 15, 0.9), FoundBox(6, 15, 30, 30, 0.7))
    monkeypatch.setattr(one, "answers_for", lambda films: [row._replace(boxes=two) for row in answers(films)])
    (row,) = served.send(("x", film())).json["predictions"]
    assert row["boxes"] == [
        {"x": 20, "y": 0, "width": 30, "height": 15, "score": 0.9},
        {"x": 6, "y": 15, "width": 30, "height": 30, "score": 0.7},
    ]


def test_the_model_is_described_with_what_a_page_shows(served: Served, folder: Path) -> None:
    facts = served.ask("GET", "/v1/model").json
    assert set(facts) >= {"network", "weights", "figures", "learnt_from", "target", "labels", "synthetic"}
    assert (facts["finding"], facts["limit"]) == ("pneumonia", "")
    assert facts["model"] == Predictor(folder).digest[:12]
    assert facts["caution"] == "For research. Not a medical device."
    assert facts["operating_points"] == predictors.FACTS["operating_points"]
    assert (facts["operating_point"], facts["unusual"], facts["boxes"]) == ("youden", True, {})
    assert facts["limits"] == {"bytes": 48 * 2**20, "pixels": 100_000_000, "files": 32}


def test_many_who_ask_if_a_model_answers_share_one_test(
    limited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with limited() as served:
        tests: list[str] = []
        monkeypatch.setattr(current, "self_test", lambda model: tests.append(""))
        assert [served.ask("GET", "/ready").status for _ in range(20)] == [200] * 20
        assert len(tests) == 1
        served.model.model = served.model.model._replace(operating_point="target_sensitivity")
        served.ask("GET", "/ready")
        assert len(tests) == 2, "another model is tested at once"


def test_after_the_deadline_of_a_request_no_further_file_is_read(served: Served) -> None:
    model = served.model.model
    given = [Upload("a", film()), Upload("b", film())]
    assert len(app._answers(model, "youden", given, time.monotonic() + 60)["predictions"]) == 2
    with pytest.raises(RefusedError, match="send fewer files") as refusal:
        app._answers(model, "youden", given, time.monotonic() - 1)
    assert refusal.value.status == 503


def test_a_picture_names_the_model_that_it_was_made_for(served: Served) -> None:
    answer = served.send(("x", film()), path="/v1/film")
    assert answer.headers["x-model"] == served.send(("x", film())).json["model"]["model"]


def test_the_process_lives_and_a_model_answers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_TEST_SECONDS", 0)
    assert served.ask("GET", "/health").json == {"status": "alive"}
    assert served.ask("GET", "/ready").json["status"] == "ready"
    predictor = served.model.model.predictor
    monkeypatch.setattr(predictor, "scores", lambda images: [predictor.failed("", "damaged")] * 2)
    assert served.ask("GET", "/health").status == 200
    answer = served.ask("GET", "/ready")
    assert (answer.status, answer.error) == (503, "the model does not answer")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", "/v1/model/", 404), ("POST", "/v1/predict/", 404)),
        *(("GET", "/nowhere", 404), ("GET", "/../predict.py", 404), ("GET", "/page/index.html", 404)),
        *(("GET", "/v1/predict", 405), ("PUT", "/v1/predict", 405), ("DELETE", "/", 405), ("BREW", "/ready", 405)),
    ],
)
def test_what_is_not_a_route_is_an_error_in_json(served: Served, method: str, path: str, status: int) -> None:
    answer = served.ask(method, path)
    assert answer.status == status
    assert answer.error
    assert served.ask("POST", "/nowhere", bytes(3_000_000)).status == 404


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/json", "nonsense"])
def test_other_content_types_are_refused_by_name(served: Served, kind: str) -> None:
    answer = served.ask("POST", "/v1/predict", film(), {"Content-Type": kind})
    assert answer.status == 415
    assert "expected multipart/form-data, application/dicom, application/octet-stream or image/" in answer.error


def test_the_page_and_the_routes_need_nothing_from_elsewhere(served: Served) -> None:
    for path in ("/", "/page.js", "/page.css", "/docs", "/openapi.json"):
        answer = served.ask("GET", path)
        assert answer.status == 200
        assert not any(text in answer.body for text in (b"http://", b"https://", b"url(//", b"@import"))
    routes = set(served.ask("GET", "/openapi.json").json["paths"])
    assert routes == {"/v1/model", "/v1/predict", "/v1/film", "/v1/whole", "/v1/saliency", "/health", "/ready"}
    assert all(path.encode() in served.ask("GET", "/docs").body for path in routes)


def test_an_error_of_the_service_shows_neither_a_trace_nor_its_message(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("Doe^Jane in /srv/films")

    monkeypatch.setattr(served.model.model.predictor, "scores", fail)
    answer = served.send(("x", film()))
    assert (answer.status, answer.error) == (500, "the service has failed; its log says where")
    eventually(lambda: "RuntimeError in test_app.py, line " in caplog.text)
    assert not any(secret in caplog.text + answer.body.decode() for secret in ("Doe", "srv", "Traceback"))


def test_at_least_32_requests_wait_and_the_next_is_asked_to_come_again(
    limited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app.Limits().waiting >= 32
    with limited(waiting=0, answer_seconds=0.2) as served:
        go, predictor = Event(), served.model.model.predictor
        row = next(predictor.scores([film()]))

        def slow(images: Any, names: Any) -> Any:
            go.wait(20)
            return [row]

        monkeypatch.setattr(predictor, "scores", slow)
        statuses: list[int] = []
        n_workers = min(8, os.cpu_count() or 1)
        threads = [Thread(target=lambda: statuses.append(served.send(("x", film())).status)) for _ in range(n_workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [503] * n_workers, "no answer in time"
        answer = served.send(("x", film()))
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert served.ask("GET", "/health").status == 200
        go.set()
