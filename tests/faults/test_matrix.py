"""The matrix is complete, and all tests named in it exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .matrix import ROWS, Row

TESTS = Path(__file__).parents[1]


def test_every_row_is_in_it_once() -> None:
    assert [row.number for row in ROWS] == list(range(1, 132))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row.number}")
def test_what_it_names_is_there(row: Row) -> None:
    assert row.tests or row.without
    for name in row.tests:
        path, _, function = name.partition("::")
        functions = {
            node.name
            for node in ast.parse((TESTS / path).read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        }
        assert function in functions if function else functions, name
