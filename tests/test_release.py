"""What names the version of a release names the same one."""

import re
import tomllib

from ruamel.yaml import YAML

import pneumonia
from tests.conftest import ROOT


def test_version_and_date_are_the_same_in_all_places() -> None:
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    version, date = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pneumonia.__version__ == project["version"] == citation["version"] == version
    assert str(citation["date-released"]) == date
