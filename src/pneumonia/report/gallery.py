"""The gallery of saliency maps: one self-contained page with films, maps, filters and keys, and the pictures in it.

Its script is in this file and has its digest in the page's policy: a browser runs nothing else, whatever a name is. It
works from a file and in the artifact view of MLflow.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import jinja2
import numpy as np
import numpy.typing as npt

from pneumonia.report import page
from pneumonia.saliency.maps import overlaid

_SIDE = 336
"""Pixels of a picture, at least; smaller images are enlarged by a whole number."""

_BOX, _LUNGS, _CONTOUR = (102, 255, 102), (255, 204, 102), (255, 255, 255)
"""Colours, BGR."""


class Entry(NamedTuple):
    """One film of the gallery.

    Attributes:
        image_id, outcome, subtype: of the film; `outcome` as `explain.outcomes` names it.
        score: raw, 0-1.
        film: uint8 (size, size), 0-255.
        maps: method -> float32 (size, size), 0-1.
        boxes: float (k, 4): x, y, width, height in pixels of the film.
        lungs: bool (size, size), False everywhere if they are not known.
    """

    image_id: str
    outcome: str
    subtype: str
    score: float
    film: npt.NDArray[np.uint8]
    maps: Mapping[str, npt.NDArray[np.float32]]
    boxes: npt.NDArray[np.float64]
    lungs: npt.NDArray[np.bool_]


def overlay(
    film: npt.NDArray[np.uint8],
    values: npt.NDArray[np.float32] | None,
    boxes: npt.NDArray[np.float64],
    lungs: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint8]:
    """A film under its map, with a contour at half of its maximum, known boxes and the outline of the lungs.

    Args:
        film: uint8 (size, size), 0-255.
        values: float32 (size, size), 0-1; None = the film alone.
        boxes: float (k, 4): x, y, width, height in pixels of the film.
        lungs: bool (size, size).

    Returns:
        uint8 (side, side, 3), BGR, with a side of at least 336 pixels.
    """
    scale = max(1, -(-_SIDE // film.shape[0]))
    side = scale * film.shape[0]
    large = cv2.resize(film, (side, side), interpolation=cv2.INTER_CUBIC)
    picture = cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)
    if values is not None:
        smooth = cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR)
        picture = overlaid(picture, smooth)
        _draw_outline(picture, smooth > 0.5, _CONTOUR)
    if lungs.any():
        enlarged = cv2.resize(lungs.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
        _draw_outline(picture, enlarged > 0, _LUNGS)
    for x, y, width, height in np.rint(boxes * scale).astype(int).tolist():
        cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), _BOX, 2)
    return np.asarray(picture, np.uint8)


def html(
    entries: Sequence[Entry],
    methods: Mapping[str, tuple[str, str]],
    default: str,
    threshold: float,
    title: str,
    *,
    by_network: bool = False,
) -> str:
    """The page.

    Args:
        entries: films, in the order of the page when it opens.
        methods: name -> title and verdict.
        default: the method that is shown first.
        threshold: on the raw scores.
        title: model and data.
        by_network: whether a network found lungs that no person drew.
    """
    films = [
        {
            "id": entry.image_id,
            "outcome": entry.outcome,
            "subtype": entry.subtype,
            "score": round(entry.score, 4),
            "film": _data_url(overlay(entry.film, None, entry.boxes, entry.lungs)),
            "maps": {
                name: {
                    "picture": _data_url(overlay(entry.film, values, entry.boxes, entry.lungs)),
                    "outside": _share_outside(values, entry.lungs),
                }
                for name, values in entry.maps.items()
            },
        }
        for entry in entries
    ]
    content = {
        "films": films,
        "methods": {
            name: {"title": name_for_readers, "verdict": verdict}
            for name, (name_for_readers, verdict) in methods.items()
        },
        "default": default,
        "threshold": threshold,
    }
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"{page.POLICY}; script-src 'sha256-{digest}';"
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE).render(
        title=title,
        words=" (a network found them where no person drew them)" if by_network else "",
        policy=policy,
        palette=page.PALETTE,
        script=_SCRIPT,
        # No "<" in it: a name cannot end the element.
        content=json.dumps(content, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c"),
    )


def _draw_outline(picture: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, lines, -1, colour, 1, cv2.LINE_AA)


def _share_outside(values: npt.NDArray[np.float32], lungs: npt.NDArray[np.bool_]) -> float | None:
    """Share of a map outside the lungs; None if they are not known or the map is 0."""
    total = float(values.sum())
    return round(1 - float(values[lungs].sum()) / total, 3) if lungs.any() and total > 0 else None


def _data_url(picture: npt.NDArray[np.uint8]) -> str:
    content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return page.Picture("", content).data_url


_SCRIPT = """
"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const byId = (name) => document.getElementById(name);
const state = { method: content.default, current: 0, shown: [], large: false };
const words = (name) => name.replaceAll("_", " ");
const percent = (share) => `${Math.round(100 * share)} %`;

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function fill(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => element("option", { value, textContent: text })));
}

function lines(film) {
  const side = film.score >= content.threshold ? "at or above" : "below";
  const outside = (film.maps[state.method] || {}).outside;
  return [
    `${words(film.outcome)}${film.subtype ? `, ${film.subtype}` : ""}`,
    `score ${film.score.toFixed(3)}, ${side} the threshold of ${content.threshold.toFixed(3)}`,
    outside === null || outside === undefined ? "" : `${percent(outside)} of the map outside the lungs`,
  ].filter(Boolean);
}

function card(film, place) {
  const map = film.maps[state.method];
  const pictures = element("div", { className: "pair" },
    element("img", { src: film.film, alt: `film ${film.id}` }),
    element("img", { src: map.picture, alt: `${content.methods[state.method].title} map of ${film.id}` }));
  const made = element("button", { type: "button", className: `card ${film.outcome}` }, pictures,
    element("strong", { textContent: film.id }),
    ...lines(film).map((text) => element("span", { textContent: text })));
  made.addEventListener("click", () => { state.current = place; open(true); });
  made.addEventListener("focus", () => { state.current = place; });
  return made;
}

const sorts = {
  "as listed": () => 0,
  "score, highest first": (a, b) => b.score - a.score,
  "score, lowest first": (a, b) => a.score - b.score,
  "energy outside the lungs": (a, b) => outsideOf(b) - outsideOf(a),
};
const outsideOf = (film) => film.maps[state.method].outside ?? -1;

function draw() {
  state.method = byId("method").value;
  const { title, verdict } = content.methods[state.method];
  byId("verdict").textContent = `${title}: ${verdict}`;
  state.shown = content.films.filter((film) =>
    ["outcome", "subtype"].every((key) => !byId(key).value || film[key] === byId(key).value));
  state.shown.sort(sorts[byId("sort").value]);
  state.current = Math.min(state.current, Math.max(0, state.shown.length - 1));
  byId("count").textContent = `${state.shown.length} of ${content.films.length} films`;
  byId("films").replaceChildren(...state.shown.map(card));
  if (state.large) open(state.shown.length > 0);
}

function open(large) {
  state.large = large;
  byId("large").hidden = !large;
  document.body.className = large ? "open" : "";
  if (!large) { byId("films").children[state.current]?.focus(); return; }
  const film = state.shown[state.current];
  const methods = Object.entries(film.maps).map(([name, map]) => element("figure", {},
    element("img", { src: map.picture, alt: `${content.methods[name].title} map` }),
    element("figcaption", { textContent: `${content.methods[name].title}: ${content.methods[name].verdict}` })));
  byId("large-films").replaceChildren(
    element("figure", {}, element("img", { src: film.film, alt: "film" }),
      element("figcaption", { textContent: "film" })), ...methods);
  byId("large-title").textContent = film.id;
  byId("large-text").textContent = lines(film).join("; ");
  byId("close").focus();
}

function move(step) {
  if (!state.shown.length) return;
  state.current = (state.current + step + state.shown.length) % state.shown.length;
  if (state.large) open(true);
  else byId("films").children[state.current].focus();
}

fill(byId("method"), Object.entries(content.methods).map(([name, row]) => [name, row.title]));
byId("method").value = content.default;
for (const key of ["outcome", "subtype"]) {
  const names = [...new Set(content.films.map((film) => film[key]))].filter(Boolean).sort();
  fill(byId(key), [["", "all"], ...names.map((name) => [name, words(name)])]);
}
fill(byId("sort"), Object.keys(sorts).map((name) => [name, name]));
for (const key of ["method", "outcome", "subtype", "sort"]) byId(key).addEventListener("change", draw);
byId("close").addEventListener("click", () => open(false));
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { ArrowRight: () => move(1), ArrowLeft: () => move(-1), Escape: () => open(false),
    m: () => {
      const names = Object.keys(content.methods);
      byId("method").value = names[(names.indexOf(state.method) + 1) % names.length];
      draw();
      if (!state.large) byId("films").children[state.current]?.focus();
    } };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
draw();
"""

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Saliency: {{ title }}</title>
<style>
{{ palette|safe }}
:root { --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --wrong: #ff8a80; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
.open { overflow: hidden; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header, main { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { margin: 0; font-size: 1.5rem; line-height: 1.2; overflow-wrap: anywhere; }
header p { margin: .4rem 0; color: var(--soft); max-width: 50rem; }
#verdict { color: var(--ink); font-weight: 600; }
form { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin-top: .75rem; }
label { display: grid; font-size: .85rem; color: var(--soft); }
select { font: inherit; font-size: .95rem; padding: .25rem; max-width: 15rem; color: var(--ink);
  background: var(--band); border: 1px solid var(--line); border-radius: .3rem; }
.bar { height: .7rem; width: 12rem; border: 1px solid var(--line);
  background: linear-gradient(90deg, #000004, #420a68, #932667, #dd513a, #fca50a, #fcffa4); }
.key { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .75rem; font-size: .85rem; color: var(--soft); }
.line { display: inline-block; width: 1.2rem; border-top: 3px solid; margin-right: .3rem; vertical-align: middle; }
#films { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: .8rem; }
.card { display: grid; gap: .1rem; padding: .5rem; font: inherit; font-size: .85rem; text-align: left; color: inherit;
  background: var(--band); border: 1px solid var(--line); border-radius: .4rem; cursor: pointer; }
.card:focus-visible, #close:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }
.card.false_negative span:nth-of-type(1), .card.false_positive span:nth-of-type(1) { color: var(--wrong); }
.card strong { overflow-wrap: anywhere; font-size: .9rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .3rem; }
img { width: 100%; display: block; background: #000; }
#large { position: fixed; inset: 0; overflow: auto; padding: 1rem; background: var(--ground); }
#large-films { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: .8rem; }
figure { margin: 0; max-width: 34rem; }
figcaption { font-size: .85rem; color: var(--soft); }
#close { float: right; font: inherit; padding: .3rem .8rem; color: inherit; background: var(--band);
  border: 1px solid var(--line); border-radius: .3rem; }
</style>
</head>
<body>
<header>
<h1>Saliency: {{ title }}</h1>
<p>Test images: some drawn at random, and the worst of each outcome. A map shows where the network looks, not why.</p>
<p id="verdict"></p>
<div class="key"><span>low</span><span class="bar" role="img" aria-label="colours from low to high"></span>
<span>high, as share of the maximum of the map</span>
<span><i class="line" style="border-color:#888"></i>half of the maximum (white)</span>
<span><i class="line" style="border-color:#4c4"></i>known finding</span>
<span><i class="line" style="border-color:#6cf"></i>lungs{{ words }}</span></div>
<form>
<label>method<select id="method"></select></label>
<label>outcome<select id="outcome"></select></label>
<label>subtype<select id="subtype"></select></label>
<label>order<select id="sort"></select></label>
</form>
<p><span id="count" role="status"></span>. Keys: arrows move, Enter opens, Esc closes, m changes the method.</p>
</header>
<main id="films"></main>
<div id="large" role="dialog" aria-modal="true" aria-labelledby="large-title" hidden>
<button id="close" type="button">Close</button>
<h1 id="large-title"></h1>
<p id="large-text"></p>
<div id="large-films"></div>
</div>
<script type="application/json" id="content">{{ content|safe }}</script>
<script>{{ script|safe }}</script>
</body>
</html>
"""
