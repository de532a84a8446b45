"""Figures as text."""

from pneumonia.metrics.text import format_with_interval


def test_a_figure_has_its_interval_where_the_report_has_one_and_nothing_where_it_has_no_figure() -> None:
    report = {"auc": 0.8765, "auc_low": 0.8, "auc_high": 0.93, "f1": 0.5}
    assert format_with_interval(report, "auc") == "0.876 [0.800, 0.930]"
    assert format_with_interval(report, "auc", 2) == "0.88 [0.80, 0.93]"
    assert format_with_interval(report, "f1") == "0.500"
    assert format_with_interval(report, "recall") == ""
