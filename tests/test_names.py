"""Names that others chose."""

import re

from hypothesis import given
from hypothesis import strategies as st

from pneumonia.names import file_name, printable

NAMES = st.text(st.characters(), max_size=150)


@given(NAMES)
def test_a_printable_text_is_one_line_without_orders_to_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


@given(NAMES.filter(str.isprintable))
def test_a_text_that_can_be_printed_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(NAMES, NAMES)
def test_each_name_has_its_own_file_that_every_system_can_have(one: str, other: str) -> None:
    files = [file_name(name, ".png") for name in (one, other)]
    assert all(re.fullmatch(r"([A-Za-z0-9_]{1,100})?-[0-9a-f]{12}\.png", file) for file in files)
    assert (files[0].lower() == files[1].lower()) == (one == other)
