"""Writes the table of settings into README.md, between its markers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dfs.core.config import settings_table

README = Path(__file__).resolve().parent.parent / "README.md"
_TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)


def with_table(text: str) -> str:
    """Return the README with the table of this program.

    Raises:
        ValueError: it does not have the markers exactly once.
    """
    replaced, count = _TABLE.subn(lambda _: settings_table() + "\n", text)
    if count != 1:
        raise ValueError("README.md needs <!-- settings --> and <!-- /settings --> once")
    return replaced


def main() -> int:
    """Rewrite the README. Returns the exit status."""
    README.write_text(with_table(README.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
