"""Figures as text."""

from __future__ import annotations

from collections.abc import Mapping


def with_interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """A figure and its limits under the names that `format_with_interval` reads.

    >>> with_interval("auc", 0.9, 0.8, 0.95)
    {'auc': 0.9, 'auc_low': 0.8, 'auc_high': 0.95}
    """
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def format_with_interval(report: Mapping[str, float], name: str, digits: int = 3) -> str:
    """A figure as text, with its interval in brackets where the report has one; empty where it has no such figure.

    Args:
        report: as `report.classification_report` makes it: `name`, `name_low`, `name_high`.
        name: of the figure.
        digits: behind the point.

    >>> format_with_interval({"auc": 0.8765, "auc_low": 0.8, "auc_high": 0.93}, "auc")
    '0.876 [0.800, 0.930]'
    """
    if name not in report:
        return ""
    ends = [f"{report[f'{name}_{end}']:.{digits}f}" for end in ("low", "high") if f"{name}_{end}" in report]
    return f"{report[name]:.{digits}f}{f' [{ends[0]}, {ends[1]}]' if ends else ''}"
