"""What a transaction does to the figures of use, held in memory until it is written.

They follow from the rows: whoever changes a row tells what it was and what it is. So they are right
whatever the change was, and a recount gives the same.

Of the log, all bytes of records are dead that are not the truth any more: those that were written,
less those of the records that a row has as its place, less those of the tombstones. An upload adds
the same to both sides, which costs no statement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dfs.core.access import Key
from dfs.core.model import Blob, BlobKind, File
from dfs.db.statements import NODE_BUCKET, Statements
from dfs.db.tables import SEGMENT_USES, USAGES, write_rows

_FILES, _BYTES, _DELETED_FILES, _DELETED_BYTES = range(4)
_BLOB_FILES, _BLOB_FILE_BYTES, _UNUSED_BLOB_FILES, _UNUSED_BYTES = range(4, 8)
_INLINE_BLOBS, _INLINE_BYTES = range(8, 10)
_COUNTERS = 10


class PendingUsage:
    """Changes of the figures that one transaction makes.

    Attributes:
        added_bytes: of files, those in the trash included, since the transaction began.
        written_bytes: how many of them are in the database.
    """

    __slots__ = ("_counts", "_dead", "_node", "_tombstones", "added_bytes", "written_bytes")

    def __init__(self) -> None:
        self.added_bytes = 0
        self.written_bytes = 0
        self._forget()

    def _forget(self) -> None:
        self._counts: defaultdict[str, list[int]] = defaultdict(_zeros)
        self._node = self._counts[NODE_BUCKET]
        self._dead: defaultdict[int, int] = defaultdict(int)
        self._tombstones: dict[int, tuple[int, int]] = {}

    def change_file(self, old: File | None, new: File | None) -> None:
        """Note what the row of a file was, and what it is now; None for no row."""
        if old is not None:
            self._count_file(old, -1)
        if new is not None:
            self._count_file(new, 1)

    def change_blob(self, old: Blob | None, new: Blob | None) -> None:
        """Note what the row of a blob was, and what it is now; None for no row."""
        if old is not None:
            self._count_blob(old, -1)
        if new is not None:
            self._count_blob(new, 1)

    def change_key(self, old: Key | None, new: Key | None) -> None:
        """Note what the row of an API key was, and what it is now; None for no row."""
        if old is not None:
            self._dead[old.segment_id] += old.length
        if new is not None:
            self._dead[new.segment_id] -= new.length

    def add_record(self, segment_id: int, length: int) -> None:
        """Note a record of the log."""
        self._dead[segment_id] += length

    def add_tombstone(self, segment_id: int, length: int, first_lsn: int) -> None:
        """Note that a record is a tombstone of something that was first put by that record."""
        self._dead[segment_id] -= length
        size, lsn = self._tombstones.get(segment_id, (0, first_lsn))
        self._tombstones[segment_id] = (size + length, min(lsn, first_lsn))

    def write(
        self, node_id: str, statements: Statements, run: Callable[[str, Sequence[Any]], Any]
    ) -> None:
        """Write everything and forget it. Runs no statement when there is nothing to write.

        Args:
            run: runs a statement with its parameters.
        """
        if not self._dead and len(self._counts) == 1 and not any(self._node):
            return
        counts = [(node_id, bucket, *row) for bucket, row in self._counts.items() if any(row)]
        uses = [
            (node_id, segment_id, dead, *self._tombstones.get(segment_id, (0, None)))
            for segment_id, dead in self._dead.items()
            if dead or segment_id in self._tombstones
        ]
        self._forget()
        self.written_bytes = self.added_bytes
        write_rows(counts, partial(statements.add, USAGES), run)
        write_rows(uses, partial(statements.add, SEGMENT_USES), run)

    def _count_file(self, file: File, sign: int) -> None:
        counts = self._counts[file.bucket]
        size = sign * file.size
        self.added_bytes += size
        if file.deleted_at_ms is None:
            counts[_FILES] += sign
            counts[_BYTES] += size
        else:
            counts[_DELETED_FILES] += sign
            counts[_DELETED_BYTES] += size
        self._dead[file.base_segment_id] -= sign * file.base_length

    def _count_blob(self, blob: Blob, sign: int) -> None:
        node, size = self._node, sign * blob.size
        if blob.kind is BlobKind.FILE:
            node[_BLOB_FILES] += sign
            node[_BLOB_FILE_BYTES] += size
            if not blob.references:
                node[_UNUSED_BLOB_FILES] += sign
                node[_UNUSED_BYTES] += size
        elif blob.kind is BlobKind.INLINE and blob.references:
            node[_INLINE_BLOBS] += sign
            node[_INLINE_BYTES] += size
        else:
            return  # what no file refers to is dead
        self._dead[blob.segment_id] -= sign * blob.length


def _zeros() -> list[int]:
    return [0] * _COUNTERS
