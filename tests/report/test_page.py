"""A page needs no other file, nothing in it is markup by accident, and its Markdown says the same."""

import base64
import re
from html.parser import HTMLParser

import pytest

from pneumonia.report import page
from pneumonia.report.page import Heading, Link, Picture, Section, Table, Thumbnails

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
JPEG = b"\xff\xd8jpeg"
MARKUP = """<b>"A" & 'B'</b>"""
SECTIONS = [
    Section(
        "Some figures",
        [
            "A paragraph.",
            Table(("name", "value"), [("AUC", "0.875"), ("a|b", "x" * 27)], "A note."),
            Picture("first", PNG),
            Picture("second", JPEG),
            "Another paragraph.",
            Picture("third", PNG),
        ],
    ),
    Section(f"Of {MARKUP}", [MARKUP, Table((MARKUP,), [(MARKUP, MARKUP)], MARKUP), Picture(MARKUP, PNG)]),
    Section("Empty", []),
]


class Reader(HTMLParser):
    """What a browser reads from a page: text, links, sources; fails where tags are not closed in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.sources, self.targets, self.ids, self.open = "", [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [values["src"]] if "src" in values else []
        self.targets += [values["href"]] if "href" in values else []
        self.ids += [values["id"]] if "id" in values else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture(scope="module")
def source() -> str:
    return page.html(f"A page {MARKUP}", f"lead {MARKUP}", SECTIONS)


def test_a_page_needs_no_other_file(source: str) -> None:
    reader = Reader(source)
    assert [url.split(";")[0] for url in reader.sources] == [
        f"data:image/{kind}" for kind in ("png", "jpeg", "png", "png")
    ]
    assert base64.b64decode(reader.sources[1].split(",")[1]) == JPEG
    assert not re.search(r"https?://|<script|@import|url\(", source)


def test_each_section_has_a_link_to_it(source: str) -> None:
    reader = Reader(source)
    assert len(set(reader.ids)) == len(SECTIONS)
    assert reader.targets == [f"#{anchor}" for anchor in reader.ids]
    assert reader.ids[0] == "some-figures"


def test_text_is_never_markup(source: str) -> None:
    assert "<b>" not in source
    # Title and heading of the page, its lead; link and heading of the section; a paragraph, a table, alt and caption.
    assert Reader(source).text.count(MARKUP) == 3 + 2 + 1 + 4 + 1
    assert source.count("&lt;b&gt;") == 3 + 2 + 1 + 4 + 2


def test_pictures_that_follow_each_other_form_a_gallery(source: str) -> None:
    galleries = re.findall(r'<div class="gallery">(.*?)</div>', source, re.DOTALL)
    captions = [re.findall("<figcaption>(.*?)</figcaption>", gallery) for gallery in galleries]
    assert captions[:2] == [["first", "second"], ["third"]]
    assert len(captions) == 3


def test_short_cells_stay_on_one_line(source: str) -> None:
    assert "<td class=short>0.875</td>" in source
    assert f"<td>{'x' * 27}</td>" in source


def test_a_table_without_a_note_has_no_empty_line_below() -> None:
    section = Section("s", [Table(("a",), [("b",)])])
    assert 'class="note"' not in page.html("t", "l", [section])
    assert page.markdown("t", "l", [section]).endswith("| b |\n")


def test_markdown_says_the_same_with_captions_instead_of_pictures() -> None:
    assert (
        page.markdown("A page", "lead", SECTIONS[:1])
        == f"""\
# A page

lead

## Some figures

A paragraph.

| name | value |
| --- | --- |
| AUC | 0.875 |
| a/b | {"x" * 27} |

A note.

*Picture in the HTML page: first*

*Picture in the HTML page: second*

Another paragraph.

*Picture in the HTML page: third*
"""
    )


def test_headings_links_and_small_pictures_are_inside_a_section() -> None:
    blocks = [Heading(MARKUP), Link(MARKUP, "a b/<x>.html"), Thumbnails([Picture("one", PNG), Picture("two", JPEG)])]
    source = page.html("t", "l", [Section("s", blocks)])
    reader = Reader(source)
    assert reader.targets == ["#s", "a%20b/%3Cx%3E.html"]
    assert [url.split(";")[0] for url in reader.sources] == ["data:image/png", "data:image/jpeg"]
    assert source.count('<div class="thumbnails">') == source.count("<h3>") == 1
    assert page.markdown("t", "l", [Section("s", blocks)]).split("\n\n")[3:] == [
        "### &lt;b&gt;\"A\" &amp; 'B'&lt;/b&gt;",
        "[&lt;b&gt;\"A\" &amp; 'B'&lt;/b&gt;](a%20b/%3Cx%3E.html)",
        "*Picture in the HTML page: one*",
        "*Picture in the HTML page: two*\n",
    ]


def test_markdown_is_read_back_without_pictures_and_links() -> None:
    blocks = [MARKUP, Heading("inside"), Table(("", "[0, 1]"), [("x", "f(x)"), ("~", "")]), "[a](b) or [0, 1]: `c`"]
    dropped = [Picture("p", PNG), Link("l", "l.html"), Thumbnails([Picture("q", PNG)])]
    sections = [Section(MARKUP, [*blocks, *dropped]), Section("Empty", [])]
    assert page.read_markdown(page.markdown("t", "l", sections)) == [Section(MARKUP, blocks), Section("Empty", [])]
