"""Forgotten patients are known again, and their file does not say who they are."""

from pathlib import Path

import pandas as pd
import pytest

from pneumonia import UserError
from pneumonia.data import forgotten

DIGEST = "ab" * 32
MANIFEST = pd.DataFrame({"patient_id": ["P1", "P2", "P3"], "sha256": ["0" * 64, "1" * 64, DIGEST]})


def test_without_a_file_nobody_is_forgotten(tmp_path: Path) -> None:
    nobody = forgotten.read(tmp_path)
    assert nobody == forgotten.NOBODY
    assert forgotten.rows(MANIFEST, nobody) == [False, False, False]
    assert not forgotten.contains(nobody, "P1")


def test_a_patient_and_copies_of_the_images_under_other_names_are_known_again(tmp_path: Path) -> None:
    forgotten.add(tmp_path, "P1", [DIGEST])
    forgotten.add(tmp_path, "Müller/é", [])
    known = forgotten.read(tmp_path)
    assert forgotten.rows(MANIFEST, known) == [True, False, True]
    assert forgotten.contains(known, "Müller/é")
    assert not forgotten.contains(known, "P11")


def test_the_file_contains_no_identifier_and_no_digest(tmp_path: Path) -> None:
    for project in ("a", "b"):
        (tmp_path / project).mkdir()
        forgotten.add(tmp_path / project, "P0366", [DIGEST])
    texts = [(tmp_path / project / forgotten.FILE).read_text() for project in ("a", "b")]
    assert not any(name in text for name in ("P0366", DIGEST[:8]) for text in texts)
    lines = [{*text.splitlines()} - {"{", "}", "  ],", "  ]"} for text in texts]
    assert lines[0] & lines[1] == {'  "patients": [', '  "images": ['}, "each project has its own salt"


@pytest.mark.parametrize("content", ["", "{", '{"salt": "00"}', "[]"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / forgotten.FILE).write_text(content)
    with pytest.raises(UserError, match=r"is damaged: .*; git checkout forgotten\.json restores it$"):
        forgotten.read(tmp_path)
