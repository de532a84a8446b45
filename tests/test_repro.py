"""Own images are chosen by settings that DVC reads as they were meant."""

import re
from pathlib import Path

import pytest

from pneumonia import UserError, params, repro


@pytest.fixture(scope="module")
def settings(repo: Path) -> params.Params:
    return params.load(repo / "params.yaml")


def read_by_hydra(setting: str) -> str:
    """What the grammar of Hydra makes of a text in single quotes: a quote and the backslashes before it are escaped."""
    text = re.fullmatch(r"fetch\.url='(.*)'", setting, re.DOTALL)[1]
    ends = re.sub(r"(\\+)\Z", lambda found: found[1][: len(found[1]) // 2], text)
    return re.sub(r"(\\+)'", lambda found: found[1][: len(found[1]) // 2] + "'", ends)


def test_a_folder_sets_the_data_and_its_place(settings: params.Params, tmp_path: Path) -> None:
    assert repro.own_images("/", settings, tmp_path) == ["data=folder", "fetch.url='/'"]
    (tmp_path / "films").mkdir()
    assert repro.own_images("films", settings, tmp_path) == ["data=folder", "fetch.url='films'"]
    assert repro.own_images("s3://bucket/films", settings, tmp_path)[1] == "fetch.url='s3://bucket/films'"


def test_the_checksum_of_another_archive_is_taken_away(settings: params.Params, tmp_path: Path) -> None:
    other = settings.model_copy(update={"fetch": settings.fetch.model_copy(update={"sha256": "a" * 64})})
    assert repro.own_images("/", other, tmp_path)[2:] == ["fetch.sha256=null"]


@pytest.mark.parametrize("name", ["a b", "it's", "a=b, c", "back\\slash", "end\\", "\\'", "{a}[b]", "null", "#", "ä"])
def test_a_name_of_any_signs_arrives_as_it_is(settings: params.Params, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert read_by_hydra(repro.own_images(name, settings, tmp_path)[1]) == name


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "nowhere: no such folder, table or archive"),
        ("s3://bucket/${seed}", "DVC reads ${ as a reference"),
        ("https://user:pass-word@host/a.zip", "PNEUMONIA_FETCH_PASSWORD"),
    ],
)
def test_a_place_that_cannot_be_set_is_one_line(
    settings: params.Params, tmp_path: Path, place: str, words: str
) -> None:
    with pytest.raises(UserError) as error:
        repro.own_images(place, settings, tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "pass-word" not in str(error.value)


def test_params_yaml_that_stays_changed_is_named_with_the_way_back() -> None:
    assert "git checkout params.yaml" in repro.NOTE
