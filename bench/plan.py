"""How much is measured: in full, or quickly."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of one run.

    Attributes:
        directory: all data goes below it; it must be on the disk under test.
        seconds: how long one round of one figure takes.
        rounds: how often each figure is measured.
        replay_files: files in the log that is replayed, two records each.
        stored_files: files in the node that is started and listed.
        sizes: files in the nodes among which the growth of costs is measured.
        space_pairs: files that are stored and deleted again. space_window: of newer ones that are
            there at any time. space_segment_bytes: size of a segment of the log meanwhile.
        copied_files: small files that are replicated. copied_bytes: of large files. copy_rounds:
            how often; an even number, since two take turns in going first.
        peer_seconds, peer_rounds: the same beside other stores. Of 64 clients, a slow one keeps
            some waiting for more than a second, and what has not come at the end is not counted.
        large_bytes: size of a large file. huge_bytes: of one to watch the memory with.
        soak_s: how long the soak takes. soak_turn_s: a turn of it.
    """

    directory: Path
    seconds: float
    rounds: int
    replay_files: int
    stored_files: int
    sizes: tuple[int, ...]
    space_pairs: int
    space_window: int
    space_segment_bytes: int
    copied_files: int
    copied_bytes: int
    copy_rounds: int
    peer_seconds: float
    peer_rounds: int
    large_bytes: int
    huge_bytes: int
    soak_s: float
    soak_turn_s: float

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Lend a new empty directory."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def full_plan(directory: Path) -> Plan:
    """Return the extent that the targets are stated for."""
    return Plan(
        directory=directory,
        seconds=3,
        rounds=3,
        replay_files=100_000,
        stored_files=1_000_000,
        sizes=(1_000, 10_000, 100_000, 1_000_000),
        space_pairs=1_000_000,
        space_window=20_000,
        space_segment_bytes=64 * MIB,
        copied_files=10_000,
        copied_bytes=1024 * MIB,
        copy_rounds=4,
        peer_seconds=3,
        peer_rounds=3,
        large_bytes=256 * MIB,
        huge_bytes=1024 * MIB,
        soak_s=840,
        soak_turn_s=10,
    )


def quick_plan(directory: Path) -> Plan:
    """Return an extent that shows whether something has become much slower."""
    return Plan(
        directory=directory,
        seconds=1,
        rounds=2,
        replay_files=20_000,
        stored_files=100_000,
        sizes=(1_000, 10_000),
        space_pairs=20_000,
        space_window=1_000,
        space_segment_bytes=4 * MIB,
        copied_files=2_000,
        copied_bytes=256 * MIB,
        copy_rounds=2,
        peer_seconds=2,
        peer_rounds=1,
        large_bytes=256 * MIB,
        huge_bytes=1024 * MIB,
        soak_s=20,
        soak_turn_s=3,
    )
