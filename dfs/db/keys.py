"""What a transaction does to API keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import astuple, replace

from dfs.core.access import Key
from dfs.db.statements import Statements
from dfs.db.tables import KEYS
from dfs.db.usage import PendingUsage

_COUNT = f"SELECT COUNT(*) FROM {KEYS.name}"

Run = Callable[..., Any]


class PendingKeys:
    """Keys that one transaction puts and removes. They are written at once: there are few.

    Args:
        run: runs a statement with its parameters inside the transaction.
        usage: told what becomes of the records of keys.
    """

    __slots__ = ("_run", "_statements", "_usage")

    def __init__(self, *, run: Run, statements: Statements, usage: PendingUsage) -> None:
        self._run = run
        self._statements = statements
        self._usage = usage

    def find(self, key_id: str) -> Key | None:
        """Return the key as this transaction would leave it, or None. Raises MetadataError."""
        row = self._run(self._statements.select_in(KEYS, 1), (key_id,)).fetchone()
        return None if row is None else Key(*row)

    def count(self) -> int:
        """Return how many keys there are, changes included. Raises MetadataError."""
        return int(self._run(_COUNT).fetchone()[0])

    def put(self, key: Key) -> None:
        """Insert the key, or replace the one of that id.

        Raises:
            NoSpaceError, MetadataError: roll back.
        """
        self._usage.change_key(self.find(key.id), key)
        self._run(self._statements.upsert(KEYS, 1), astuple(key))

    def remove(self, key: Key) -> None:
        """Remove a key that is there. Raises as `put`."""
        self._usage.change_key(key, None)
        self._run(self._statements.delete_in(KEYS, 1), (key.id,))

    def note_use(self, key_id: str, at_ms: int) -> None:
        """Note when a key was used, if it is still there. Raises as `put`."""
        key = self.find(key_id)
        if key is not None and at_ms > (key.last_used_at_ms or 0):
            self.put(replace(key, last_used_at_ms=at_ms))
