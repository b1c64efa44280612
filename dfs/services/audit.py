"""The audit trail: who has done what, as the records of the log say.

It reaches as far back as the log does. When compaction drops a segment, it keeps of what is still
there who stored it, and of what is gone nothing but the fact, as long as that is needed; who
renamed, deleted or restored a file is lost with the segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dfs.core.access import NODE_ID
from dfs.db.repository import IndexRepository
from dfs.wal.frame import Frame
from dfs.wal.log import WriteAheadLog
from dfs.wal.record import (
    DeleteFile,
    Meta,
    PurgeFile,
    PutFile,
    PutKey,
    RestoreFile,
    RevokeKey,
    UpdateFile,
    decode_meta,
    moment_of,
)

LOOKED_AT_MAX = 20_000
READ_BYTES_MAX = 64 << 20
"""So many records, and bytes of the log, are read for one page at most."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What somebody did.

    Attributes:
        action: one of `ACTIONS`.
        by: id of the key with which it was asked for; None if there was none.
        by_name: the name of that key, if it is still there.
        file_id, file_name: what it was done to; the name that it got, or else has now.
        key_id, key_name: of the key that was made or revoked.
        is_copy: compaction has put this record in the place of others.
    """

    lsn: int
    at_ms: int
    action: str
    by: str | None
    by_name: str | None = None
    file_id: str | None = None
    file_name: str | None = None
    key_id: str | None = None
    key_name: str | None = None
    is_copy: bool = False


@dataclass(frozen=True, slots=True)
class DeedPage:
    """Some deeds, oldest first.

    Attributes:
        next: pass it as `after` for more; None: there are no more.
    """

    deeds: Sequence[Deed]
    next: int | None


class AuditTrail:
    """Reads the log up to where it was durable when the question came."""

    def __init__(self, *, log: WriteAheadLog, index: IndexRepository) -> None:
        self._log = log
        self._index = index

    def read(
        self, *, after: int, limit: int, by: str | None = None, file_id: str | None = None
    ) -> DeedPage:
        """Return deeds behind an LSN. A page may have fewer than `limit`, and not be the last.

        Args:
            by: only those asked for with this key; `node` and `operator` stand for themselves.
            file_id: only what was done to this file.

        Raises:
            WalCorruptError, WalGapError: the log is damaged before the page was full.
        """
        end = self._log.position
        deeds: list[Deed] = []
        last_lsn, count, size = after, 0, 0
        if after >= end.lsn:
            return DeedPage(deeds, None)
        reader = self._log.read(after_lsn=after, until=end)
        for frame in reader:
            last_lsn, count, size = frame.lsn, count + 1, size + frame.length
            deed = _describe(frame, decode_meta(frame))
            if deed is not None and by in (None, deed.by) and file_id in (None, deed.file_id):
                deeds.append(deed)
            if len(deeds) == limit or count == LOOKED_AT_MAX or size >= READ_BYTES_MAX:
                break
        else:
            if reader.end.fault is not None:
                raise reader.end.error()
            return DeedPage(self._name(deeds), None)
        return DeedPage(self._name(deeds), last_lsn if last_lsn < end.lsn else None)

    def _name(self, deeds: Sequence[Deed]) -> list[Deed]:
        """Add the names that the index knows."""
        files = self._index.file_names({deed.file_id for deed in deeds if deed.file_id})
        keys = self._key_names({deed.by for deed in deeds if deed.by} | _key_ids(deeds))
        return [
            replace(
                deed,
                by_name=keys.get(deed.by or ""),
                file_name=deed.file_name or files.get(deed.file_id or ""),
                key_name=deed.key_name or keys.get(deed.key_id or ""),
            )
            for deed in deeds
        ]

    def _key_names(self, key_ids: Iterable[str]) -> dict[str, str]:
        found = [self._index.find_key(key_id) for key_id in key_ids]
        return {key.id: key.name for key in found if key is not None}


def _key_ids(deeds: Sequence[Deed]) -> set[str]:
    return {deed.key_id for deed in deeds if deed.key_id and not deed.key_name}


def _describe(frame: Frame, meta: Meta) -> Deed | None:
    """Return what a record says; None if it tells of no deed."""
    action = ACTIONS.get(type(meta))
    if action is None:
        return None
    told: dict[str, Any] = {}
    match meta:
        case PutKey(id=key_id, name=name):
            told.update(key_id=key_id, key_name=name, is_copy=meta.first_lsn > 0)
        case RevokeKey(id=key_id):
            told.update(key_id=key_id, is_copy=meta.at_lsn > 0)
        case PutFile(id=file_id, key=name):
            told.update(file_id=file_id, file_name=name, is_copy=meta.first_lsn > 0)
        case UpdateFile(id=file_id, key=name):
            told.update(file_id=file_id, file_name=name)
        case PurgeFile(id=file_id):
            told.update(file_id=file_id, is_copy=meta.at_lsn > 0)
        case DeleteFile(id=file_id) | RestoreFile(id=file_id):
            told.update(file_id=file_id)
    by = NODE_ID if isinstance(meta, PurgeFile) else getattr(meta, "by", "") or None
    return Deed(lsn=frame.lsn, at_ms=moment_of(meta) or 0, action=action, by=by, **told)


ACTIONS: dict[type, str] = {
    PutFile: "upload",
    UpdateFile: "update",
    DeleteFile: "delete",
    RestoreFile: "restore",
    PurgeFile: "purge",
    PutKey: "create_key",
    RevokeKey: "revoke_key",
}
