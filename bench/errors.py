"""What can go wrong with a benchmark."""

from __future__ import annotations


class BenchError(Exception):
    """The benchmark cannot go on. The message says why, and what to do."""
