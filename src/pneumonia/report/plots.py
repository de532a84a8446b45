"""Figures from tables. The only module that imports matplotlib; every figure shows its units and n."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the backend: there may be no display
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pneumonia.data import tables
from pneumonia.metrics.text import format_with_interval

BLUE, ORANGE, GRAY, GREEN = "#2166ac", "#d6604d", "#777777", "#1b7837"
_NAME_LENGTH = 200
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.3,
}

Names = Mapping[int, str]
"""The names of class 0 and class 1."""

_FIXED: Any = {"figure.constrained_layout.use": False}
"""Of figures with many images: their places are known, and to compute them takes longer than to draw the figure."""


def roc(
    curve: pd.DataFrame,
    report: Mapping[str, float],
    point: tuple[float, float],
    title: str,
    names: Names = tables.LABELS,
) -> Figure:
    """ROC curve with its AUC, interval and the chosen operating point (false, true positive rate)."""
    heading = f"{title}\nn = {report['n']} ({report['n_positive']} {names[1]})"
    with _figure("1 - specificity", "sensitivity", heading) as (figure, axes):
        label = f"AUC {format_with_interval(report, 'auc')}"
        axes.plot(curve["fpr"], curve["tpr"], color=BLUE, label=label)
        axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="chance")
        axes.plot(*point, "o", color=ORANGE, label="threshold chosen on validation")
        axes.set_aspect("equal")
        _legend(figure)
    return figure


def overlaid_roc(parts: Mapping[str, Mapping[str, Any]], title: str, names: Names = tables.LABELS) -> Figure:
    """ROC curves of two models on the same images, each with its AUC, interval and operating point.

    Args:
        parts: name -> `roc` (`fpr, tpr`), `report` and `point` (false, true positive rate).
        title: models and images; its lines may be long.
        names: of the classes.
    """
    report = next(iter(parts.values()))["report"]
    heading = f"{_wrapped(title)}\nn = {report['n']} ({report['n_positive']} {names[1]})"
    with _figure("1 - specificity", "sensitivity", heading) as (figure, axes):
        for (name, part), colour, line in zip(parts.items(), (BLUE, ORANGE), ("-", "--"), strict=True):
            label = f"{name}: AUC {format_with_interval(part['report'], 'auc')}"
            # A dashed line over a solid one: both are visible where the curves coincide.
            axes.plot(part["roc"]["fpr"], part["roc"]["tpr"], color=colour, linestyle=line, label=label)
            axes.plot(*part["point"], "o", color=colour)
        axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="chance")
        axes.plot([], [], "o", color=GRAY, label="threshold chosen on validation")
        axes.set_aspect("equal")
        _legend(figure)
    return figure


def overlaid_reliability(parts: Mapping[str, Mapping[str, Any]], title: str, names: Names = tables.LABELS) -> Figure:
    """Reliability diagram of two models on the same images, in the colours of `overlaid_roc`.

    Args:
        parts: name -> `reliability` (as `calibration.diagram` returns it) and `report`.
        title: models and images; its lines may be long.
        names: of the classes.
    """
    pairs = {name: (part["reliability"], part["report"]) for name, part in parts.items()}
    return calibration(pairs, _wrapped(title), (BLUE, ORANGE), names)


def precision_recall(
    curve: pd.DataFrame, report: Mapping[str, float], title: str, names: Names = tables.LABELS
) -> Figure:
    """Precision-recall curve, with the prevalence as the precision of a random model."""
    with _figure("recall (sensitivity)", "precision", f"{title}\nn = {report['n']}") as (figure, axes):
        axes.plot(curve["recall"], curve["precision"], color=BLUE, label="model")
        axes.axhline(report["n_positive"] / report["n"], color=GRAY, linestyle=":", label=f"share of {names[1]}")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        _legend(figure)
    return figure


def calibration(
    parts: Mapping[str, tuple[pd.DataFrame, Mapping[str, float]]],
    title: str,
    colours: tuple[str, str] = (ORANGE, BLUE),
    names: Names = tables.LABELS,
) -> Figure:
    """Reliability diagram: share of class 1, with its interval, against mean score; below, the images of each bin.

    Args:
        parts: `before` and `after` calibration, each with its bins (`mean_score, fraction_positive, low, high, n`) and
            its report.
        title: model and images.
        colours: of the two parts.
        names: of the classes.
    """
    n = next(iter(parts.values()))[1]["n"]
    with plt.rc_context(_STYLE):
        figure, (axes, counts) = plt.subplots(2, 1, figsize=(6, 7.6), sharex=True, height_ratios=(4, 1.2))
        axes.set_title(f"{title}\nn = {n}", size=10)
        axes.set_ylabel(f"share of {names[1]}, with interval")
        axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="perfect")
        for (name, (bins, report)), colour, mark, side in zip(parts.items(), colours, "os", (1, -1), strict=True):
            label = f"{name}: ECE {report['ece']:.3f}, Brier {report['brier']:.3f}"
            x, share = bins["mean_score"], bins["fraction_positive"]
            axes.plot(x, share, mark, color=colour, markersize=6, label=label)
            axes.vlines(x, bins["low"], bins["high"], color=colour, alpha=0.7)
            # One upwards, one downwards: the bins of both have similar mean scores.
            bars = counts.bar(x, side * bins["n"], 0.03, color=colour)
            counts.bar_label(bars, [str(count) for count in bins["n"]], size=8, padding=1)
        axes.set_ylim(-0.03, 1.03)
        counts.set_xlim(-0.03, 1.03)
        counts.set_ylabel("images")
        counts.set_yticks([])
        counts.set_xlabel("mean score of the bin")
        counts.margins(y=0.3)
        _legend(figure)
    plt.close(figure)
    return figure


def decision_curve(
    table: pd.DataFrame, report: Mapping[str, float], title: str, names: Names = tables.LABELS
) -> Figure:
    """Net benefit of the model, before and after calibration, of treating all and of treating none.

    Args:
        table: `threshold, score, calibrated, treat_all, treat_none`.
        report: with `n` and `n_positive`.
        title: model and images.
        names: of the classes.
    """
    share = report["n_positive"] / report["n"]
    heading = f"{title}\nn = {report['n']}, {share:.1%} {names[1]}"
    with _figure("threshold probability", "net benefit (true positives per image)", heading) as (figure, axes):
        lines = (
            ("treat_all", "treat all", GREEN, ":", "^"),
            ("treat_none", "treat none", GRAY, "-", "D"),
            ("score", "model, raw scores", ORANGE, "--", "o"),
            ("calibrated", "model, calibrated", BLUE, "-", "s"),
        )
        for column, label, colour, style, mark in lines:
            drawn = {"color": colour, "linestyle": style, "marker": mark, "markersize": 4, "markevery": 0.12}
            axes.plot(table["threshold"], table[column], label=label, **drawn)
        axes.set_xlim(0, 1)
        # Without this limit the negative values would hide the positive ones.
        axes.set_ylim(-0.25 * max(share, 0.1), 1.1 * max(share, 0.1))
        _legend(figure)
    return figure


def stress(audit: Mapping[str, Any], title: str) -> Figure:
    """AUC of the unchanged and the changed images, with intervals.

    Args:
        audit: `auc` (name -> `auc, auc_low, auc_high`) and `n`, as `evaluate.audit` returns them.
        title: model and images.
    """
    names = list(audit["auc"])[::-1]
    with _figure("AUC", "", f"{title}\nn = {audit['n']}", height=0.8 + 0.36 * len(names)) as (figure, axes):
        axes.axvline(0.5, color=GRAY, linestyle=":")
        axes.axvline(audit["auc"]["clean"]["auc"], color=BLUE, linestyle=":")
        for place, name in enumerate(names):
            report = audit["auc"][name]
            colour = ORANGE if name.endswith(("_hidden", "_only", "_lungs", "_surroundings")) else BLUE
            axes.plot([report["auc_low"], report["auc_high"]], [place, place], color=colour)
            axes.plot(report["auc"], place, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_xlim(min(0.45, *(report["auc_low"] for report in audit["auc"].values())) - 0.02, 1.01)
    return figure


def confusion(table: pd.DataFrame, title: str, names: Names = tables.LABELS) -> Figure:
    """Confusion matrix: counts by actual and predicted class."""
    order = list(names.values())
    counts = pd.crosstab(table["actual"], table["predicted"]).reindex(index=order, columns=order, fill_value=0)
    with _figure("predicted", "actual", f"{title}\nn = {len(table)}") as (figure, axes):
        axes.grid(False)
        axes.imshow(counts, cmap="Blues")
        axes.set_xticks([0, 1], counts.columns)
        axes.set_yticks([0, 1], counts.index, rotation=90, va="center")
        for row, column in np.ndindex(2, 2):
            count = counts.iloc[row, column]
            dark = count > counts.to_numpy().max() / 2
            axes.text(column, row, count, ha="center", va="center", size=18, color="white" if dark else "black")
    return figure


def history(table: pd.DataFrame, title: str) -> Figure:
    """Loss and validation AUC per epoch, with folds a line for each; the kept epochs are marked."""
    kept = table[table["kept"]]
    parts = [part for _, part in table.groupby("fold")] if "fold" in table else [table]
    with _figure("epoch", "loss (binary cross-entropy, nats)", title) as (figure, axes):
        right = axes.twinx()
        curves = (
            (axes, "loss", BLUE, "train loss"),
            (axes, "val_loss", ORANGE, "validation loss"),
            (right, "val_auc", GREEN, "validation AUC"),
        )
        for side, column, colour, label in curves:
            for place, part in enumerate(parts):
                # With markers, because a single epoch has no line.
                side.plot(part["epoch"], part[column], ".-", color=colour, label=None if place else label)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        epochs = f"epoch{'s' * (len(kept) > 1)} {', '.join(map(str, kept['epoch']))}"
        right.plot(kept["epoch"], kept["val_auc"], "o", color=GREEN, label=f"kept: {epochs}")
        right.set_ylabel("validation AUC", color=GREEN)
        right.grid(False)
        _legend(figure)
    return figure


def architecture(table: pd.DataFrame, title: str) -> Figure:
    """The blocks of a network from the pixels to the probability, with their numbers of parameters.

    Bars have a log scale: on a linear one only the largest dense layer would be visible.

    Args:
        table: as `networks.summary` makes it.
        title: the network.
    """
    total, n_trainable = table["parameters"].sum(), table["trainable"].sum()
    rows = np.arange(len(table))
    with plt.rc_context(_STYLE):
        figure, (words, bars) = plt.subplots(
            1, 2, figsize=(10, 1.3 + 0.2 * len(table)), sharey=True, width_ratios=(3, 2)
        )
        figure.suptitle(f"{title}\n{total:,} parameters, {n_trainable:,} of them trainable", size=10)
        for place, column in ((0.0, "name"), (0.34, "kind"), (0.76, "output")):
            words.text(
                place, -1.2, {"name": "block", "output": "output shape"}.get(column, column), size=8, weight="bold"
            )
            for row, text in zip(rows, table[column], strict=True):
                words.text(place, row, text, size=8, va="center")
        words.set_axis_off()
        frozen = table["trainable"] == 0
        lengths = np.maximum(table["parameters"], 1)  # a block without parameters has no bar
        for part, colour, label in ((~frozen, BLUE, "trained"), (frozen, GRAY, "frozen")):
            if (table["parameters"][part] > 0).any():
                bars.barh(rows[part], lengths[part] - 1, left=1, height=0.7, color=colour, label=label)
        for row, count in zip(rows, table["parameters"], strict=True):
            bars.text(max(count, 1) * 1.15, row, f"{count:,}" if count else "", size=7, va="center")
        bars.set_xscale("log")
        bars.set_xlim(1, max(lengths.max(), 10) ** 1.25)  # room for the longest bar's number
        bars.set_ylim(len(table) - 0.4, -1.8)
        bars.set_xlabel("parameters (log scale)")
        bars.grid(visible=False, axis="y")
        bars.tick_params(left=False, labelleft=False)
        _legend(figure)
    plt.close(figure)
    return figure


MEASURES = {
    "width": "width (pixels)",
    "height": "height (pixels)",
    "bytes": "size of the file (bytes)",
    "mean": "mean (gray levels)",
    "std": "standard deviation (gray levels)",
    "entropy": "entropy (bits)",
    "saturated": "black and white pixels (share)",
    "sharpness": "sharpness (log2)",
    "ratio": "width / height",
    "corner": "upper left corner (gray levels)",
    "border": "border (gray levels)",
}
"""Measures of an image with their units; `ratio` is no column of the table, see `with_ratio`."""


def with_ratio(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `validate` with the proportions of each image; 1 for one that cannot be read.

    A table without sizes, of an earlier version, stays as it is.
    """
    if not {"width", "height"} <= set(table):
        return table
    return table.assign(ratio=(table["width"] / table["height"].where(table["height"] > 0)).fillna(1.0))


_CLASS_COLOURS = {0: BLUE, 1: ORANGE}


def measures(table: pd.DataFrame, title: str) -> Figure:
    """Histograms of the measures of the valid images of each class; a difference may be a shortcut for models."""
    valid = with_ratio(table[table["valid"]])
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(3, 4, figsize=(13, 8.2))
        figure.suptitle(f"{title}\nn = {len(valid)} valid images, each class normalised to 1")
        for place, name in zip(axes.flat, MEASURES, strict=False):
            _histogram(place, valid, name)
        for place in axes.flat[len(MEASURES) :]:
            place.remove()
        for place in axes[:, 0]:
            place.set_ylabel("share of the class")
        _class_legend(figure, valid)
    plt.close(figure)
    return figure


def measure(table: pd.DataFrame, name: str, title: str) -> Figure:
    """Histogram of one of `MEASURES`, as in `measures`, to be read on a small screen."""
    valid = with_ratio(table[table["valid"]])
    with _figure("", "share of the class", f"{title}\nn = {len(valid)} valid images", height=4) as (figure, axes):
        _histogram(axes, valid, name)
        _class_legend(figure, valid)
    return figure


def _histogram(axes: Any, valid: pd.DataFrame, name: str) -> None:
    edges = np.histogram_bin_edges(valid[name].astype(float), bins=40)
    for kind, colour in _CLASS_COLOURS.items():
        values = valid.loc[valid["label"] == kind, name].astype(float)
        axes.hist(values, edges, weights=np.full(len(values), 1 / max(len(values), 1)), color=colour, alpha=0.6)
    axes.set_xlabel(MEASURES[name])


def _class_legend(figure: Figure, valid: pd.DataFrame) -> None:
    counts = valid["label"].value_counts()
    handles = [Rectangle((0, 0), 1, 1, color=colour, alpha=0.6) for colour in _CLASS_COLOURS.values()]
    labels = [f"{tables.LABELS[kind]} ({counts.get(kind, 0)})" for kind in _CLASS_COLOURS]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)


def classes(summary: Mapping[str, Mapping[str, float]], title: str, names: Names = tables.LABELS) -> Figure:
    """Images per split and class before rebalancing, and their total weight in an epoch after it."""
    with _figure("split", "images, or their weight", title) as (figure, axes):
        positions = np.arange(len(summary))
        bars = ((f"n_{names[0]}", BLUE, -0.3), (f"n_{names[1]}", ORANGE, -0.1))
        for prefix, alpha, shift in (("n", 1.0, 0.0), ("weight", 0.45, 0.4)):
            for key, colour, offset in bars:
                name = key.replace("n_", f"{prefix}_", 1)
                heights = [split[name] for split in summary.values()]
                label = f"{key[2:]}, {'before: images' if prefix == 'n' else 'after: weight in an epoch'}"
                bar_group = axes.bar(positions + offset + shift, heights, 0.19, color=colour, alpha=alpha, label=label)
                axes.bar_label(bar_group, size=7)
        axes.set_xticks(positions, [f"{name}\n{split['n_patients']} patients" for name, split in summary.items()])
        axes.grid(visible=False, axis="x")
        _legend(figure)
    return figure


_STATES = {"complete": (BLUE, "o"), "pruned": (ORANGE, "X"), "fail": (GRAY, "v")}
"""Colour and marker of a trial, by its state."""


VAL_AUC = ("val_auc", "validation AUC")
"""A figure of trials: its column, and its title."""


def trials(table: pd.DataFrame, title: str, figure_of: tuple[str, str] = VAL_AUC) -> Figure:
    """A figure of each trial in their order, and the best of the complete ones so far."""
    key, label = figure_of
    with _figure("trial", label, f"{title}\nn = {len(table)} trials") as (figure, axes):
        for state, part in table.groupby("state"):
            colour, marker = _STATES[str(state)]
            axes.plot(part["trial"], part[key], marker, color=colour, label=f"{state} ({len(part)})")
        complete = table[table["state"] == "complete"]
        axes.step(complete["trial"], complete[key].cummax(), color=GRAY, where="post", label="best so far")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(figure)
    return figure


def trial_curves(
    curves: pd.DataFrame,
    table: pd.DataFrame,
    title: str,
    figure_of: tuple[str, str] = VAL_AUC,
    chance: float | None = 0.5,
) -> Figure:
    """A figure of each trial by epoch; the best one is thick. With `chance` a line shows what knows nothing."""
    key, axis = figure_of
    states, values = table.set_index("trial")["state"], table.set_index("trial")[key]
    best = values[states == "complete"].idxmax() if (states == "complete").any() else None
    with _figure("epoch", axis, f"{title}\nn = {len(table)} trials") as (figure, axes):
        for number, part in curves.groupby("trial"):
            colour, marker = _STATES[states.loc[number]]
            style = {"linewidth": 2.5} if number == best else {"linewidth": 1, "alpha": 0.7}
            label = f"best: trial {best}" if number == best else None
            axes.plot(part["epoch"], part[key], color=colour, label=label, **style)
            axes.plot(part["epoch"].iloc[-1:], part[key].iloc[-1:], marker, color=colour)
        if chance is not None and curves[key].min() < chance + 0.2:  # else the line would press the curves together
            axes.axhline(chance, color=GRAY, linestyle=":", label="chance")
        for state in states.unique():
            colour, marker = _STATES[str(state)]
            axes.plot([], [], marker, color=colour, label=str(state))
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(figure)
    return figure


def importances(shares: Mapping[str, float], title: str) -> Figure:
    """Share of each hyper-parameter in the differences between trials."""
    ordered = sorted(shares.items(), key=lambda item: item[1])
    heading = f"{title}\nfANOVA, complete trials"
    with _figure("share of the differences between trials", "", heading, height=1.8 + 0.4 * len(ordered)) as parts:
        figure, axes = parts
        bars = axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=BLUE)
        axes.bar_label(bars, fmt="%.2f", padding=3, size=8)
        axes.set_xlim(0, 1.05)
    return figure


def slices(table: pd.DataFrame, keys: list[str], title: str, figure_of: tuple[str, str] = VAL_AUC) -> Figure:
    """A figure of the trials against each hyper-parameter; a rate that spans a factor of ten has a log scale."""
    n_columns = min(3, len(keys))
    n_rows = -(-len(keys) // n_columns)
    with plt.rc_context(_STYLE):
        figure, grid = plt.subplots(n_rows, n_columns, figsize=(3.6 * n_columns, 3.2 * n_rows), squeeze=False)
        figure.suptitle(f"{title}\nn = {len(table)} trials")
        for axes in grid.flat[len(keys) :]:
            axes.set_visible(False)
        for axes, key in zip(grid.flat, keys, strict=False):
            places, labels = _places(table[key])
            for state, part in table.groupby("state"):
                colour, marker = _STATES[str(state)]
                axes.plot(places[part.index], part[figure_of[0]], marker, color=colour, label=state)
            axes.set_xlabel(key)
            _scale(axes, table[key], labels)
        grid[0, 0].set_ylabel(figure_of[1])
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    plt.close(figure)
    return figure


def parallel(table: pd.DataFrame, keys: list[str], title: str, figure_of: tuple[str, str] = VAL_AUC) -> Figure:
    """Each trial as a line through its hyper-parameters to its figure, which is also its colour."""
    value, label = figure_of
    columns = [*keys, value]
    known = table.dropna(subset=[value])
    low, high = known[value].min(), known[value].max()
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(max(5, 2.1 * len(columns)), 4.6))
        axes.set_title(f"{title}\nn = {len(known)} trials")
        heights = {}
        for column in columns:
            places, labels = _places(known[column])
            values = np.log(places) if _is_log(known[column]) else places
            span = values.max() - values.min()
            heights[column] = (values - values.min()) / span if span else values * 0 + 0.5
            names = labels or [f"{known[column].min():.3g}", f"{known[column].max():.3g}"]
            for height, name in zip(np.linspace(0, 1, len(names)), names, strict=True):
                axes.annotate(name, (columns.index(column), height), xytext=(5, 0), textcoords="offset points", size=8)
        for row in known.index:
            share = (known[value][row] - low) / (high - low) if high > low else 1.0
            line = [heights[column][row] for column in columns]
            style = "-" if known["state"][row] == "complete" else "--"
            axes.plot(range(len(columns)), line, style, color=plt.get_cmap("viridis")(share), linewidth=1.5)
        axes.set_xticks(range(len(columns)), [*keys, label])
        axes.set_yticks([])
        axes.grid(axis="x", alpha=1)
        axes.plot([], [], "-", color=GRAY, label="complete")
        axes.plot([], [], "--", color=GRAY, label="pruned")
        figure.legend(loc="outside lower center", ncols=2)
    plt.close(figure)
    return figure


_RATES = ("learning_rate", "head_learning_rate", "weight_decay")
"""Hyper-parameters whose ratios matter, not their differences."""


def _places(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """Values on an axis: numbers as they are; words as 0, 1, … with their names."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.astype(float), []
    names = sorted(values.dropna().astype(str).unique())
    return values.astype(str).map({name: float(place) for place, name in enumerate(names)}), names


def _is_log(values: pd.Series) -> bool:
    return values.name in _RATES and bool(values.min() > 0 and values.max() / values.min() >= 10)


def _scale(axes: Any, values: pd.Series, labels: list[str]) -> None:
    if labels:
        axes.set_xticks(range(len(labels)), labels)
    elif _is_log(values):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=4)


def before_after(pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], str]], title: str) -> Figure:
    """Contact sheet: each source image above the prepared one."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(2, len(pairs), figsize=(2.2 * len(pairs), 5), squeeze=False)
        figure.suptitle(title)
        for column, (before, after, name) in enumerate(pairs):
            for row, image in enumerate((before, after)):
                _picture(axes[row, column], image)
            heading = f"{textwrap.fill(_short(name), 34)}\n{before.shape[1]} x {before.shape[0]} px"
            axes[0, column].set_title(heading, size=7, parse_math=False)
            axes[1, column].set_title(f"{after.shape[1]} x {after.shape[0]} px", size=7)
    plt.close(figure)
    return figure


def saliency(
    image: npt.NDArray[np.uint8],
    maps: Mapping[str, npt.NDArray[np.float32]],
    boxes: npt.NDArray[np.float64],
    title: str,
    lungs: npt.NDArray[np.bool_] | None = None,
) -> Figure:
    """An image and its saliency maps, each with a contour at half of its maximum; known findings are framed.

    Args:
        image: uint8 (size, size), 0-255.
        maps: title of a method -> float32 (size, size), 0-1.
        boxes: float (k, 4): x, y, width, height in pixels of the image.
        title: the image, its class and its score.
        lungs: bool (size, size), outlined; None = not known.
    """
    n_panels = 1 + len(maps)
    width = 3 * n_panels + 0.8
    with plt.rc_context(_STYLE | _FIXED):
        figure, axes = plt.subplots(1, n_panels, figsize=(width, 3.7), squeeze=False)
        figure.subplots_adjust(left=0.05 / width, right=1 - 0.75 / width, bottom=0.01, top=0.82, wspace=0.03)
        figure.suptitle(textwrap.fill(_short(title), 50 * n_panels), size=9, parse_math=False)
        axes, shown = axes[0], None
        for panel, (name, values) in zip(axes, {"image": None, **maps}.items(), strict=True):
            _picture(panel, image)
            panel.set_title(textwrap.fill(name, 38), size=8)
            if values is not None:
                shown = _overlay(panel, values)
            _outlines(panel, boxes, lungs)
        if shown is not None:
            _colour_bar(figure, shown, width, "share of the maximum")
    plt.close(figure)
    return figure


def saliency_sheet(
    rows: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float64], str]], title: str
) -> Figure:
    """Contact sheet: each image above its saliency map.

    Args:
        rows: image, map and boxes as in `saliency`, and a caption.
        title: what the images have in common, and the method with its verdict.
    """
    width = max(6, 2 * len(rows))
    with plt.rc_context(_STYLE | _FIXED):
        figure, axes = plt.subplots(2, len(rows), figsize=(width, 4.8), squeeze=False)
        figure.subplots_adjust(
            left=0.05 / width, right=1 - 0.05 / width, bottom=0.01, top=0.83, wspace=0.03, hspace=0.03
        )
        figure.suptitle(title, size=10)
        for (above, below), (image, values, boxes, caption) in zip(axes.T, rows, strict=True):
            for panel in (above, below):
                _picture(panel, image)
                _outlines(panel, boxes, None)
            _overlay(below, values)
            above.set_title(textwrap.fill(_short(caption), 24), size=7, parse_math=False)
    plt.close(figure)
    return figure


def mean_maps(maps: Mapping[str, tuple[npt.NDArray[np.float32], int]], title: str, outline: str) -> Figure:
    """Mean saliency maps of groups of images, all on one scale.

    Args:
        maps: group -> mean map, float32 (size, size), 0-1, and number of images.
        title: method and images.
        outline: what the frame of the maps is.
    """
    highest = max(float(values.max()) for values, _ in maps.values()) or 1.0
    width = 2.4 * len(maps) + 0.8
    with plt.rc_context(_STYLE | _FIXED):
        figure, axes = plt.subplots(1, len(maps), figsize=(width, 3.3), squeeze=False)
        figure.subplots_adjust(left=0.05 / width, right=1 - 0.75 / width, bottom=0.02, top=0.74, wspace=0.03)
        figure.suptitle(f"{title}\n{outline}", size=10)
        for panel, (name, (values, n)) in zip(axes[0], maps.items(), strict=True):
            shown = panel.imshow(values, cmap="inferno", vmin=0, vmax=highest)
            panel.set_title(f"{name.replace('_', ' ')}\nn = {n}", size=8)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.grid(False)
        _colour_bar(figure, shown, width, "mean share of the maximum")
    plt.close(figure)
    return figure


def _colour_bar(figure: Figure, shown: Any, width: float, label: str) -> None:
    place = figure.add_axes((1 - 0.68 / width, 0.1, 0.12 / width, 0.6))
    figure.colorbar(shown, cax=place).set_label(label, size=8)
    place.tick_params(labelsize=7)


def _overlay(panel: Any, values: npt.NDArray[np.float32]) -> Any:
    """A map over the image of a panel: transparent where it is low, so that the anatomy stays visible."""
    if values.max() > 0.5:
        panel.contour(values, [0.5], colors="white", linewidths=0.7)
    return panel.imshow(values, cmap="inferno", alpha=np.clip(values, 0, 1) * 0.7, vmin=0, vmax=1)


def boxes(
    figures: Mapping[str, Any],
    curves: Mapping[str, pd.DataFrame],
    films: Sequence[tuple[npt.NDArray[np.uint8], Any, str]],
    title: str,
) -> dict[str, Figure]:
    """The figures of a detector, by the names of their files; none of another network.

    Args:
        figures: `detection` of `evaluation.json`, as a value of this key.
        curves, films: as in `evaluate.Found`.
        title: of the run and the split.
    """
    if not figures:
        return {}
    report = figures["detection"]
    title = f"{title}\nn = {report['n']}, {report['n_boxes']} boxes; a hit overlaps by half of the union"
    with _figure("recall: share of the boxes that are found", "precision", title) as (pr, axes):
        curve = curves["boxes_precision_recall"]
        axes.plot(curve["recall"], curve["precision"], color=BLUE, label=f"AP {format_with_interval(report, 'ap50')}")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        _legend(pr)
    with _figure("false alarms per image", "share of the boxes that are found", title) as (froc, axes):
        curve = curves["boxes_froc"]
        axes.step(curve["false_positives"], curve["sensitivity"], where="post", color=BLUE)
        points = pd.DataFrame(report["froc"])
        if "sensitivity" in points:
            ends = [
                points["sensitivity"] - points["sensitivity_low"],
                points["sensitivity_high"] - points["sensitivity"],
            ]
            axes.errorbar(points["false_positives"], points["sensitivity"], yerr=ends, fmt="o", color=ORANGE, ms=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(points["false_positives"], [f"{one:g}" for one in points["false_positives"]])
        axes.set_xlim(0.1, 9)
        axes.set_ylim(0, 1.02)
    return {"boxes_precision_recall": pr, "boxes_froc": froc, "boxes": _boxes_sheet(films, title.partition("\n")[0])}


def _boxes_sheet(films: Sequence[tuple[npt.NDArray[np.uint8], Any, str]], title: str) -> Figure:
    """Images with their true and their predicted boxes."""
    columns = min(6, len(films))
    rows = -(-len(films) // columns)
    with plt.rc_context(_STYLE | _FIXED):
        figure, axes = plt.subplots(rows, columns, figsize=(max(6, 2 * columns), 2.3 * rows + 0.6), squeeze=False)
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.86, wspace=0.03, hspace=0.16)
        figure.suptitle(f"{title}: lowest score of the challenge first; green: true, orange: predicted", size=10)
        for panel in axes.flat:
            panel.set_axis_off()
        for panel, (image, film, name) in zip(axes.flat, films, strict=False):
            _picture(panel, image)
            _outlines(panel, film.truth, None)
            _outlines(panel, film.boxes, None, "#ff9933")
            for (x, y, *_), score in zip(film.boxes, film.scores, strict=True):
                panel.text(x + 2, y + 2, f"{score:.2f}", color="#ff9933", size=6, va="top")
            panel.set_title(textwrap.fill(_short(name), 24), size=7, parse_math=False)
    plt.close(figure)
    return figure


def _outlines(
    panel: Any, boxes: npt.NDArray[np.float64], lungs: npt.NDArray[np.bool_] | None, colour: str = "#66ff66"
) -> None:
    for x, y, width, height in boxes:
        # `imshow` has pixel centres at integers; boxes start at the corner of the first pixel.
        corner = (x - 0.5, y - 0.5)
        panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.2))
    if lungs is not None and lungs.any():
        panel.contour(lungs, [0.5], colors="#66ccff", linewidths=0.6)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG; the same figure gives the same bytes."""
    Path(path).write_bytes(png(figure))


def png(figure: Figure) -> bytes:
    """A figure as the bytes that `save` writes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _short(name: str) -> str:
    """A name without its middle if it is too long for a figure. Such a text is drawn with `parse_math=False`: else a
    `$` in the name of a file would begin a formula.
    """
    half = _NAME_LENGTH // 2
    return name if len(name) <= _NAME_LENGTH else f"{name[:half]}…{name[-half:]}"


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.fill(line, 70) for line in title.splitlines())


def _picture(axes: Any, image: npt.NDArray[np.uint8]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    axes.set_anchor("N")  # aligns the titles of a row


def _legend(figure: Figure, markerscale: float = 1.0) -> None:
    """Add the legend below the axes, where it covers no data."""
    figure.legend(loc="outside lower center", ncols=2, frameon=False, markerscale=markerscale)


@contextmanager
def _figure(x: str, y: str, title: str, height: float = 5) -> Iterator[tuple[Figure, Any]]:
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(6, height))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(title, size=10)
        yield figure, axes
    plt.close(figure)
