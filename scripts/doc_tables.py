"""Writes what the program knows of itself into the documentation, between markers.

    <!-- settings PORT DFS_HOST -->     the rows of these settings
    <!-- errors -->                     the codes of errors, with their status
    <!-- routes -->                     the routes, with what they need and answer
    <!-- metrics -->                    the metrics, with their type and labels
    <!-- records -->                    the types of records of the log

Each ends with its name and a slash, such as `<!-- /settings -->`. What stands between is replaced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dfs.api.docs import make_document
from dfs.api.errors import STATUS
from dfs.core.errors import InvalidRequestError
from dfs.core.settings import SETTINGS
from dfs.telemetry.catalog import describe_metrics
from dfs.wal.record import STRUCTURES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/settings.md", "docs/api.md", "docs/log-format.md", "docs/metrics.md")
_NAMES = "settings|errors|routes|records|metrics"
_MARKED = re.compile(
    rf"(?P<begin><!-- (?P<name>{_NAMES})(?P<words>(?: [A-Z0-9_]+)*) -->\n)"
    r".*?(?P<end><!-- /(?P=name) -->)",
    re.DOTALL,
)
_METHODS = frozenset(("delete", "get", "head", "patch", "post", "put"))
_FIELDS_STATUS = "422 if it names fields, else "


def with_tables(text: str) -> str:
    """Return a page with the tables of this program.

    Raises:
        KeyError: it names a setting that there is not.
    """

    def fill(match: re.Match[str]) -> str:
        rows = _TABLES[match["name"]](match["words"].split())
        return "".join(
            (match["begin"], *(f"| {' | '.join(row)} |\n" for row in rows), match["end"])
        )

    return _MARKED.sub(fill, text)


def marked_settings(text: str) -> list[str]:
    """Return the names of the settings that a page has tables of, in order."""
    found = [match for match in _MARKED.finditer(text) if match["name"] == "settings"]
    return [name for match in found for name in match["words"].split()]


def _settings_rows(names: Iterable[str]) -> Iterator[Sequence[str]]:
    settings = {setting.name: setting for setting in SETTINGS}
    yield from _head("name", "default", "meaning")
    for name in names:
        setting = settings[name]
        yield f"`{name}`", f"`{setting.default}`" if setting.default else "unset", setting.help


def _errors_rows(_: object) -> Iterator[Sequence[str]]:
    yield from _head("code", "status", "when", "again?")
    for kind, status in sorted(STATUS.items(), key=lambda item: (item[1], item[0].code)):
        said = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        shown = f"{_FIELDS_STATUS}{status}" if kind is InvalidRequestError else str(status)
        yield f"`{kind.code}`", shown, said, "yes" if kind.retryable or status == 429 else ""


def _routes_rows(_: object) -> Iterator[Sequence[str]]:
    yield from _head("route", "what it does", "scope", "answers")
    for path, operations in read_document()["paths"].items():
        for method in sorted(operations.keys() & _METHODS):
            operation = operations[method]
            needed = re.search(r"Needs the scope (`\w+`)", operation.get("description", ""))
            public = {} in operation["security"]
            scope = needed[1] if needed else "none" if public else "any"
            statuses = sorted(status for status in operation["responses"] if status != "default")
            yield f"`{method.upper()} {path}`", operation["summary"], scope, ", ".join(statuses)


def _metrics_rows(_: object) -> Iterator[Sequence[str]]:
    yield from _head("name", "type", "labels", "meaning")
    for metric in describe_metrics():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"`{metric.name}`", metric.kind, labels, metric.text


def _records_rows(_: object) -> Iterator[Sequence[str]]:
    yield from _head("type", "name", "what happened", "fields of meta")
    for kind, structure in STRUCTURES.items():
        said = " ".join((structure.__doc__ or "").split("\n\n")[0].split())
        fields = msgspec.structs.fields(structure)
        shown = (f"`{field.name}{'' if field.required else '?'}`" for field in fields)
        yield str(int(kind)), f"`{structure.__name__}`", said, ", ".join(shown)


def _head(*names: str) -> Iterator[Sequence[str]]:
    yield names
    yield ["---"] * len(names)


def read_document() -> Any:
    """Return the OpenAPI document of this program."""
    return msgspec.json.decode(make_document())


_TABLES: dict[str, Callable[[Iterable[str]], Iterator[Sequence[str]]]] = {
    "settings": _settings_rows,
    "errors": _errors_rows,
    "routes": _routes_rows,
    "metrics": _metrics_rows,
    "records": _records_rows,
}


def main() -> int:
    """Rewrite the pages. Returns the exit status."""
    for name in PAGES:
        path = ROOT / name
        path.write_text(with_tables(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
