"""The code must stay small: what is long is not read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400
CHECKED = ("dfs", "workers", "scripts", "bench", "torture", "deploy")


def source_files() -> list[Path]:
    """Return every Python file of the program."""
    return sorted(path for folder in CHECKED for path in (ROOT / folder).rglob("*.py"))


def long_functions(source: str) -> Iterator[tuple[str, int]]:
    """Yield (name, lines) of each function that is too long, its decorators counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            lines = (node.end_lineno or first) - first + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.name, lines


def test_functions_are_short() -> None:
    """No function has more than 60 lines."""
    found = [
        f"{path.relative_to(ROOT)}: {name} has {lines} lines"
        for path in source_files()
        for name, lines in long_functions(path.read_text())
    ]
    assert not found


def test_files_are_short() -> None:
    """No file has more than 400 lines."""
    counts = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in source_files()
    }
    assert counts
    assert {path: count for path, count in counts.items() if count > FILE_LINES_MAX} == {}


@pytest.mark.parametrize(("lines", "count"), [(60, 0), (61, 1)])
def test_long_functions_finds_exactly_those(lines: int, count: int) -> None:
    """The check of this file can fail, and at the right length."""
    source = "def f():\n" + "    pass\n" * (lines - 1)
    assert len(list(long_functions(source))) == count
