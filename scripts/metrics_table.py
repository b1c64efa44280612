"""Writes the table of metrics into docs/metrics.md, between its markers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dfs.telemetry.catalog import format_table

PAGE = Path(__file__).resolve().parent.parent / "docs/metrics.md"
_TABLE = re.compile(r"(?<=<!-- metrics -->\n).*?(?=<!-- /metrics -->)", re.DOTALL)


def with_table(text: str) -> str:
    """Return the page with the table of this program.

    Raises:
        ValueError: it does not have the markers exactly once.
    """
    replaced, count = _TABLE.subn(lambda _: format_table() + "\n", text)
    if count != 1:
        raise ValueError("docs/metrics.md needs <!-- metrics --> and <!-- /metrics --> once")
    return replaced


def main() -> int:
    """Rewrite the page. Returns the exit status."""
    PAGE.write_text(with_table(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
