"""Modules that libraries import wherever they are installed, kept out of processes without use."""

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
