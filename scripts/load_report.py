"""What a load test counts while it runs, and how it tells it."""

from __future__ import annotations

import contextlib
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from scripts.load_files import Shelf

FAULTS_KEPT = 20
PROGRESS_INTERVAL_S = 0.5
MB = 1_000_000
PERCENTILES = (50, 90, 99)
ERASE_LINE = "\r\x1b[K"


@dataclass(slots=True)
class KindTally:
    """What one kind of operation has done.

    Attributes:
        latencies_s: seconds that each took that succeeded.
        errors: how many failed, by status or what came instead of one.
    """

    size_bytes: int = 0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)

    def summarize(self, elapsed_s: float) -> dict[str, Any]:
        """Return the figures of this kind, ready for JSON."""
        ordered = sorted(self.latencies_s)
        times_ms = {f"p{percent}_ms": percentile(ordered, percent) for percent in PERCENTILES}
        times_ms["max_ms"] = percentile(ordered, 100)
        return {
            "count": len(ordered),
            "per_s": round(len(ordered) / elapsed_s, 2),
            "mb_per_s": round(self.size_bytes / MB / elapsed_s, 3),
            **{name: round(1000 * seconds, 3) for name, seconds in times_ms.items()},
            "errors": dict(sorted(self.errors.items())),
        }


class Tally:
    """What all clients have done so far, shared by their threads.

    Attributes:
        copies: acknowledgements, by the number of stores that had the file.
        wrong: answers that brought or acknowledged other bytes than those stored.
        missing: ids of files that were acknowledged and cannot be had.
        checked: files of the final check that got their answer, right or wrong.
        unchecked: those that got none.
        faults: the first of what is wrong or missing, in words.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = {kind: KindTally() for kind in kinds}
        self.copies: Counter[int] = Counter()
        self.wrong = 0
        self.missing: set[str] = set()
        self.unchecked = 0
        self.checked = 0
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def add(self, kind: str, size_bytes: int, took_s: float) -> None:
        """Count an operation that succeeded."""
        with self._lock:
            tally = self.kinds[kind]
            tally.size_bytes += size_bytes
            tally.latencies_s.append(took_s)

    def add_copies(self, copies: int) -> None:
        """Count an acknowledgement."""
        with self._lock:
            self.copies[copies] += 1

    def add_error(self, kind: str, name: str) -> None:
        """Count an operation that failed."""
        with self._lock:
            self.kinds[kind].errors[name] += 1

    def add_wrong(self, text: str) -> None:
        """Count an answer with wrong bytes."""
        with self._lock:
            self.wrong += 1
            self._keep(text)

    def add_missing(self, file_id: str, text: str) -> None:
        """Count a file that is missing, once however often it is missed."""
        with self._lock:
            if file_id not in self.missing:
                self.missing.add(file_id)
                self._keep(text)

    def add_checked(self) -> None:
        """Count a file of the final check that got its answer."""
        with self._lock:
            self.checked += 1

    def totals(self) -> tuple[int, int, int]:
        """Return (operations that succeeded, bytes they moved, operations that failed)."""
        with self._lock:
            tallies = self.kinds.values()
            return (
                sum(len(tally.latencies_s) for tally in tallies),
                sum(tally.size_bytes for tally in tallies),
                sum(tally.errors.total() for tally in tallies),
            )

    def _keep(self, text: str) -> None:
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(text)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the smallest value that is not below `percent` per cent of all; 0 if there is none."""
    if not ordered:
        return 0.0
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


@contextlib.contextmanager
def progress_shown(tally: Tally, stream: TextIO) -> Iterator[None]:
    """Keep a line on a terminal up to date meanwhile; show nothing where there is no terminal."""
    if not stream.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_show_progress, args=(tally, stream, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print(end=ERASE_LINE, file=stream, flush=True)


def _show_progress(tally: Tally, stream: TextIO, done: threading.Event) -> None:
    started_s = before_s = time.monotonic()
    count_before = bytes_before = 0
    while not done.wait(PROGRESS_INTERVAL_S):
        now_s = time.monotonic()
        count, size_bytes, errors = tally.totals()
        per_s = (count - count_before) / (now_s - before_s)
        mb_per_s = (size_bytes - bytes_before) / MB / (now_s - before_s)
        line = (
            f"{now_s - started_s:.0f} s: {count:,} operations, {per_s:,.0f}/s, "
            f"{mb_per_s:,.1f} MB/s, {errors:,} errors, {tally.checked:,} files checked, "
            f"{tally.wrong} wrong, {len(tally.missing)} missing"
        )
        print(end=f"{ERASE_LINE}{line}", file=stream, flush=True)
        before_s, count_before, bytes_before = now_s, count, size_bytes


def summarize(tally: Tally, shelf: Shelf, elapsed_s: float) -> dict[str, Any]:
    """Return all figures of a load that took that many seconds, ready for JSON."""
    count, size_bytes, errors = tally.totals()
    return {
        "elapsed_s": round(elapsed_s, 3),
        "operations": {kind: one.summarize(elapsed_s) for kind, one in tally.kinds.items()},
        "total": {
            "count": count,
            "per_s": round(count / elapsed_s, 2),
            "mb_per_s": round(size_bytes / MB / elapsed_s, 3),
            "errors": errors,
        },
        "copies": {str(copies): count for copies, count in sorted(tally.copies.items())},
        "stored": shelf.stored,
        "deleted": shelf.deleted,
        "checked": tally.checked,
        "unchecked": tally.unchecked,
        "wrong": tally.wrong,
        "missing": len(tally.missing),
        "faults": list(tally.faults),
    }


def format_summary(summary: dict[str, Any]) -> str:
    """Return what `summarize` gave as text."""
    columns = ("count", "per_s", "mb_per_s", "p50_ms", "p90_ms", "p99_ms", "max_ms", "errors")
    heads = ("count", "/s", "MB/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "errors")
    rows = [(f"{summary['elapsed_s']:,.1f} s", *heads)]
    for kind, figures in [*summary["operations"].items(), ("total", summary["total"])]:
        rows.append((kind, *(_format_cell(figures.get(column, "")) for column in columns)))
    lines = ["".join(cell.rjust(11) for cell in row) for row in rows]
    for kind, figures in summary["operations"].items():
        lines += [f"{kind} failed, {name}: {n:,}" for name, n in figures["errors"].items()]
    for copies, count in summary["copies"].items():
        lines.append(f"copies at the acknowledgement: {copies} ({count:,} uploads)")
    lines += [f"FAULT {fault}" for fault in summary["faults"]]
    lines.append(
        f"{summary['stored']:,} files stored, {summary['deleted']:,} deleted, "
        f"{summary['checked']:,} checked at the end, {summary['unchecked']:,} not; "
        f"{summary['wrong']:,} wrong, {summary['missing']:,} missing"
    )
    return "\n".join(lines)


def _format_cell(value: object) -> str:
    if isinstance(value, dict):
        value = sum(value.values())
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if value != "" else ""
