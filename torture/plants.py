"""Bugs planted into the processes of a node, to prove that the torture would find them.

Each is what a careless change of dfs might do. They are made by replacing a function before the
node's own modules import it; the product has no switch for them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec


def acknowledge_before_sync() -> None:
    """Answer when the records are written, not when they are synced."""
    from dfs.wal.writer import SegmentWriter  # noqa: PLC0415

    SegmentWriter.sync = lambda self: None  # type: ignore[method-assign]


def skip_directory_syncs() -> None:
    """Sync files, but not the directories that hold their names."""
    from dfs.core import durable  # noqa: PLC0415

    def do_nothing(path: Path) -> None:
        pass

    durable.sync_directory = do_nothing


def delete_without_record() -> None:
    """Delete in the index alone."""
    from dfs.services.changes import RemoveFile  # noqa: PLC0415

    plan = RemoveFile.plan

    def plan_nothing(self: RemoveFile, index: Any) -> list[Any]:
        for draft in plan(self, index):
            meta: Any = draft.meta
            file = index.file(meta.id)
            index.put_file(msgspec.structs.replace(file, deleted_at_ms=meta.deleted_at_ms))
        return []

    RemoveFile.plan = plan_nothing  # type: ignore[method-assign]


def leave_torn_tails() -> None:
    """Go on behind the last whole change without cutting off what was torn."""
    from dfs.wal import repair  # noqa: PLC0415

    def keep_all(directory: Path, active_path: Path, position: Any) -> None:
        return None

    repair.cut_tail = keep_all


def ignore_sync_errors() -> None:
    """Take a sync that failed for one that did not."""
    from dfs.core.errors import StorageError  # noqa: PLC0415
    from dfs.wal.writer import SegmentWriter  # noqa: PLC0415

    sync = SegmentWriter.sync

    def sync_somehow(self: SegmentWriter) -> None:
        with suppress(StorageError):
            sync(self)

    SegmentWriter.sync = sync_somehow  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    "acknowledge_before_sync": acknowledge_before_sync,
    "skip_directory_syncs": skip_directory_syncs,
    "delete_without_record": delete_without_record,
    "leave_torn_tails": leave_torn_tails,
    "ignore_sync_errors": ignore_sync_errors,
}
