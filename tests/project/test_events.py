"""Operators must be able to look up every event that they meet."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tracing-and-logs.md"
LEVELS = ("debug", "info", "warning", "error")
LOGGERS = {"log", "logger", "_log", "get_logger", "write"}
"""By which name the code knows a logger; `write` is one of its methods, chosen before."""


def log_calls(source: str) -> Iterator[ast.Call]:
    """Yield the calls that log an event."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id == "write":
            yield node
        if isinstance(function, ast.Attribute) and function.attr in LEVELS:
            owner = function.value.func if isinstance(function.value, ast.Call) else function.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            is_gunicorns = isinstance(owner, ast.Attribute) and name == "log"
            if name in LOGGERS and not is_gunicorns:
                yield node


def patterns_of(name: ast.expr) -> list[re.Pattern[str]]:
    """Return what the names of an event look like that is logged by such an expression."""
    if isinstance(name, ast.IfExp):
        return patterns_of(name.body) + patterns_of(name.orelse)
    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
    texts = [re.escape(p.value) if isinstance(p, ast.Constant) else "[a-z]+" for p in parts]
    return [re.compile("".join(texts))]


def patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Return what the names of all events look like: (where, its pattern)."""
    files = [path for folder in ("dfs", "workers") for path in (ROOT / folder).rglob("*.py")]
    found = []
    for path in [*files, ROOT / "gunicorn.conf.py"]:
        for call in log_calls(path.read_text()):
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            found += [(where, pattern) for pattern in patterns_of(call.args[0])]
    return found


def table() -> list[str]:
    """Return the events of the page, in order."""
    rows = PAGE.read_text().partition("<!-- events -->")[2].partition("<!-- /events -->")[0]
    return re.findall(r"^\| `([a-z_]+)` \| [a-z, ]+ \| \S", rows, re.MULTILINE)


def test_every_event_stands_in_the_table() -> None:
    """No event is logged that the page does not explain."""
    names = table()
    missing = [
        f"{where}: {pattern.pattern}"
        for where, pattern in patterns()
        if not any(map(pattern.fullmatch, names))
    ]
    assert missing == []


def test_table_has_no_event_that_nobody_logs() -> None:
    """The page explains what is there, in order, once each."""
    names = table()
    known = [pattern for _, pattern in patterns()]
    assert len(known) > 60
    assert [name for name in names if not any(p.fullmatch(name) for p in known)] == []
    assert names == sorted(set(names))


def test_log_calls_finds_every_way_to_log() -> None:
    """The search of this file sees the ways in which the code logs, and no other calls."""
    source = """
structlog.get_logger().warning("a")
log.info("b", x=1)
_log.error("c")
write("d")
self.log.info("Gunicorn's own")
response.write(piece)
"""
    assert [ast.literal_eval(call.args[0]) for call in log_calls(source)] == list("abcd")
