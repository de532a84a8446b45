"""The gallery of saliency maps."""

import asyncio
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonia.report import gallery
from tests.service import browser

NO_LUNGS = np.zeros((48, 48), bool)
LUNGS = NO_LUNGS.copy()
LUNGS[8:40, 4:44] = True
HOSTILE = "</script><img src=x onerror=alert(1)>"


def entry(image_id: str, outcome: str, score: float, place: tuple[int, int], **changes: Any) -> gallery.Entry:
    """A film with a map whose energy lies in a square of 6 px."""
    values = np.zeros((48, 48), np.float32)
    values[place[0] : place[0] + 6, place[1] : place[1] + 6] = 1
    film = np.full((48, 48), 90, np.uint8)
    boxes = np.array([[10.0, 10.0, 12.0, 8.0]])
    maps = {"hires_cam": values, "grad_cam": values.T.copy()}
    return gallery.Entry(image_id, outcome, "virus", score, film, maps, boxes, LUNGS)._replace(**changes)


ENTRIES = [
    entry("a", "false_negative", 0.1, (20, 20)),
    entry(HOSTILE, "true_positive", 0.9, (0, 0)),
    entry("c", "true_negative", 0.2, (36, 20), subtype="normal"),
]
METHODS = {
    "hires_cam": ("HiResCAM", "trustworthy for localisation"),
    "grad_cam": ("Grad-CAM", "no better than anatomy"),
}


def page(entries: list[gallery.Entry] = ENTRIES) -> str:
    return gallery.html(entries, METHODS, "hires_cam", 0.5, "compact on phantom")


def content(text: str) -> dict[str, Any]:
    return dict(json.loads(re.findall(r'id="content">(.*?)</script>', text, re.DOTALL)[0]))


def test_the_page_needs_nothing_else_and_runs_only_its_own_script() -> None:
    text = page()
    (policy,) = re.findall(r'Security-Policy" content="(.*?)"', html.unescape(text))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(re.findall(r"script-src 'sha256-[A-Za-z0-9+/=]{44}';", policy)) == 1
    assert not re.findall(r"(?:src|href)=[\"']?https?:", text)
    assert text.count("<script") == 2


def test_the_key_says_when_a_network_found_the_lungs() -> None:
    words = "lungs (a network found them where no person drew them)"
    assert words not in page()
    assert words in gallery.html(ENTRIES, METHODS, "hires_cam", 0.5, "compact on folder", by_network=True)


def test_a_name_is_text_wherever_it_stands() -> None:
    assert "<img src=x" not in page()
    assert content(page())["films"][1]["id"] == HOSTILE


def test_energy_outside_the_lungs_is_that_of_the_map_and_absent_without_masks() -> None:
    outside = [film["maps"]["hires_cam"]["outside"] for film in content(page())["films"]]
    assert outside == [0, 1, 0.333]
    (film,) = content(page([ENTRIES[0]._replace(lungs=NO_LUNGS)]))["films"]
    assert film["maps"]["hires_cam"]["outside"] is None


def test_an_overlay_is_large_and_shows_map_contour_boxes_and_lungs() -> None:
    one = ENTRIES[0]
    plain = gallery.overlay(one.film, None, np.zeros((0, 4)), NO_LUNGS)
    assert plain.shape == (336, 336, 3)
    assert set(np.unique(plain)) == {90}
    mapped = gallery.overlay(one.film, one.maps["hires_cam"], np.zeros((0, 4)), NO_LUNGS).astype(int)
    assert mapped[7 * 23, 7 * 23, 2] > 150, "the colour of a maximum"
    assert (mapped[0, 0] == 90).all()
    assert (mapped.min(axis=2) > 230).any(), "the contour is white"
    framed = gallery.overlay(one.film, None, one.boxes, LUNGS).astype(int)
    assert (framed[70, 70:100] == (102, 255, 102)).all()
    assert (framed[:, 4 * 7 : 5 * 7] != 90).any()


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_filters_sorts_and_follows_the_keys(tmp_path: Path, width: int) -> None:
    path = tmp_path / "index.html"
    path.write_text(page(), encoding="utf-8")

    async def look() -> None:
        names = "[...document.querySelectorAll('.card strong')].map((one) => one.textContent)"

        def choose(select: str, value: str) -> str:
            change = f"one.value = {json.dumps(value)}; one.dispatchEvent(new Event('change'))"
            return f"(() => {{ const one = document.getElementById('{select}'); {change} }})()"

        async with browser.tab(width) as tab:
            await tab.open(path.as_uri())
            assert await tab.run(names) == ["a", HOSTILE, "c"]
            assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
            await tab.run(choose("sort", "energy outside the lungs"))
            assert await tab.run(names) == [HOSTILE, "c", "a"]
            await tab.run(choose("subtype", "normal"))
            assert await tab.run(names) == ["c"]
            await tab.run(choose("subtype", ""))
            await tab.run(choose("outcome", "false_negative"))
            assert await tab.run("document.getElementById('count').textContent") == "1 of 3 films"
            await tab.run(choose("outcome", ""))
            await tab.run(choose("method", "grad_cam"))
            assert await tab.run("document.getElementById('verdict').textContent") == "Grad-CAM: no better than anatomy"
            await tab.run("document.querySelector('.card').focus()")
            await tab.press("ArrowRight")
            await tab.press("Enter")
            assert await tab.run("document.getElementById('large-title').textContent") == await tab.run(f"{names}[1]")
            assert await tab.run("document.querySelectorAll('#large-films img').length") == 3
            assert tab.problems == []
            assert not [address for address in tab.requests if not address.startswith(("file:", "data:"))]

    asyncio.run(look())
