"""The page needs nothing but the service, says what `pneumonia predict` says, and works in a browser."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from pneumonia import UserError, predict
from pneumonia.data.sources import DATASETS
from pneumonia.data.targets import PNEUMONIA, TARGETS
from pneumonia.images import decode
from pneumonia.models.predictor import Predictor
from pneumonia.names import printable
from pneumonia.service.limits import Limits
from tests import predictors
from tests.conftest import ROOT, noise, png
from tests.service import browser
from tests.service.browser import Tab

PAGE = ROOT / "src" / "pneumonia" / "service" / "page"
SCRIPT = (PAGE / "page.js").read_text(encoding="utf-8")

FIGURES = {
    "level": 0.95,
    "val": {"n": 1200, "n_positive": 900, "auc": 0.93},
    "test": {"n": 160, "n_positive": 120, "auc": 0.912, "auc_low": 0.85, "auc_high": 0.96},
}
POINTS = {
    "youden": {"threshold": 0.5, "threshold_calibrated": 0.73105858, "sensitivity": 0.9, "specificity": 0.75},
    "target_sensitivity": {"threshold": 0.2, "threshold_calibrated": 0.57611688},
}
SENTENCE = "document.querySelector('#sentence').textContent.replaceAll('\\u00a0', ' ')"
FILMS = "[...document.querySelectorAll('#films button')]"
FINISHED = "state.films.length > 0 && state.films.every((film) => film.step === 'done')"


class Reader(HTMLParser):
    """The elements of a page with their attributes, and the text inside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._tag = ""
        self.feed((PAGE / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        self.inline += data if self._tag in ("script", "style") else ""

    def values(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def page() -> Reader:
    return Reader()


def test_the_policy_of_the_service_forbids_nothing_that_the_page_does(page: Reader) -> None:
    assert page.inline == ""
    assert page.values("style") == []
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    assert not re.search(r"setAttribute\(.style|\beval\(|new Function|<style|javascript:", SCRIPT)


def test_nothing_comes_from_another_place(page: Reader) -> None:
    for file in PAGE.iterdir():
        assert not re.search(r"(?:https?:)?//[a-z0-9]", file.read_text(encoding="utf-8"), re.IGNORECASE), file.name
    assert {*page.values("src"), *page.values("href")} == {"page.css", "page.js", "data:,", "docs"}


def test_every_element_that_the_script_uses_exists_once(page: Reader) -> None:
    ids = page.values("id")
    used = set(re.findall(r"\b(?:byId|show|write|fillList|setPicture)\(\s*\"([\w-]+)\"", SCRIPT))
    used |= {f"{name}-{part}" for name in ("probability", "threshold") for part in ("mark", "label")}
    assert len(used) > 40
    assert used - set(ids) == set()
    assert len(ids) == len(set(ids))
    pointers = ["for", "aria-labelledby", "aria-describedby"]
    assert {one for name in pointers for value in page.values(name) for one in value.split()} <= set(ids)


def test_every_input_has_a_label(page: Reader) -> None:
    inputs = [attributes["id"] for tag, attributes in page.elements if tag == "input"]
    labels = [attributes["for"] for tag, attributes in page.elements if tag == "label"]
    assert sorted(map(str, inputs)) == sorted(map(str, labels))


@pytest.mark.parametrize("name", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser"])
def test_a_name_of_a_file_is_never_markup(name: str) -> None:
    assert name not in SCRIPT


@pytest.mark.parametrize("name", ["localStorage", "sessionStorage", "indexedDB", "cookie", "serviceWorker", "caches"])
def test_nothing_is_stored(name: str) -> None:
    assert name not in SCRIPT


def test_the_page_says_for_every_data_set_what_the_model_never_saw() -> None:
    table = SCRIPT.split("const UNSEEN = {")[1].split("\n};")[0]
    assert sorted(re.findall(r"^  (\w+):", table, re.MULTILINE)) == sorted(DATASETS)


def test_the_page_names_the_formats_of_the_errors_and_waits_longer_than_the_service(page: Reader) -> None:
    with pytest.raises(UserError) as error:
        decode.decode(b"no image")
    (formats,) = re.findall(r'FORMATS = "(.+?)"', SCRIPT)
    assert formats in str(error.value)
    assert f">{formats}.<" in (PAGE / "index.html").read_text()
    (patience,) = re.findall(r"PATIENCE = (\d+);", SCRIPT)
    assert int(patience) > max(Limits().map_seconds, Limits().answer_seconds)


def test_an_installation_contains_the_page() -> None:
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pneumonia"]
    files = {path for pattern in packed for path in PAGE.parent.parent.glob(pattern)}
    assert set(PAGE.iterdir()) <= files


# ---- In a browser, with the real service


NORMAL, ILL = 120, 136
"""Gray levels of films on both sides of the threshold of `predictors.network`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predictor to which gray films are usual, and noise is not."""
    folder = tmp_path_factory.mktemp("page") / "predictor"
    return predictors.write(folder, operating_points=POINTS, figures=FIGURES, unusual=predictors.usual_gray(limit=60))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of a service in another process, which ends with the tests of this file."""
    if browser.CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    process = subprocess.Popen(
        [sys.executable, "-m", "pneumonia.cli", "serve", "--port", "0", "--model", str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert process.stderr is not None
    try:
        lines = ""
        for line in process.stderr:
            lines += line
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield match[0]
                return
        pytest.fail(f"the service did not start: {lines}")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def on_page(address: str, look: Callable[[Tab], Awaitable[None]], width: int = 1280) -> None:
    """Open the page, look, and check that it has asked for nothing elsewhere and that no script has failed."""

    async def visit() -> None:
        async with browser.tab(width) as tab:
            await tab.open(address)
            await tab.until("!document.querySelector('#facts').hidden")
            await look(tab)
            hosts = {urlsplit(url).netloc for url in tab.requests if not url.startswith(("blob:", "data:"))}
            assert hosts == {urlsplit(address).netloc}
            expected = "Failed to load resource: "  # the console's line on each bad file
            assert [problem for problem in tab.problems if not problem.startswith(expected)] == []

    asyncio.run(visit())


@pytest.fixture
def gray_film(tmp_path: Path) -> Callable[..., Path]:
    def make(level: int = NORMAL, name: str = "film.png") -> Path:
        (tmp_path / name).write_bytes(png(np.full((40, 40), level, np.uint8)))
        return tmp_path / name

    return make


def expected(folder: Path, path: Path, point: str = "youden") -> dict[str, Any]:
    """The row of `pneumonia predict` for a file, named as the page names it."""
    predictor = Predictor(folder, operating_point=point)
    (prediction,) = predictor.scores([path.read_bytes()], [path.name])
    return predict.row_of(prediction, predictor.origin)


def rows() -> Iterator[dict[str, Any]]:
    shares = [0.0, 1e-9, 0.0099, 0.01, 0.125, 0.3, 0.305, 0.375, 0.38, 0.4004, 0.40041, 0.625, 0.99, 0.991, 1.0]
    for probability in shares:
        for threshold in (0.004, 0.01, 0.125, 0.3, 0.4, 0.4004, 0.62125, 0.995):
            label = "pneumonia" if probability >= threshold else "normal"
            unusual = "far away" if probability == 0.3 else ""
            yield {
                "error": "",
                "unusual": unusual,
                "label": label,
                "probability": probability,
                "threshold": threshold,
            }
    yield {"error": "not an image", "unusual": "", "label": "", "probability": None, "threshold": 0.4}


@pytest.mark.slow
def test_the_words_and_numbers_are_those_of_predict(address: str) -> None:
    table = list(rows())
    shares = [n / 800 for n in range(8, 793)]

    async def look(tab: Tab) -> None:
        assert await tab.run(f"{json.dumps(table)}.map(inWords)") == [predict.in_words(row, PNEUMONIA) for row in table]
        for digits in range(3):
            texts = await tab.run(f"{json.dumps(shares)}.map((share) => percent(share, {digits}))")
            assert texts == [predict._percent(share, digits) for share in shares]
        kinds = [{"label": "normal"}, {"label": "pneumonia", "unusual": "x"}, {"error": "x"}, {"label": "pneumonia"}]
        assert await tab.run(f"tally({json.dumps(kinds)})") == predict.tally(
            {"normal": 1, "pneumonia": 2, "error": 1, "unusual": 1}
        )
        names = ["a.png", "two words", "a\nb\t\r\0", "a\u202eb", "ü\u00a0", "\U000e0001"]
        assert await tab.run(f"{json.dumps(names)}.map(oneLine)") == [printable(name) for name in names]

    on_page(address, look)


@pytest.mark.slow
def test_bayes_gives_the_known_answers(address: str) -> None:
    async def look(tab: Tab) -> None:
        known = [
            ((0.5, 0.5, 0.1), 0.1),  # an answer that says nothing is the share
            ((0.8, 0.5, 0.01), 4 / 99 / (1 + 4 / 99)),  # odds of 4 times odds of 1 to 99
            ((0.3, 0.75, 0.75), 0.3),
            ((0.0, 0.75, 0.01), 0.0),
            ((1.0, 0.75, 0.01), 1.0),
        ]
        for given, answer in known:
            assert await tab.run(f"atPrevalence{given}") == pytest.approx(answer, abs=1e-12)
        # Of 10,000 films 100 show pneumonia: 90 are found, 990 of the others too; 10 of 8,920 are missed.
        values = await tab.run("predictiveValues(0.9, 0.9, 0.01)")
        assert values == {"calledPositive": pytest.approx(90 / 1080), "calledNegative": pytest.approx(10 / 8920)}
        fine = {0: "below 0.1 %", 0.003: "0.3 %", 0.01: "1 %", 0.4: "40 %", 0.993: "99.3 %", 1: "above 99.9 %"}
        assert await tab.run(f"{json.dumps(list(fine))}.map(finePercent)") == list(fine.values())
        assert await tab.run("[0, 1].map(shareAt)") == pytest.approx([0.001, 0.9])
        assert await tab.run("placeOf(shareAt(0.37))") == pytest.approx(0.37)
        steps = await tab.run("[0.1, 0.2].map((place) => shareAt(place) / shareAt(place - 0.1))")
        assert steps[0] == pytest.approx(steps[1], 0.01)  # logarithmic where pneumonia is rare

    on_page(address, look)


@pytest.mark.slow
def test_films_are_dropped_and_answered_each_for_itself(
    address: str, folder: Path, tmp_path: Path, gray_film: Callable[..., Path]
) -> None:
    good, other = gray_film(NORMAL, "<img src=x onerror=alert(1)>.png"), gray_film(ILL, "second.png")
    text, strange, empty, large = (tmp_path / name for name in ("notes.txt", "noise.png", "empty.png", "large.dcm"))
    text.write_text("no image")
    strange.write_bytes(png(noise(40, 40)))
    empty.touch()
    with open(large, "wb") as file:
        file.truncate(200 * 2**20)

    async def look(tab: Tab) -> None:
        await tab.drop([good, text, strange, empty, large, other])
        await tab.until(FINISHED)
        assert await tab.run("document.querySelectorAll('#films img').length") == 0
        assert await tab.run(f"{FILMS}[0].querySelector('b').textContent") == good.name
        assert await tab.run(SENTENCE) == predict.in_words(expected(folder, good), PNEUMONIA)
        assert await tab.run("document.querySelector('#tally').textContent") == (
            "6 images: 2 normal, 1 pneumonia, 3 without an answer; 1 unusual"
        )
        await tab.until("document.querySelector('#film').naturalWidth > 0")
        assert await tab.run("document.querySelector('#film').naturalWidth") == 480
        place = "['left', 'top', 'width', 'height'].map((side) => document.querySelector('#map').style[side])"
        assert await tab.run(place) == ["0%", "0%", "100%", "100%"], "the map lies on the square that the model saw"
        sent = [url for url in tab.requests if "/v1/predict" in url]
        assert len(sent) == 4  # neither the empty one nor the large one
        for number, path in ((1, text), (5, other)):
            await tab.run(f"{FILMS}[{number}].click()")
            assert await tab.run(SENTENCE) == predict.in_words(expected(folder, path), PNEUMONIA)
        for number, cause in ((3, "empty"), (4, "200 MB; at most 48 MB")):
            await tab.run(f"{FILMS}[{number}].click()")
            assert cause in await tab.run(SENTENCE)

        await tab.run(f"{FILMS}[2].click()")
        warning = "document.querySelector('#unusual').textContent"
        assert (await tab.run(warning)).startswith("Do not trust this answer: the film does not look like the chest")
        assert await tab.run("document.querySelector('#elsewhere').hidden")  # no number worth an adjustment

    on_page(address, look)


@pytest.mark.slow
def test_all_words_are_those_of_the_target(address: str, folder: Path, gray_film: Callable[..., Path]) -> None:
    row = TARGETS["bacterial"]
    learnt = {"n_images": 20, "n_patients": 12, "n_viral": 8, "n_bacterial": 12}
    other = {"labels": [row.negative, row.positive], "finding": row.finding, "limit": row.limit, "learnt_from": learnt}
    bright = expected(folder, gray_film(ILL)) | {"label": "bacterial"}

    async def look(tab: Tab) -> None:
        await tab.run(f"Object.assign(state.model, {json.dumps(other)}); showModel(); document.title")
        text = await tab.run("document.body.innerText.replaceAll('\\u00a0', ' ')")
        assert await tab.run("document.title") == "Bacterial pneumonia on chest X-rays"
        assert await tab.run(f"inWords({json.dumps(bright)})") == predict.in_words(bright, row)
        assert "8 viral, 12 with bacterial pneumonia" in text
        assert "Orange" not in await tab.run("noteOf({ picture: 'a' })")
        await tab.run("state.model.boxes = { threshold: 0.3 }")
        assert "Orange: what the detector found" in await tab.run("noteOf({ picture: 'a' })")
        assert row.limit in text
        assert "labelled viral or bacterial" in text
        assert "normal" not in text.lower()
        assert "pneumonia" not in text.replace(row.among, "").lower().replace(row.finding, "")

    on_page(address, look)


@pytest.mark.slow
def test_a_keyboard_is_enough_on_a_phone(address: str, folder: Path, gray_film: Callable[..., Path]) -> None:
    film = gray_film()
    focus = "document.activeElement.id"

    async def look(tab: Tab) -> None:
        await tab.press("Tab")
        assert await tab.run(focus) == "files"
        node = await tab.send("Runtime.evaluate", expression="document.activeElement")
        await tab.send("DOM.setFileInputFiles", files=[str(film)], objectId=node["result"]["objectId"])
        await tab.until(FINISHED)
        first = predict.in_words(expected(folder, film), PNEUMONIA)
        assert await tab.run("document.querySelector('#status').textContent") == f"{film.name}: {first}"
        assert await tab.run(SENTENCE) == first

        await tab.press("Tab")
        assert await tab.run(focus) == "point-youden"
        await tab.press("ArrowDown")
        await tab.until(FINISHED)
        second = predict.in_words(expected(folder, film, "target_sensitivity"), PNEUMONIA)
        assert first.startswith("normal")
        assert second.startswith("pneumonia")
        assert await tab.run(SENTENCE) == second

        await tab.press("Tab", times=2)  # over the button that removes the film
        assert await tab.run(focus) == "prevalence"
        row = expected(folder, film)
        given = predict._percent(row["probability"])
        adjusted = "document.querySelector('#adjusted').textContent.replaceAll('\\u00a0', ' ')"
        assert await tab.run(adjusted) == f"Where 75 % of the films show pneumonia: {given}, as above."
        await tab.run("document.querySelector('#prevalence').value = 51")
        await tab.press("ArrowLeft")
        share = await tab.run("shareAt(0.5)")
        odds = row["probability"] / (1 - row["probability"]) * share / (1 - share) / 3
        assert f"pneumonia: {predict._percent(odds / (1 + odds))} instead of {given}." in await tab.run(adjusted)
        assert await tab.run("document.documentElement.scrollWidth") <= 420

    on_page(address, look, width=420)


@pytest.mark.slow
def test_films_wait_for_a_busy_service_and_outlive_a_lost_one(
    address: str, folder: Path, gray_film: Callable[..., Path]
) -> None:
    film = gray_film()
    sentence = predict.in_words(expected(folder, film), PNEUMONIA)
    busy = """{
      const real = window.fetch;
      let refused = 0;
      const busy = () => new Response('{"error": "busy"}', { status: 429, headers: { "Retry-After": "1" } });
      const isRefused = (path) => path.startsWith("v1/predict") && refused++ < 2;
      window.fetch = async (path, options) => isRefused(path) ? busy() : real(path, options);
    }"""

    async def look(tab: Tab) -> None:
        network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await tab.send("Network.emulateNetworkConditions", offline=True, **network)
        await tab.drop([film])
        await tab.until(FINISHED)
        assert "the service cannot be reached" in await tab.run(SENTENCE)
        await tab.send("Network.emulateNetworkConditions", offline=False, **network)
        await tab.run(busy)
        await tab.run("document.querySelector('#again').click()")
        await tab.until(f"{FINISHED} && !state.films[0].row.error")
        assert await tab.run(SENTENCE) == sentence

        # A picture of another model than that of the answer is thrown away.
        await tab.until("document.querySelector('#film').naturalWidth > 0")
        await tab.run("forgetPictures(state.films[0]); state.model.model = state.films[0].row.model = 'old'")
        await tab.run("showAnswer()")
        await tab.until(f"{FINISHED} && state.model.model !== 'old' && state.films[0].picture")
        assert await tab.run("state.films[0].row.model === state.model.model")

        # As after a new champion: the page describes another model than the one that answers.
        await tab.run("state.model.model = 'old'; state.films[0].step = 'waiting'; pump()")
        await tab.until(f"{FINISHED} && state.model.model !== 'old'")
        assert await tab.run(SENTENCE) == sentence

    on_page(address, look)


@pytest.mark.slow
def test_pictures_are_released_and_a_missing_map_has_its_reason(address: str, gray_film: Callable[..., Path]) -> None:
    films = [gray_film(), gray_film(ILL, "other.png")]
    counted = """{
      window.alive = new Set();
      const { createObjectURL, revokeObjectURL } = URL;
      URL.createObjectURL = (blob) => { const url = createObjectURL.call(URL, blob); alive.add(url); return url; };
      URL.revokeObjectURL = (url) => { alive.delete(url); revokeObjectURL.call(URL, url); };
    }"""

    async def look(tab: Tab) -> None:
        await tab.run(counted)
        await tab.drop(films)
        await tab.until(f"{FINISHED} && alive.size === 1")
        await tab.run(f"{FILMS}[1].click()")
        await tab.until("alive.size === 2")
        assert await tab.run("document.querySelector('#map-reason').textContent.startsWith('No map: ')")
        assert await tab.run("document.querySelector('#show-map').hidden")
        await tab.run("document.querySelector('#clear').click()")
        assert await tab.run("alive.size") == 0
        assert await tab.run("document.querySelector('#answers').hidden")
        assert await tab.run("document.activeElement.id") == "files"

    on_page(address, look)
