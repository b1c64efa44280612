"""Libraries that import others for what dfs does not use of them, whenever these are installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hiding(name: str) -> Iterator[None]:
    """Have imports of a module fail in the body, unless it is there already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment] # what Python itself means by that
    try:
        yield
    finally:
        del sys.modules[name]
