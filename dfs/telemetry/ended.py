"""What ended processes have counted, in one file for each kind of metric.

Else each process that ends would leave some megabytes on the disk, and a bit of work to every
scrape from then on.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

from dfs.core.errors import StorageError
from dfs.core.filelock import Gate
from dfs.core.signs import is_shown

GATE_WAIT_S = 1.0
"""How long scrapes, which take milliseconds, may keep it from being done now."""
_SUMMED_KINDS = ("counter", "histogram")
_ENTRY_BYTES_MAX = 32
"""That an entry takes beside its key."""
_FAULTS = (OSError, StorageError, RuntimeError, ValueError, struct.error)
"""Of the disk, or of what a process has left on it. They cost nothing but room."""


def fold_ended(directory: Path) -> None:
    """Add up the files of processes that have ended, and remove them. It never fails.

    Those of a process that lives are locked, see `files`.
    """
    with suppress(*_FAULTS), _gate_of(directory).shut(timeout_s=GATE_WAIT_S) as is_shut:
        if is_shut:
            for kind in _SUMMED_KINDS:
                _fold(directory, kind)
            for path in list_ended(directory, "gauge_*.db"):
                path.unlink()


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Keep the files as they are inside the block, so that nothing is counted twice or not at all.

    Where there can be no lock, nothing is folded either.
    """
    with ExitStack() as stack:
        with suppress(StorageError):
            stack.enter_context(_gate_of(directory).passing())
        yield


def list_ended(directory: Path, pattern: str) -> list[Path]:
    """Return the files whose processes have ended."""
    return [path for path in directory.glob(pattern) if not is_shown(path)]


def _gate_of(directory: Path) -> Gate:
    return Gate(directory.with_name(f"{directory.name}.lock"))


def _fold(directory: Path, kind: str) -> None:
    sum_path = directory / f"{kind}_ended.db"
    ended = [path for path in list_ended(directory, f"{kind}_*.db") if path != sum_path]
    if ended:
        _write_sum([sum_path, *ended], sum_path)
        for path in ended:
            path.unlink()


def _write_sum(paths: Iterable[Path], sum_path: Path) -> None:
    """Write the sums of all that is counted in these files, of which some may not be there."""
    sums: defaultdict[str, float] = defaultdict(float)
    for path in paths:
        with suppress(FileNotFoundError):
            found = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
            for key, value, _, _ in found:
                sums[key] += value
    draft = sum_path.with_suffix(".draft")
    with draft.open("wb") as file:  # room on disk first, as for `reserve_metrics_files`
        size = 8 + sum(len(key.encode()) + _ENTRY_BYTES_MAX for key in sums)
        os.posix_fallocate(file.fileno(), 0, size)
    written: Any = MmapedDict(draft)  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)
    written.close()
    draft.replace(sum_path)
