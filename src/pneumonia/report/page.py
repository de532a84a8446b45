"""Pages of text, tables and pictures: self-contained HTML, and the same as Markdown.

The template is in this file: DVC and an installation then need no other file than this module.
"""

from __future__ import annotations

import base64
import html as html_module
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import jinja2


class Table(NamedTuple):
    """Rows of text under a header, with a `note` below."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


class Picture(NamedTuple):
    """The bytes of a PNG or JPEG file, with a caption."""

    caption: str
    content: bytes

    @property
    def data_url(self) -> str:
        """The picture as a data URL."""
        kind = "png" if self.content.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode('ascii')}"


class Heading(NamedTuple):
    """A heading inside a section."""

    text: str


class Link(NamedTuple):
    """A paragraph that leads to another file of the same folder; the page has all that it shows without it."""

    text: str
    href: str


class Thumbnails(NamedTuple):
    """Small pictures side by side."""

    pictures: Sequence[Picture]


Block = str | Table | Picture | Heading | Link | Thumbnails
"""A string is a paragraph."""


class Section(NamedTuple):
    """A heading and the blocks under it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """The anchor of this section in links.

        >>> Section("Data and splits", []).anchor
        'data-and-splits'
        """
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


def html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A page that needs no other file: no scripts, no fonts, pictures embedded; light or dark like the reader's system.

    Args:
        title, lead: texts above the sections.
        sections: in the order of the page; pictures that follow each other form a gallery.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    for kind in (Table, Picture, Heading, Link, Thumbnails):
        environment.tests[kind.__name__.lower()] = lambda block, kind=kind: isinstance(block, kind)
    return environment.from_string(_TEMPLATE).render(
        title=title, lead=lead, sections=sections, policy=POLICY, palette=PALETTE
    )


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may do for a page: show embedded pictures. It loads nothing and runs no script, whatever a name is."""


def markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The same page as Markdown, with only the captions of the pictures."""
    parts = [f"# {_literal(title)}", _literal(lead)]
    for section in sections:
        parts.append(f"## {_literal(section.title)}")
        for block in section.blocks:
            if isinstance(block, str):
                parts.append(_literal(block))
            elif isinstance(block, Table):
                rows = [tuple(map(_literal, line)) for line in (block.header, *block.rows)]
                lines = [rows[0], tuple("---" for _ in block.header), *rows[1:]]
                parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
                parts += [_literal(block.note)] if block.note else []
            elif isinstance(block, Heading):
                parts.append(f"### {_literal(block.text)}")
            elif isinstance(block, Link):
                parts.append(f"[{_literal(block.text)}]({quote(block.href)})")
            else:
                pictures = block.pictures if isinstance(block, Thumbnails) else [block]
                parts += [f"{_PICTURE}{_literal(picture.caption)}*" for picture in pictures]
    return "\n\n".join(parts) + "\n"


def read_markdown(text: str) -> list[Section]:
    """The sections of a page that `markdown` wrote, without its pictures and links.

    >>> read_markdown(markdown("t", "l", [Section("A & B", ["<b>", Table(("", "n"), [("x", "1")], "note")])]))
    [Section(title='A & B', blocks=['<b>', Table(header=('', 'n'), rows=[('x', '1')], note=''), 'note'])]
    """
    sections: list[Section] = []
    blocks: list[Block] = []
    for part in text.strip().split("\n\n"):
        if part.startswith("## "):
            blocks = []
            sections.append(Section(_plain(part[3:]), blocks))
        elif part.startswith("### "):
            blocks.append(Heading(_plain(part[4:])))
        elif part.startswith("| "):
            # A cell holds no "|": `_literal` replaces it.
            cells = [tuple(_plain(cell.strip()) for cell in line[1:-1].split("|")) for line in part.split("\n")]
            blocks.append(Table(cells[0], cells[2:]))
        elif not part.startswith(_PICTURE) and not re.fullmatch(r"\[.*\]\(.*\)", part):
            blocks.append(_plain(part))
    return sections


def _plain(text: str) -> str:
    """The text that `_literal` made harmless, without its line breaks and repeated spaces."""
    return html_module.unescape(re.sub(r"\\([`~(:])", r"\1", text))


_PICTURE = "*Picture in the HTML page: "


def _literal(text: str) -> str:
    r"""A text in which Markdown finds no HTML, links, code or cells of a table.

    >>> _literal("[0.9, 1] [a](javascript:x) <b> | &amp;")
    '[0.9, 1] [a]\\(javascript:x) &lt;b&gt; / &amp;amp;'
    """
    one_line = html_module.escape(" ".join(text.split()).replace("|", "/"), quote=False)
    return re.sub(r"[`~]|(?<=\])[(:]", r"\\\g<0>", one_line)


PALETTE = """\
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --line: #d9dfe7; --ground: #ffffff; --band: #f5f7fa;
  --accent: #0b6bcb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b7; --line: #323c49; --ground: #14191f;
  --band: #1b222b; --accent: #6cb2ff; } }"""
"""Colours of all pages, for light and dark systems."""

_TEMPLATE = """\
{% macro figure(picture) -%}
<figure><img alt="{{ picture.caption }}" src="{{ picture.data_url }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{%- endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
{{ palette|safe }}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
header, nav, main { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { margin: 0 0 .25rem; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding-block: 1rem; border-bottom: 1px solid var(--line); }
nav a { color: var(--accent); text-decoration: none; font-size: .92rem; }
nav a:hover { text-decoration: underline; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.25rem; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1.02rem; overflow-wrap: anywhere; }
main a { color: var(--accent); }
p { margin: .5rem 0; max-width: 46rem; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; }
td { overflow-wrap: anywhere; min-width: 5rem; }
.short { white-space: nowrap; min-width: 0; }
.note { color: var(--soft); font-size: .88rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1rem;
  margin: 1rem 0; align-items: start; }
.thumbnails { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 9rem), 1fr)); gap: .6rem;
  margin: .6rem 0; align-items: start; }
.thumbnails img { aspect-ratio: 1; object-fit: contain; background: #000000; }
.thumbnails figcaption { font-size: .78rem; overflow-wrap: anywhere; }
figure { margin: 0; background: var(--band); border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: 3px; }
figcaption { padding: .4rem .25rem 0; color: var(--soft); font-size: .88rem; }
</style>
</head>
<body>
<header><h1>{{ title }}</h1><p>{{ lead }}</p></header>
<nav>
{% for section in sections %}
<a href="#{{ section.anchor }}">{{ section.title }}</a>
{% endfor %}
</nav>
<main>
{% for section in sections %}
<section id="{{ section.anchor }}">
<h2>{{ section.title }}</h2>
{% for block in section.blocks %}
{% if block is picture %}
{% if loop.previtem is not picture %}
<div class="gallery">
{% endif %}
{{ figure(block) }}
{% if loop.nextitem is not picture %}
</div>
{% endif %}
{% elif block is table %}
{# Reached with the keyboard, because it may scroll. -#}
<div class="wide" tabindex="0"><table>
<thead><tr>
{%- for cell in block.header %}{% if cell %}<th scope="col">{{ cell }}</th>{% else %}<td></td>{% endif %}{% endfor -%}
</tr></thead>
<tbody>
{% for row in block.rows %}
<tr><th scope="row">{{ row[0] }}</th>
{%- for cell in row[1:] -%}
{# Numbers are not broken; on a narrow screen the table scrolls. -#}
<td{% if cell | length <= 26 %} class=short{% endif %}>{{ cell }}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% if block.note %}
<p class="note">{{ block.note }}</p>
{% endif %}
{% elif block is heading %}
<h3>{{ block.text }}</h3>
{% elif block is link %}
<p><a href="{{ block.href | urlencode }}">{{ block.text }}</a></p>
{% elif block is thumbnails %}
<div class="thumbnails">
{% for picture in block.pictures %}
{{ figure(picture) }}
{% endfor %}
</div>
{% else %}
<p>{{ block }}</p>
{% endif %}
{% endfor %}
</section>
{% endfor %}
</main>
</body>
</html>
"""
