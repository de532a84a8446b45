"""Settings are right or end in one line that names the key, what arrived and what is allowed."""

import copy
import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from pneumonia import UserError, params
from pneumonia.data import sources
from pneumonia.models import networks
from pneumonia.saliency.methods import METHODS

FILE = Path(__file__).resolve().parent.parent / "params.yaml"
VALUES: dict[str, Any] = YAML(typ="safe").load(FILE.read_text())
ABSENT = object()
A = {"name": "a", "data": "folder", "url": "a.zip"}
"""A source of an external test."""


def changed(key: str, value: Any) -> dict[str, Any]:
    """The project's settings with one of them replaced, added or (`ABSENT`) taken away."""
    values = copy.deepcopy(VALUES)
    *sections, name = key.split(".")
    target = values
    for section in sections:
        target = target[section]
    if value is ABSENT:
        del target[name]
    else:
        target[name] = value
    return values


def message(key: str, value: Any) -> str:
    with pytest.raises(UserError) as caught:
        params.check(changed(key, value), "params.yaml")
    return str(caught.value)


# --- what is right ---


def test_the_settings_of_the_project_are_right() -> None:
    settings = params.load(FILE)
    assert settings.data in sources.DATASETS
    assert settings.model in networks.MODELS


def test_values_arrive_under_their_names() -> None:
    assert params.check(changed("validate.min_side", 65), "").validation.min_side == 65
    space = {"dropout": {"low": 0.0, "high": 0.4}, "batch_size": [16, 32]}
    assert params.check(changed("tune.space", space), "").tune.space == space
    assert params.check(changed("fetch.url", None), "").fetch.url is None


def test_settings_are_read_from_the_current_folder(in_project: Path) -> None:
    (in_project / "params.yaml").write_text(re.sub(r"^seed: \d+", "seed: 7777", FILE.read_text(), flags=re.MULTILINE))
    assert params.load().seed == 7777


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**31 - 1),
        ("weights", "../weights/mobilenet.h5"),
        ("fetch.n_images", 40),
        ("fetch.sha256", "0123456789abcdef" * 4),
        ("fetch.url", "s3://bucket/archive.zip"),
        ("fetch.classes", {"normal": ["healthy", "No Finding"], "pneumonia": ["sick"]}),
        ("fetch.classes", {"pneumonia": ["sick"]}),
        ("fetch.classes", {}),
        ("fetch.max_left_out", 0),
        ("fetch.max_left_out", 1),
        ("validate.max_bad_fraction", 0),
        ("rebalance.test_fraction", 0.5),
        ("preprocess.clip_limit", 0),
        ("external.sources", []),
        ("external.sources", [{"name": f"a{k}", "data": "rsna", "url": url} for k, url in enumerate((None, "x.zip"))]),
        ("tune.space", None),
        ("tune.space", {"learning_rate": {"low": 1e-6, "high": 1.0, "log": True}}),
        ("tune.space", {"dropout": {"low": 0, "high": 0.9, "step": 0.1}, "copies": {"low": 1, "high": 8, "step": 1}}),
        ("tune.space", {"keep": ["best", "last"], "head_epochs": {"low": 0, "high": 3}}),
        ("train.augment", 1),
        ("promote.min_gain", 0),
        ("promote.min_sensitivity", 1),
        ("promote.max_ece", 0),
        ("compute.workers", 1),
        ("compute.memory", 2.5),
        ("compute.memory", math.inf),
    ],
)
def test_the_ends_of_a_range_are_allowed(key: str, value: Any) -> None:
    params.check(changed(key, value), "params.yaml")


def test_settings_cannot_be_changed_once_read() -> None:
    settings = params.check(VALUES, "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 2  # type: ignore[misc]


# --- what is wrong ---


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        # unknown keys list the known ones
        ("sede", 1, "unknown key sede; known here: seed, data, model, weights, target, fetch, validate, "),
        ("train.epoch", 10, "unknown key train.epoch; known here: epochs, batch_size, image_size, "),
        ("validate.min_size", 1, "unknown key validate.min_size; known here: min_side, min_std, max_bad_fraction"),
        # missing keys
        ("train.epochs", ABSENT, "train.epochs is missing"),
        ("rebalance", ABSENT, "rebalance is missing"),
        ("rebalance.folds", ABSENT, "rebalance.folds is missing (add folds: 1 to work as before)"),
        ("external", ABSENT, "external is missing (add external: {sources: []} to work as before)"),
        ("external.sources", [{"name": "a", "data": "rsna"}], "external.sources.0.url is missing"),
        ("promote.confidence", ABSENT, "promote.confidence is missing (add confidence: null to work as before)"),
        # wrong types; nothing is converted silently
        ("seed", "1", "seed = '1': input should be a valid integer"),
        ("seed", True, "seed = True: input should be a valid integer"),
        ("train.epochs", 5.0, "train.epochs = 5.0: input should be a valid integer"),
        ("train.epochs", None, "train.epochs = None: input should be a valid integer"),
        ("validate.min_std", "4", "validate.min_std = '4': input should be a valid number"),
        ("data", ["phantom"], "data = ['phantom']: input should be a valid string"),
        ("fetch.url", 5, "fetch.url = 5: input should be a valid string"),
        (
            "fetch.classes",
            {"normal": "healthy"},
            "fetch.classes.normal = 'healthy': lists of names were expected, such as",
        ),
        ("fetch.classes", {"normal": [0]}, "fetch.classes.normal.0 = 0: input should be a valid string"),
        ("fetch.classes", {"healthy": []}, "fetch.classes.healthy.[key] = 'healthy': input should be 'normal' or"),
        ("fetch.classes", None, "fetch.classes = None: lists of names were expected, such as {normal: [healthy], "),
        ("fetch.max_left_out", 5, "fetch.max_left_out = 5: input should be less than or equal to 1"),
        ("external.sources", None, "external.sources = None: input should be a valid list"),
        ("external.sources", ["a"], "external.sources.0 = 'a': input should be a valid dictionary"),
        # out of range
        ("seed", -1, "seed = -1: input should be greater than or equal to 0"),
        ("seed", 2**31, "seed = 2147483648: input should be less than 2147483648"),
        ("fetch.n_images", 39, "fetch.n_images = 39: input should be greater than or equal to 40"),
        ("rebalance.test_fraction", 0.6, "rebalance.test_fraction = 0.6: input should be less than or equal to 0.5"),
        ("rebalance.val_fraction", 0, "rebalance.val_fraction = 0: input should be greater than or equal to 0.05"),
        ("preprocess.image_size", 8, "preprocess.image_size = 8: input should be greater than or equal to 16"),
        ("train.augment", 1.5, "train.augment = 1.5: input should be less than or equal to 1"),
        ("train.weight_decay", math.nan, "train.weight_decay = nan: input should be less than or equal to 1"),
        ("evaluate.level", 1.0, "evaluate.level = 1.0: input should be less than 1"),
        ("rebalance.folds", 0, "rebalance.folds = 0: input should be greater than or equal to 1"),
        ("rebalance.folds", 21, "rebalance.folds = 21: input should be less than or equal to 20"),
        ("train.members", 3, "train.members is gone; remove it: rebalance.folds trains several networks"),
        ("promote.confidence", 1.0, "promote.confidence = 1.0: input should be less than 1"),
        ("promote.min_gain", -0.01, "promote.min_gain = -0.01: input should be greater than or equal to 0"),
        ("promote.min_gain", 1, "promote.min_gain = 1: input should be less than 1"),
        ("promote.min_sensitivity", 80, "promote.min_sensitivity = 80: input should be less than or equal to 1"),
        ("promote.max_ece", None, "promote.max_ece = None: input should be a valid number"),
        ("compute.workers", 0, "compute.workers = 0: input should be greater than or equal to 1"),
        ("compute.memory", 0, "compute.memory = 0: input should be greater than or equal to 2.5"),
        ("compute.memory", None, "compute.memory = None: input should be a valid number"),
        ("fetch.sha256", "A" * 64, f"fetch.sha256 = '{'A' * 64}': string should match pattern '^[0-9a-f]{{64}}$'"),
        ("external.sources", [A | {"name": "A b"}], "external.sources.0.name = 'A b': string should match pattern"),
        ("external.sources", [A, A], "two sources have the name a; give each its own"),
        ("external.sources", [A | {"place": "x"}], "unknown key external.sources.0.place; known here: name, data, url"),
        ("external.sources", [A | {"url": "https://me:pw@example.org/x.zip"}], "external.sources.url = https://***@"),
        # names of a table
        (
            "preprocess.aspect",
            "crop",
            "preprocess.aspect = 'crop': input should be 'pad', 'cover', 'squash' or 'lungs'",
        ),
        (
            "rebalance.strategy",
            "smote",
            "rebalance.strategy = 'smote': input should be 'class_weight', 'oversample', 'undersample' or 'none'",
        ),
        # ranges
        ("tune.space", {}, "give null for the space of the model, or a key with {low"),
        ("tune.space", [1, 2], "give null for the space of the model, or a key with {low"),
        ("tune.space", {"lr": [1, 2]}, "unknown key lr; known here: learning_rate, head_learning_rate, dropout, batch"),
        ("tune.space", {"epochs": [1, 2]}, "unknown key epochs; known here: learning_rate"),
        (
            "tune.space",
            {"learning_rat": [1, 2]},
            "unknown key learning_rat; did you mean learning_rate? Known: learning_rate",
        ),
        ("tune.space", {"dropout": [0.1]}, "dropout: [0.1] needs at least two values, all different"),
        ("tune.space", {"dropout": [0.1, 0.1]}, "dropout: [0.1, 0.1] needs at least two values, all different"),
        ("tune.space", {"dropout": [0.1, 1.0]}, "dropout = 1.0: input should be less than 1"),
        ("tune.space", {"dropout": 0.1}, "dropout: 0.1 is not {low"),
        ("tune.space", {"dropout": {"low": 0.1}}, "dropout: {'low': 0.1} is not {low"),
        ("tune.space", {"dropout": {"low": 0.1, "high": 0.2, "mid": 0}}, "'mid': 0} is not {low"),
        ("tune.space", {"dropout": {"low": 0.4, "high": 0.1}}, "dropout: the range from 0.4 to 0.1 is empty"),
        ("tune.space", {"dropout": {"low": 0.4, "high": 0.4}}, "dropout: the range from 0.4 to 0.4 is empty"),
        (
            "tune.space",
            {"dropout": {"low": 0, "high": 0.4, "log": True}},
            "a log scale is true or false, and needs",
        ),
        ("tune.space", {"dropout": {"low": 0.1, "high": 0.4, "log": 1}}, "a log scale is true or false, and needs"),
        ("tune.space", {"dropout": {"low": 0.1, "high": 0.4, "step": 0}}, "step = 0 must be above 0 and at most 0.3"),
        ("tune.space", {"dropout": {"low": 0.1, "high": 0.4, "step": 1}}, "step = 1 must be above 0 and at most 0.3"),
        (
            "tune.space",
            {"dropout": {"low": 0.1, "high": 0.4, "step": 0.1, "log": True}},
            "dropout: give log or step, not both",
        ),
        ("tune.space", {"batch_size": {"low": 8, "high": 9.5}}, "batch_size = 9.5: input should be a valid integer"),
        ("tune.space", {"batch_size": {"low": 8, "high": 16, "step": 0.5}}, "step = 0.5 must be a whole number"),
        ("tune.space", {"image_size": {"low": 96, "high": 128, "step": 0.5}}, "step = 0.5 must be a whole number"),
        ("tune.space", {"image_size": {"low": None, "high": 128}}, "None is a word, which has no range; give a list"),
        ("tune.space", {"keep": {"low": "best", "high": "last"}}, "keep: 'best' is a word, which has no range"),
        ("tune.space", {"keep": ["best", "first"]}, "keep = 'first': input should be 'best' or 'last'"),
        ("tune.space", {"learning_rate": {"low": 0, "high": 0.1}}, "learning_rate = 0: input should be greater than 0"),
        ("tune.learning_rate", [0.001, 0.01], "is now a key of tune.space, for example space: {learning_rate: {low:"),
        ("tune.sampler", "cma", "tune.sampler = 'cma': input should be 'tpe', 'random' or 'grid'"),
        # what `-S fetch=phantom` makes of a section
        ("fetch", "phantom", "fetch = 'phantom': input should be a valid dictionary"),
        ("validate", None, "validate = None: input should be a valid dictionary"),
    ],
)
def test_a_wrong_setting_is_one_line_with_key_value_and_what_is_allowed(key: str, value: Any, expected: str) -> None:
    said = message(key, value)
    assert said.startswith("params.yaml: ")
    assert expected in said
    assert key in said
    assert "\n" not in said


def test_every_setting_is_needed() -> None:
    """A key left out would take a default that stands in no file."""
    keys = [*VALUES, *(f"{name}.{key}" for name, value in VALUES.items() if isinstance(value, dict) for key in value)]
    for key in keys:
        assert message(key, ABSENT).split(" (")[0] == f"params.yaml: {key} is missing"


def test_all_mistakes_are_named_at_once() -> None:
    said = message("train", VALUES["train"] | {"epochs": 0, "batch_size": "many"})
    assert "train.epochs = 0" in said
    assert "train.batch_size = 'many'" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"seed: [1", "not valid YAML"),
        (b"seed: 1\nseed: 2\n", 'found duplicate key "seed"'),
        (b"fetch:\n\turl: x\n", "not valid YAML"),
        (b"!!python/object:os.system x", "not valid YAML"),
        (b"seed: \xff\xfe", "not valid YAML"),
        (b"seed: 2026-13-45", "not valid YAML"),
        (b"", "the file = None: input should be a valid dictionary"),
        (b"- seed\n", "the file = ['seed']: input should be a valid dictionary"),
    ],
)
def test_a_file_that_is_no_settings_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        params.load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert expected in said
    assert "\n" not in said


@pytest.mark.parametrize("name", ["params.yaml", "."])
def test_a_missing_file_is_one_line_with_the_remedy(in_project: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"^\S+: cannot be read \(.+\); run from the project's folder$"):
        params.load(name)


# --- what the file says of itself ---


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("data", list(sources.DATASETS)),
        ("model", list(networks.MODELS)),
        ("strategy", list(get_args(params.Rebalance.model_fields["strategy"].annotation))),
        ("aspect", list(get_args(params.Preprocess.model_fields["aspect"].annotation))),
    ],
)
def test_the_choices_named_beside_a_setting_are_the_choices_there_are(key: str, names: list[str]) -> None:
    (comment,) = re.findall(rf"^ *{key}: \w+ +# ([^;\n]+)", FILE.read_text(), re.MULTILINE)
    assert [name.strip() for name in comment.split("|")] == names


def test_the_methods_of_maps_are_those_of_their_table_and_an_unknown_one_is_refused() -> None:
    assert list(get_args(params.SaliencyMethod)) == list(METHODS)
    params.check(changed("explain.methods", list(METHODS)), "params.yaml")
    said = message("explain.methods", ["hires_cam", "grad-cam"])
    assert said.startswith("params.yaml: explain.methods.1 = 'grad-cam': input should be 'hires_cam', 'layer_cam', ")
