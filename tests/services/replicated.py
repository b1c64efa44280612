"""A node with replicas, and what can happen to it. For the tests of restoring and mending."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from dfs.core.config import Config
from dfs.core.model import File
from dfs.core.steps import OnStep, ignore_step
from dfs.services.mending import mend_segment
from dfs.services.restore import Restored, restore_log
from dfs.services.segment_sources import SegmentStore
from dfs.storage.local_store import LocalStore
from dfs.wal.control import LogPosition
from dfs.wiring import Services, open_services
from tests.services.conftest import list_keys, list_whole, make_config, store_bytes

SMALL_BYTES = 30_000
"""Of a file that lies in the log; about four fill a segment of these tests."""
LARGE_BYTES = 100_000
Facts = tuple[list[File], dict[str, str]]


class ReplicatedNode:
    """A node with replicas in directories, opened and closed again and again.

    Args:
        directory: holds `wal`, `primary`, `index`, `replica1`, ...
        replicas: how many.
    """

    def __init__(self, directory: Path, index_url: str, *, replicas: int = 2) -> None:
        self.directory = directory
        self._index_url = index_url
        self._names = [f"replica{number}" for number in range(1, replicas + 1)]
        self._opened: list[Services] = []

    @property
    def config(self) -> Config:
        """Settings with segments as small as they may be."""
        return replace(
            make_config(self.directory, self._index_url),
            wal_segment_bytes=1 << 17,
            wal_preallocate_bytes=1 << 14,
            compact_bytes_per_s=1 << 40,
            replicas=tuple((name, str(self.directory / name)) for name in self._names),
        )

    @property
    def wal(self) -> Path:
        """Directory of the log."""
        return self.directory / "wal"

    def open(self, on_step: OnStep = ignore_step) -> Services:
        """Open the node as its programs do."""
        self._opened.append(open_services(self.config, on_step=on_step))
        return self._opened[-1]

    def close(self) -> None:
        """Close whatever is open."""
        while self._opened:
            self._opened.pop().close()

    def stores(self) -> list[SegmentStore]:
        """Return the replicas, opened as by one who restores."""
        return [LocalStore(path=self.directory / name, name=name) for name in self._names]

    def restore(self, **changes: object) -> Restored | None:
        """Restore the log in this process."""
        stores = self.stores()
        return restore_log(
            **{
                "wal_path": self.wal,
                "storage_path": self.directory / "primary",
                "stores": stores,
                **changes,
            }
        )

    def lose(self, *names: str) -> None:
        """Remove directories: everything but the replicas, unless named."""
        for name in names or ("wal", "primary", "index"):
            shutil.rmtree(self.directory / name)

    def segment(self, segment_id: int, store: str = "wal") -> Path:
        """Return the file of a sealed segment, or of the copy on a replica."""
        return self.directory / store / "segments" / f"{segment_id:010d}.wal"


def replicate(node: Services, *names: str) -> None:
    """Have replicas hold everything, all of them or those named."""
    for name in names or tuple(node.stores.replicas):
        while node.replication.work(name, budget_s=10).more:
            pass
        state = node.replication._index.store_states()[name]
        assert LogPosition(state.segment_id, state.offset, state.lsn) == node.log.position


def store_small(node: Services, count: int = 1, *, prefix: str = "small") -> list[str]:
    """Store files in the log; return their ids."""
    return [
        store_bytes(node, f"{prefix}{number}", os.urandom(SMALL_BYTES)).files[0].id
        for number in range(count)
    ]


def fill(node: Services) -> None:
    """Store files over four segments and beside them, change some, delete some."""
    ids = store_small(node, 14)
    store_bytes(node, "large", os.urandom(LARGE_BYTES), metadata={"a": "ä"})
    node.files.update(ids[0], {"key": "other", "metadata": {"x": "y"}})
    node.files.delete(ids[1])
    assert node.log.position.segment_id == 4


def facts(node: Services) -> Facts:
    """Return every row of the files, and what is read of each file."""
    return list_whole(node), list_keys(node)


def flip(path: Path, offset: int) -> None:
    """Flip all bits of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def mend(node: Services, segment_id: int, *, on_step: OnStep = ignore_step) -> bool:
    """Mend a segment of an open node, as the job does."""
    return mend_segment(
        node.log,
        segment_id,
        cluster_id=node.recovered.cluster_id,
        sources=list(node.stores.replicas.values()),
        states=node.replication._index.store_states(),
        on_step=on_step,
    )
