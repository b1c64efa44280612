"""Making away with what nobody wants: expired files, old trash, blob files without a file.

    expired          -> in the trash       DeleteFile
    in the trash     -> purged             PurgeFile, after DFS_DELETE_GRACE_S
    no references    -> dropped            DropBlob; then every store owes the removal (`removal`)
    API key expired  -> forgotten          RevokeKey, after DFS_DELETE_GRACE_S

Candidates come from the index; what is done is decided once more under the commit lock, by a
command of the group commit for each batch. So whoever restores a file or uploads the same bytes at
the same moment wins or loses as a whole, and being killed at any point, or run twice, does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dfs.core.access import NODE_ID
from dfs.core.clock import now_ms
from dfs.core.model import BlobKind, File
from dfs.db.repository import IndexRepository
from dfs.db.transaction import IndexTransaction
from dfs.services.changes import has_expired
from dfs.services.command import RECORD_OVERHEAD_BYTES, Bytesless, Draft
from dfs.services.commit import Committer
from dfs.services.keys import KeyService
from dfs.wal.record import DeleteFile, DropBlob, PurgeFile

BATCH_COUNT_MAX = 128
"""Records in one command: uploads of the same moment wait for no more than these."""


class _Collection(Bytesless):
    """A change of many files or blobs, of those that it still applies to.

    Attributes:
        count: how many those were.
    """

    def __init__(self, *, file_ids: Sequence[str] = (), digests: Sequence[bytes] = ()) -> None:
        self.file_ids = file_ids
        self.digests = digests
        self.log_bytes_max = RECORD_OVERHEAD_BYTES * (len(file_ids) + len(digests))
        self.count = 0

    def plan(self, index: IndexTransaction) -> list[Draft]:
        drafts = self.draft(index)
        self.count = len(drafts)
        return drafts

    def draft(self, index: IndexTransaction) -> list[Draft]:
        """Return a record for each of them that it applies to."""
        raise NotImplementedError


class ExpireFiles(_Collection):
    """Put files into the trash that have expired.

    Args:
        at_ms: by then.
    """

    def __init__(self, files: Sequence[File], *, at_ms: int) -> None:
        super().__init__(file_ids=[file.id for file in files])
        self._at_ms = at_ms

    def draft(self, index: IndexTransaction) -> list[Draft]:
        return [
            Draft(DeleteFile(file_id, self._at_ms, NODE_ID))
            for file_id in self.file_ids
            if (file := index.file(file_id)) is not None
            and file.deleted_at_ms is None
            and has_expired(file, self._at_ms)
        ]


class PurgeFiles(_Collection):
    """Remove files from the trash for good.

    Args:
        deleted_by_ms: those that were put into it by then.
    """

    def __init__(self, files: Sequence[File], *, deleted_by_ms: int) -> None:
        digests = [digest for file in files for digest in file.blob_digests()]
        super().__init__(file_ids=[file.id for file in files], digests=digests)
        self._deleted_by_ms = deleted_by_ms

    def draft(self, index: IndexTransaction) -> list[Draft]:
        purged_at_ms = now_ms()
        return [
            Draft(PurgeFile(id=file_id, purged_at_ms=purged_at_ms, first_lsn=file.first_lsn))
            for file_id in self.file_ids
            if (file := index.file(file_id)) is not None
            and file.deleted_at_ms is not None
            and file.deleted_at_ms <= self._deleted_by_ms
        ]


class DropBlobs(_Collection):
    """Give up blob files that no file refers to, not even one in the trash."""

    def __init__(self, digests: Sequence[bytes]) -> None:
        super().__init__(digests=digests)

    def draft(self, index: IndexTransaction) -> list[Draft]:
        return [
            Draft(DropBlob(digest=digest, first_lsn=blob.first_lsn))
            for digest in self.digests
            if (blob := index.blob(digest)) is not None
            and blob.kind is BlobKind.FILE
            and not blob.references
        ]


@dataclass(frozen=True, slots=True)
class Collected:
    """What one run has done.

    Attributes:
        expired: files put into the trash. purged: files removed from it. dropped: blob files.
    """

    expired: int
    purged: int
    dropped: int


class GarbageCollector:
    """Finds what is not wanted any more, and has it made away with.

    Args:
        delete_grace_s: see the setting.
    """

    def __init__(
        self,
        *,
        committer: Committer,
        index: IndexRepository,
        keys: KeyService,
        delete_grace_s: int,
    ) -> None:
        self._committer = committer
        self._index = index
        self._keys = keys
        self._delete_grace_ms = 1000 * delete_grace_s

    def work(self, *, budget_s: float) -> Collected:
        """Go on until nothing is left, or for about so long.

        Raises:
            As `Committer.submit`. What was done until then stays done.

        Durability: on return the records are synced.
        """
        deadline_s = time.monotonic() + budget_s
        self._keys.forget_expired(expired_by_ms=now_ms() - self._delete_grace_ms)
        return Collected(
            expired=self._repeat(self._expire, deadline_s),
            purged=self._repeat(self._purge, deadline_s),
            dropped=self._repeat(self._drop, deadline_s),
        )

    def _repeat(self, collect: Callable[[], _Collection], deadline_s: float) -> int:
        """Make one batch away after the other, at least one. Returns how many files or blobs."""
        total = 0
        while True:
            command = collect()
            if not command.file_ids and not command.digests:
                return total
            self._committer.submit(command)
            total += command.count
            if not command.count or time.monotonic() >= deadline_s:
                return total

    def _expire(self) -> _Collection:
        moment = now_ms()
        files = self._index.expired_files(now_ms=moment, limit=BATCH_COUNT_MAX)
        return ExpireFiles(files, at_ms=moment)

    def _purge(self) -> _Collection:
        deleted_by_ms = now_ms() - self._delete_grace_ms
        files = self._index.purgeable_files(deleted_by_ms=deleted_by_ms, limit=BATCH_COUNT_MAX)
        return PurgeFiles(files, deleted_by_ms=deleted_by_ms)

    def _drop(self) -> _Collection:
        return DropBlobs(self._index.unused_blobs(limit=BATCH_COUNT_MAX))
