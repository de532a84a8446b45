"""Files by the paths that tables have for them; `test_own.py` has those of other computers."""

from pneumonia.data.finder import Finder, plain
from tests.data.conftest import place


def test_a_path_counts_from_the_folder_of_its_table_first() -> None:
    files = place(["a.png", "set/a.png", "set/b.png", "c.png"])
    inside, top = Finder(files, "set/"), Finder(files)
    paths = ("a.png", "b.png", "B.PNG", "c.png", "set\\b.png", "./a.png", "d.png")
    expected = ["set/a.png", "set/b.png", "set/b.png", "c.png", "set/b.png", "set/a.png", None]
    assert [inside.name(path) for path in paths] == expected
    assert [top.name(path) for path in paths] == ["a.png", None, None, "c.png", "set/b.png", "a.png", None]


def test_folders_are_separated_by_slashes() -> None:
    assert [plain(path) for path in ("a\\b.png", "file:///a/b.png", "./a//b.png ")] == [
        "a/b.png",
        "/a/b.png",
        "a/b.png",
    ]
