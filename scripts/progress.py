"""A line on a terminal that says how far a long piece of work has come."""

from __future__ import annotations

import time
from typing import TextIO

PAUSE_S = 0.1
BAR_WIDTH = 24
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class ProgressLine:
    """Rewrites one line, a few times a second. Writes nothing where nobody watches.

    Args:
        out: a terminal, or anything else, which then gets nothing.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_shown = out.isatty()
        self._begun_s = self._written_s = time.monotonic()
        self._label = ""

    def show(self, label: str, done: int, total: int, *, is_bytes: bool) -> None:
        """Show how much is done of one piece of work; another label begins the next.

        Args:
            done, total: bytes if `is_bytes`, else things.
        """
        moment_s = time.monotonic()
        if label != self._label:
            self._label, self._begun_s = label, moment_s
        elif moment_s - self._written_s < PAUSE_S:
            return
        self._written_s = moment_s
        if self._is_shown:
            text = describe(label, done, total, moment_s - self._begun_s, is_bytes=is_bytes)
            self._out.write(f"\r\x1b[K{text}")
            self._out.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown:
            self._out.write("\r\x1b[K")
            self._out.flush()


def describe(label: str, done: int, total: int, elapsed_s: float, *, is_bytes: bool) -> str:
    """Return the line: label, bar, share, rate, time that is left."""
    total = max(total, done, 1)
    filled = BAR_WIDTH * done // total
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    speed = f"{format_bytes(rate)}/s" if is_bytes else f"{rate:,.0f}/s"
    left = format_seconds((total - done) / rate) if rate else "?"
    return f"{label:<10} [{bar}] {100 * done // total:3d}%  {speed}  {left} left"


def format_bytes(count: float) -> str:
    """Return a number of bytes for people to read."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """Return a time for people to read: 5s, 3m20s, 2h05m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
