"""What a transaction does to API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import astuple, replace

from dfs.core.access import Key
from dfs.db.rows import read_key, read_number
from dfs.db.tables import KEYS
from dfs.db.usage import PendingUsage

if TYPE_CHECKING:
    from dfs.db.transaction import Writer

_COUNT = f"SELECT COUNT(*) FROM {KEYS.name}"


class PendingKeys:
    """Keys that one transaction puts and removes. They are written at once: there are few.

    Args:
        writer: runs statements inside the transaction.
        usage: told what becomes of the records of keys.
    """

    __slots__ = ("_usage", "_writer")

    def __init__(self, writer: Writer, *, usage: PendingUsage) -> None:
        self._writer = writer
        self._usage = usage

    def find(self, key_id: str) -> Key | None:
        """Return the key as this transaction would leave it, or None. Raises MetadataError."""
        sql = self._writer.statements.select_in(KEYS, 1)
        return next(iter(self._writer.ask(sql, (key_id,), read_key)), None)

    def count(self) -> int:
        """Return how many keys there are, changes included. Raises MetadataError."""
        (count,) = self._writer.ask(_COUNT, (), read_number)
        return count

    def put(self, key: Key) -> None:
        """Insert the key, or replace the one of that id.

        Raises:
            NoSpaceError, MetadataError: roll back.
        """
        self._usage.change_key(self.find(key.id), key)
        self._writer.write(self._writer.statements.upsert(KEYS, 1), astuple(key))

    def remove(self, key: Key) -> None:
        """Remove a key that is there. Raises as `put`."""
        self._usage.change_key(key, None)
        self._writer.write(self._writer.statements.delete_in(KEYS, 1), (key.id,))

    def note_use(self, key_id: str, at_ms: int) -> None:
        """Note when a key was used, if it is still there. Raises as `put`."""
        key = self.find(key_id)
        if key is not None and at_ms > (key.last_used_at_ms or 0):
            self.put(replace(key, last_used_at_ms=at_ms))
