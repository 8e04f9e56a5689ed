"""Run the whole matrix and the OpenAPI contract test, then print the outcome of each row: `make faults`.

Options are passed to pytest. The exit code is 0 only if nothing failed.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from . import contract
from .matrix import ROWS, Row

ROOT = Path(__file__).parents[2]


class Outcomes:
    """The outcomes of each test, by its name without parameters."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.of[report.nodeid.removeprefix("tests/").partition("[")[0]][report.outcome] += 1

    def row(self, row: Row) -> Counter[str]:
        return sum((self._named(name) for name in row.tests), Counter())

    def _named(self, name: str) -> Counter[str]:
        found = (outcomes for test, outcomes in self.of.items() if test == name or test.startswith(f"{name}::"))
        return sum(found, Counter())


def result(row: Row, counts: Counter[str]) -> str:
    if counts["failed"]:
        return f"FAILED {counts['failed']} of {counts.total()}"
    if row.tests and not counts["passed"]:
        return "NOT RUN"
    return f"passed {counts['passed']}" if row.tests else "n.a."


def table(outcomes: Outcomes) -> str:
    lines = [f"{'row':>3}  {'fault':<44} {'result':<16} tests"]
    for row in ROWS:
        said = "; ".join([*(name.rpartition("::")[2] for name in row.tests), row.without]).strip("; ")
        lines.append(f"{row.number:>3}  {row.fault:<44} {result(row, outcomes.row(row)):<16} {said}")
    return "\n".join(lines)


def main(options: list[str]) -> int:
    outcomes = Outcomes()
    named = {"faults/test_matrix.py", *(name for row in ROWS for name in row.tests)}
    whole = {name for name in named if "::" not in name}
    paths = [f"{ROOT}/tests/{name}" for name in sorted(named) if name in whole or name.partition("::")[0] not in whole]
    failed = pytest.main(
        ["-q", "--tb=short", "--every-engine", f"--rootdir={ROOT}", *paths, *options], plugins=[outcomes]
    )
    broken = contract.main()
    print(table(outcomes), flush=True)
    return int(failed) or broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
