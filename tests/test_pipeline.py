"""What must agree with what: dvc.yaml with the imports, params.yaml with its models, documents with the Makefile."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pneumonia import params
from pneumonia.training.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
SETTINGS: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]

# Outs with figures in them: their stages depend on the module that draws.
FIGURES = ("reports/saliency", "reports/plots", "reports/data.html")

# They cannot change a result, and a renamed tag must not train anything again. The registry is none of them: it decides
# who is champion.
NO_DEPENDENCY = {
    "src/pneumonia/params.py",
    "stages/__init__.py",
    *(str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("__init__.py")),
    "src/pneumonia/tracking/descriptions.py",
    "src/pneumonia/tracking/errors.py",
    "src/pneumonia/tracking/runs.py",
    "src/pneumonia/tracking/restore.py",
    "src/pneumonia/outs.py",
}


def imported_files(path: Path) -> set[str]:
    """Files of this project that a file imports, `pneumonia` and `stages` alike, inside functions too.

    The empty `__init__.py` of a package is no dependency: there is nothing in it that could change.
    """
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = ROOT / ("src" if name.startswith("pneumonia") else "") / name.replace(".", "/")
            if name.split(".")[0] in ("pneumonia", "stages"):
                imported |= {
                    str(file.relative_to(ROOT))
                    for file in (place.with_suffix(".py"), place / "__init__.py")
                    if file.is_file() and file.stat().st_size
                }
    return imported


def import_closure(start: str) -> set[str]:
    """All files of this project that running a file may read as code, less those that cannot change a result."""
    seen, waiting = set(), {start}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= imported_files(ROOT / file) - seen - NO_DEPENDENCY
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_of_a_stage_are_its_import_closure(stage: str) -> None:
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    expected = import_closure(f"stages/{stage}.py")
    if not any(out in STAGES[stage]["outs"] for out in FIGURES):
        expected.discard("src/pneumonia/report/plots.py")  # its figures go to MLflow only
    assert declared == expected


def test_a_setting_of_the_recipe_trains_the_trials_again() -> None:
    declared = {name.removeprefix("train.") for name in STAGES["tune"]["params"] if name.startswith("train.")}
    assert declared == {"epochs", *Recipe._fields}


def test_another_target_fetches_and_validates_nothing_again() -> None:
    takes = {name for name, stage in STAGES.items() if "target" in stage["params"]}
    reads = {name for name in STAGES if "targets.target(settings.target)" in (ROOT / f"stages/{name}.py").read_text()}
    assert "rebalance" in reads <= takes
    for name in ("fetch", "validate"):
        assert name not in takes
        assert "src/pneumonia/data/targets.py" not in STAGES[name]["deps"]  # nor does another row of the table


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_module_is_section_is_test(stage: str) -> None:
    assert (ROOT / f"stages/{stage}.py").is_file()
    assert (ROOT / f"src/pneumonia/{stage}.py").is_file()
    assert (ROOT / f"tests/test_{stage}.py").is_file()
    assert stage in SETTINGS or stage == "backbone", "backbone has no settings but the selectors"
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"


def test_every_module_has_a_test_file_at_its_place_in_the_tree() -> None:
    package = ROOT / "src/pneumonia"
    modules = {path.relative_to(package) for path in package.rglob("*.py") if path.name != "__init__.py"}
    tests = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {module.with_name(f"test_{module.name}") for module in modules} <= tests


def test_packages_export_nothing() -> None:
    # An import of one module must not be an import of all: the borders of files are those of DVC's cache.
    for path in (ROOT / "src/pneumonia").rglob("*/__init__.py"):
        assert not path.read_text() or path.parent.name == "tracking", f"{path} is not empty"


def test_each_data_dependency_is_an_out_of_an_earlier_stage() -> None:
    made: set[str] = set()
    for stage in STAGES.values():
        assert {dep for dep in stage["deps"] if not dep.endswith(".py")} <= made
        made |= {*stage.get("outs", []), *stage.get("metrics", [])}


def test_params_yaml_and_its_models_have_the_same_keys_in_the_same_order() -> None:
    checked = params.check(SETTINGS, "params.yaml")
    assert list(checked.model_dump(by_alias=True)) == list(SETTINGS)
    for name, section in checked.model_dump(by_alias=True).items():
        if isinstance(section, dict):
            assert list(section) == list(SETTINGS[name])


def test_stage_scripts_are_thin() -> None:
    for stage in STAGES:
        lines = (ROOT / f"stages/{stage}.py").read_text().splitlines()
        assert len(lines) <= 75, f"stages/{stage}.py has {len(lines)} lines"


def test_no_out_persists_or_is_uncached() -> None:
    # DVC's run cache restores no stage whose outs are uncached, persistent, or that runs always.
    for name, stage in STAGES.items():
        assert not stage.get("always_changed"), name
        for out in (*stage.get("outs", []), *stage.get("metrics", [])):
            assert isinstance(out, str), f"{name}: {out} has options"


def test_plots_are_drawn_from_outs() -> None:
    outs = {out for stage in STAGES.values() for out in stage.get("outs", [])}
    for plot in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"]:
        for definition in plot.values():
            for file in definition["y"]:
                assert file in outs or str(Path(file).parent) in outs


def test_every_plot_has_a_template_in_which_each_line_has_its_own_colour_and_mark() -> None:
    plots = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"]
    names = {name: one["template"] for plot in plots for name, one in plot.items()}
    assert names.keys() >= {"loss", "confusion", "decision-curve"}
    for plot, name in names.items():
        template = json.loads((ROOT / f".dvc/plots/{name}.json").read_text())
        assert template["data"]["values"] == "<DVC_METRIC_DATA>"
        if plot == "confusion":
            layers = template["spec"]["layer"]
            assert [layer["encoding"]["text"]["field"] for layer in layers if "text" in layer["encoding"]] == ["images"]
        else:
            assert {template["encoding"][channel]["field"] for channel in ("color", "shape")} == {"line"}


def drawn_fields(file: str) -> set[str]:
    """The columns of a table that plots draw."""
    plots = [one for plot in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"] for one in plot.values()]
    drawn = [(one["x"], one["y"][file]) for one in plots if file in one["y"]]
    return {x for x, _ in drawn} | {name for _, y in drawn for name in ([y] if isinstance(y, str) else y)}


def template_fields(name: str) -> set[str]:
    """The columns of a table that a template itself reads, less those that DVC or the template adds."""
    template = (ROOT / f".dvc/plots/{name}.json").read_text()
    added = {"rev", "field", "filename", *re.findall(r'"as": "(\w+)"', template)}
    return set(re.findall(r"datum\.(\w+)", template)) - added


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(name: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    prose = re.sub(r"^```.*?^```", "", page(name), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_make_commands_in_the_documents_exist() -> None:
    used = {name: set(re.findall(r"(?:`|\$ )make ([a-z-]+)", page(name))) for name in DOCUMENTS}
    assert used["README.md"]
    for name, targets in used.items():
        assert targets <= makefile_targets(), name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_in_the_documents_exist(name: str) -> None:
    for key in re.findall(r"-S ['\"]?([a-z_]+(?:\.[a-z_]+)?)=", page(name)):
        value: Any = SETTINGS
        for part in key.split("."):
            assert part in value, f"{name} sets {key}"
            value = value[part]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_sections_and_keys_named_in_the_documents_exist(name: str) -> None:
    sections = "|".join(section for section, value in SETTINGS.items() if isinstance(value, dict))
    for section, key in re.findall(rf"`({sections})\.([a-z_]+)\b(?!\.)", page(name)):
        assert key in SETTINGS[section], f"{name} names {section}.{key}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_in_the_documents_lead_to_a_file_and_a_heading(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.is_file(), f"{name} links {target}"
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), f"{name} links {target}"


def test_the_readme_links_every_page_of_the_documentation() -> None:
    assert {name for name in DOCUMENTS if name.startswith("docs/")} <= set(
        re.findall(r"\]\(([^)#\s]+)", page("README.md"))
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_short(name: str) -> None:
    n_words = len(page(name).split())
    assert n_words <= (1199 if name == "README.md" else 1500), f"{name} has {n_words} words"


def test_the_lock_pins_every_package_by_hash_and_names_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^\s+#.*\n", "", lock, flags=re.MULTILINE))
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    assert "://" not in lock
    assert "index-url" not in lock
