"""The table of faults and attacks: each test of this folder is a row of it.

A test states its row with the marker `fault`; parameters of a test may change fields of it:

    @pytest.mark.fault(kind="download", where="fetch", before="waited for 9 minutes", now="one line after 60 s")
    @pytest.mark.parametrize(
        "answer", [pytest.param(silent, marks=pytest.mark.fault(injected="a server that never answers")), ...]
    )

`pytest tests/faults` prints how many rows ended well, by kind, and writes the table into the cache of pytest.
"""

from collections import Counter
from pathlib import Path

import pytest

FIELDS = ("kind", "where", "injected", "before", "now")
"""Kind of fault; what was affected; what was done to it; how it ended before there was a test; how it ends."""

HERE = Path(__file__).parent
_rows: list[tuple[str, ...]] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"fault({', '.join(FIELDS)}): a row of the table in tests/faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            row: dict[str, str] = {}
            for node in item.listchain():  # the file's markers, then the test's, last those of its parameters
                for marker in node.own_markers:
                    row |= marker.kwargs if marker.name == "fault" else {}
            if set(row) != set(FIELDS):
                raise pytest.UsageError(f"{item.nodeid}: the marker fault has {sorted(row)}, and needs {FIELDS}")
            item.user_properties.append(("fault", [row[field] for field in FIELDS]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _rows.extend((*value, report.outcome) for name, value in report.user_properties if name == "fault")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _rows:
        return
    lines = [f"| {' | '.join((*FIELDS, 'outcome'))} |", "|---" * (len(FIELDS) + 1) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in sorted(_rows)]
    where = "not written"
    if cache := getattr(config, "cache", None):  # absent with `-p no:cacheprovider`
        path = cache.mkdir("faults") / "table.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        where = str(path)
    terminalreporter.section("faults and attacks")
    total = Counter(row[0] for row in _rows)
    well = Counter(row[0] for row in _rows if row[-1] == "passed")
    for kind in sorted(total):
        terminalreporter.write_line(f"{well[kind]:4d} of {total[kind]:4d} ended well: {kind}")
    terminalreporter.write_line(f"{sum(well.values()):4d} of {len(_rows):4d} in all; table: {where}")
