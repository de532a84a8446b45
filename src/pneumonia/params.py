"""The settings of `params.yaml`, checked: unknown keys, wrong types and values out of range are one-line errors.

Each section has one frozen model with the name of its stage. Only `stages/` and the command line read them; all
other code takes plain values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pneumonia import UserError, credentials

Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

SaliencyMethod = Literal[
    "hires_cam",
    "layer_cam",
    "grad_cam",
    "integrated_gradients",
    "smoothgrad",
    "gradient_x_input",
    "occlusion",
    "detector_map",
]

NEUTRAL = {
    "target": "pneumonia",
    "fetch.shortcut": "none",
    "fetch.shortcut_strength": "0.9",
    "rebalance.folds": "1",
    "external": "{sources: []}",
    "tune.select": "auc",
    "train.hide_edges": "0.0",
    "train.box_weight": "0.5",
    "promote.confidence": "null",
}
"""Settings that a params.yaml of the last release lacks, and the value with which all is as it was there."""


class Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Fetch(Section):
    url: str | None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    n_images: Annotated[int, Field(ge=40, le=1_000_000)]
    seed: Seed
    classes: dict[Literal["normal", "pneumonia"], list[str]]
    max_left_out: Annotated[float, Field(ge=0, le=1)]
    lungs: str | None
    shortcut: Literal["none", "marker", "proportions", "exposure"]
    shortcut_strength: Annotated[float, Field(ge=0.5, le=1)]


class Validate(Section):
    min_side: Annotated[int, Field(ge=1)]
    min_std: Annotated[float, Field(ge=0, le=128)]
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)]


class Rebalance(Section):
    strategy: Literal["class_weight", "oversample", "undersample", "none"]
    acquisition: Annotated[float, Field(ge=1, le=100)]
    official_test: Literal["use", "leave_out"]
    test_fraction: Annotated[float, Field(ge=0.05, le=0.5)]
    val_fraction: Annotated[float, Field(ge=0.05, le=0.5)]
    folds: Annotated[int, Field(ge=1, le=20)]
    seed: Seed


class Preprocess(Section):
    image_size: Annotated[int, Field(ge=16, le=2048)]
    aspect: Literal["pad", "cover", "squash", "lungs"]
    margin: Annotated[float, Field(ge=0, le=0.5)]
    crop: Annotated[float, Field(ge=0, le=0.4)]
    clip_limit: Annotated[float, Field(ge=0, le=40)]
    tile_grid: Annotated[int, Field(ge=1, le=64)]
    clahe: Literal["before", "after"]


class ExternalSource(Section):
    name: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,39}$")]
    data: str
    url: str | None


class External(Section):
    sources: Annotated[list[ExternalSource], AfterValidator(lambda sources: _check_names(sources))]


class Train(Section):
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    image_size: Annotated[int, Field(ge=16, le=2048)] | None
    patience: Annotated[int, Field(ge=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    crop: Annotated[float, Field(gt=0, le=1)]
    flip: bool
    hide_edges: Annotated[float, Field(ge=0, le=1)]
    augment: Annotated[float, Field(ge=0, le=1)]
    strength: Annotated[float, Field(ge=0, le=3)]
    mixup: Annotated[float, Field(ge=0, le=10)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    average: Annotated[float, Field(ge=0, lt=1)]
    keep: Literal["best", "last"]
    head_epochs: Annotated[int, Field(ge=0)]
    copies: Annotated[int, Field(ge=1)]
    unfreeze: Annotated[float, Field(ge=0, le=1)]
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    box_weight: Annotated[float, Field(ge=0, le=100)]


class Tune(Section):
    n_trials: Annotated[int, Field(ge=0)]
    epochs: Annotated[int, Field(ge=1)]
    sampler: Literal["tpe", "random", "grid"]
    pruner: Literal["hyperband", "median", "none"]
    space: Annotated[Any, AfterValidator(lambda space: _check_space(space))]
    repeat_best: Annotated[int, Field(ge=0)]
    repeat_seeds: Annotated[int, Field(ge=1, le=20)]
    select: Literal["auc", "ap"]


class Evaluate(Section):
    level: Fraction
    target_sensitivity: Fraction


class Explain(Section):
    methods: Annotated[list[SaliencyMethod], Field(min_length=1)]
    n_images: Annotated[int, Field(ge=1)]
    n_scored: Annotated[int, Field(ge=1)]
    n_samples: Annotated[int, Field(ge=1)]


class Export(Section):
    max_difference: Annotated[float, Field(gt=0, le=0.01)]
    false_alarms: Annotated[float, Field(gt=0, le=0.1)]


class Promote(Section):
    min_common: Annotated[int, Field(ge=1)]
    min_gain: Annotated[float, Field(ge=0, lt=1)]
    confidence: Fraction | None
    min_sensitivity: Annotated[float, Field(ge=0, le=1)]
    max_ece: Annotated[float, Field(ge=0, le=1)]


class Compute(Section):
    workers: Annotated[int, Field(ge=1)] | None
    dask: Annotated[str, Field(pattern=r"^(tcp|tls|ucx|ws|wss|inproc)://")] | None
    memory: Annotated[
        float, Field(ge=2.5)
    ]  # with less, a pool of `train` does not fit and each chunk is read many times
    trial_workers: Annotated[int, Field(ge=1, le=1000)]
    study_storage: str | None


class Params(Section):
    """All of `params.yaml`."""

    seed: Seed
    data: str
    model: str
    weights: str
    target: str
    fetch: Fetch
    validation: Annotated[Validate, Field(alias="validate")]  # `validate` is a method of BaseModel
    rebalance: Rebalance
    preprocess: Preprocess
    external: External
    tune: Tune
    train: Train
    evaluate: Evaluate
    explain: Explain
    export: Export
    promote: Promote
    compute: Compute


SEARCHED: dict[str, Any] = {
    "learning_rate": Annotated[float, Field(gt=0, le=1)],
    "head_learning_rate": Annotated[float, Field(gt=0, le=1)],
    "dropout": Annotated[float, Field(ge=0, lt=1)],
    **{
        name: Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        for name, field in Train.model_fields.items()
        if name not in ("epochs", "patience")  # the same for all trials
    },
}
"""Keys that `tune.space` may have, with the values that each may take."""

_FORM = "{low: 0.0003, high: 0.003, log: true}, {low: 0, high: 0.4, step: 0.1} or a list such as [16, 32]"


def _check_space(space: Any) -> Any:
    if space is None:
        return None
    if not isinstance(space, dict) or not space:
        raise ValueError(f"give null for the space of the model, or a key with {_FORM}")
    for key, choice in space.items():
        if key not in SEARCHED:
            close = difflib.get_close_matches(str(key), SEARCHED, n=1, cutoff=0.8)
            meant = f"did you mean {close[0]}? Known: " if close else "known here: "
            raise ValueError(f"unknown key {key}; {meant}{', '.join(SEARCHED)}")
        _check_choice(key, choice)
    return space


def _check_choice(key: str, choice: Any) -> None:
    if isinstance(choice, list):
        if len({str(value) for value in choice}) < max(2, len(choice)):
            raise ValueError(f"{key}: {choice} needs at least two values, all different")
        for value in choice:
            _check_value(key, value)
        return
    if not isinstance(choice, dict) or not {"low", "high"} <= set(choice) <= {"low", "high", "log", "step"}:
        raise ValueError(f"{key}: {choice!r} is not {_FORM}")
    low, high, log, step = choice["low"], choice["high"], choice.get("log", False), choice.get("step")
    for value in (low, high):
        if value is None or isinstance(value, str):
            raise ValueError(f"{key}: {value!r} is a word, which has no range; give a list")
        _check_value(key, value)
    if not low < high:
        raise ValueError(f"{key}: the range from {low} to {high} is empty; low must be below high")
    if not isinstance(log, bool) or (log and low <= 0):
        raise ValueError(f"{key}: a log scale is true or false, and needs low above 0, not {low}")
    if step is not None and (
        not isinstance(step, (int, float)) or isinstance(step, bool) or not 0 < step <= high - low
    ):
        raise ValueError(f"{key}: step = {step} must be above 0 and at most {high - low:g}")
    if step and log:
        raise ValueError(f"{key}: give log or step, not both")
    if step is not None and not _is_valid(key, low + step):
        raise ValueError(f"{key}: step = {step} must be a whole number")


def _is_valid(key: str, value: Any) -> bool:
    try:
        _check_value(key, value)
    except ValueError:
        return False
    return True


def _check_value(key: str, value: Any) -> None:
    try:
        TypeAdapter(SEARCHED[key], config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ValueError(f"{key} = {value!r}: {problem[0].lower()}{problem[1:]}") from error


def _check_names(sources: list[ExternalSource]) -> list[ExternalSource]:
    names = [one.name for one in sources]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ValueError(f"two sources have the name {twice}; give each its own")
    return sources


def load(path: str | Path = "params.yaml") -> Params:
    """The checked settings.

    Raises:
        UserError: one line with the key, its value and the allowed values.
    """
    try:
        values = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run from the project's folder") from error
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an impossible date
        cause = credentials.masked(" ".join(str(error).split()))  # it quotes the line
        raise UserError(f"{path}: not valid YAML ({cause})") from error
    return check(values, str(path))


def check(values: Any, source: str) -> Params:
    """The checked settings; `source` is their name in messages.

    Raises:
        UserError: one line with the key, its value and the allowed values; or an address contains a secret, which DVC
            and MLflow would store.
    """
    for key, text in _texts(values):
        if refusal := credentials.refusal(key, text):
            raise UserError(f"{source}: {refusal}")
    try:
        settings = Params.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_explain(source, problem) for problem in error.errors())) from error
    if settings.fetch.shortcut != "none" and settings.rebalance.official_test == "leave_out":
        raise UserError(
            f"{source}: fetch.shortcut = {settings.fetch.shortcut} needs rebalance.official_test: use; any other test "
            "split would have the shortcut too"
        )
    return settings


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in the settings with their keys; a name may be one, if a value was written in its place."""
    if isinstance(values, str):
        yield key, values
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from _texts(name, key)
            yield from _texts(value, f"{key}.{name}".lstrip("."))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _texts(value, key)


def _explain(source: str, problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path) or "the file"
    if problem["type"] == "extra_forbidden" and path in (["tune", "learning_rate"], ["tune", "dropout"]):
        return (
            f"{source}: {key} is now a key of tune.space, for example "
            "space: {learning_rate: {low: 0.0005, high: 0.003, log: true}, dropout: {low: 0.0, high: 0.3}}"
        )
    if problem["type"] == "extra_forbidden" and path == ["train", "members"]:
        return f"{source}: {key} is gone; remove it: rebalance.folds trains several networks"
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {key}; known here: {', '.join(_known_keys(path[:-1]))}"
    if problem["type"] == "missing":
        remedy = f" (add {path[-1]}: {NEUTRAL[key]} to work as before)" if key in NEUTRAL else ""
        return f"{source}: {key} is missing{remedy}"
    if path[:2] == ["fetch", "classes"] and problem["type"] in ("dict_type", "list_type"):
        return (
            f"{source}: {key} = {problem['input']!r}: lists of names were expected, such as "
            "{normal: [healthy], pneumonia: [sick]}"
        )
    text = problem["msg"].removeprefix("Value error, ")
    return f"{source}: {key} = {problem['input']!r}: {text[0].lower()}{text[1:]}"


def _known_keys(path: list[str]) -> list[str]:
    section: Any = Params
    for name in path:
        if name.isdigit():  # an item of a list
            (section,) = get_args(section)
        else:
            fields = section.model_fields.items()
            section = next(field.annotation for key, field in fields if name in (key, field.alias))
    return [field.alias or key for key, field in section.model_fields.items()]
