"""Files: store, find, read, list, change, delete."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import TypeVar, cast

import msgspec

from dfs.core.access import NODE, Caller
from dfs.core.clock import now_ms
from dfs.core.disk import Disks, Incoming
from dfs.core.errors import (
    BlobCorruptError,
    BlobMissingError,
    InvalidRequestError,
    NoSuchFileError,
    WalDroppedError,
)
from dfs.core.model import (
    DEFAULT_BUCKET,
    Blob,
    BlobKind,
    Durability,
    File,
    FileInfo,
    Page,
)
from dfs.core.names import validate_key
from dfs.core.ulid import UlidFactory
from dfs.db.repository import IndexRepository
from dfs.services.changes import ChangeFile, RemoveFile, StoreFiles, UndeleteFile, Upload
from dfs.services.commit import Committer
from dfs.services.damage import DamageBook
from dfs.services.download import Download, read_inline
from dfs.services.pending import Pending
from dfs.services.quorum import Quorum
from dfs.services.stores import Stores
from dfs.services.tickets import Holders, Ticket
from dfs.services.upload import BLOB_BYTES_MAX, BlobWriter
from dfs.services.verified_files import VerifiedFiles
from dfs.wal.log import WriteAheadLog

Result = TypeVar("Result")

CURSOR = re.compile(r"([0-7][0-9A-HJKMNP-TV-Z]{25})([^\x00]+)", re.DOTALL)
"""Where a page of files goes on: behind a file of that id and that name. Any such place will do."""


class Stored(msgspec.Struct, frozen=True):
    """What an acknowledged write has made, and what is guaranteed of it."""

    files: tuple[File, ...]
    durability: Durability


class FileService:
    """What clients do with files.

    Every method takes the `caller` who asks: files that he does not see do not exist for him.

    Args:
        index: for reading; every change goes through `committer`.
        copies: see `Config.copies`.
        hasher: runs the hashing of large uploads.
        inline_blob_bytes_max, upload_bytes_max, quota_bytes, name_bytes_max,
            metadata_bytes_max, delete_grace_s: see the settings.
        verified: as for `Download`.
    """

    def __init__(
        self,
        *,
        committer: Committer,
        index: IndexRepository,
        log: WriteAheadLog,
        stores: Stores,
        damage: DamageBook,
        quorum: Quorum,
        disks: Disks,
        copies: Callable[[str | None], int],
        hasher: Executor,
        inline_blob_bytes_max: int,
        upload_bytes_max: int,
        quota_bytes: int,
        name_bytes_max: int,
        metadata_bytes_max: int,
        delete_grace_s: int,
        verified: VerifiedFiles | None = None,
    ) -> None:
        self._committer = committer
        self._index = index
        self._log = log
        self._stores = stores
        self._store = stores.primary
        self._damage = damage
        self._quorum = quorum
        self._disks = disks
        self._copies = copies
        self._hasher = hasher
        self._ulids = UlidFactory()
        self._inline_blob_bytes_max = inline_blob_bytes_max
        self.upload_bytes_max = upload_bytes_max
        self._quota_bytes = quota_bytes
        self._name_bytes_max = name_bytes_max
        self._metadata_bytes_max = metadata_bytes_max
        self._delete_grace_ms = 1000 * delete_grace_s
        self._verified = verified

    def announce(self) -> AbstractContextManager[None]:
        """Around the handling of a small write: a commit may wait a moment for it to join."""
        return self._committer.announce()

    def expect(self, body: Incoming) -> None:
        """Refuse the body of an upload that does not fit, before it is received.

        Call `forget` when the upload is over, whatever became of it.

        Raises:
            NoSpaceError: no bytes of it need be read.
            StoreUnavailableError: a disk is not there.
        """
        self._disks.expect(body)

    def forget(self, body: Incoming) -> None:
        """Keep room for a body no longer."""
        self._disks.forget(body)

    def bytes_max(self, caller: Caller) -> int:
        """Return how many bytes a file of this caller may have."""
        limits = (self.upload_bytes_max, caller.upload_bytes_max, BLOB_BYTES_MAX)
        return min(limit for limit in limits if limit)

    def check_name(self, key: str, caller: Caller) -> None:
        """Raise InvalidNameError or ForbiddenError if the caller may not give a file that name."""
        caller.require_name(validate_key(key, self._name_bytes_max))

    def _check_metadata(self, metadata: Mapping[str, str]) -> None:
        size = sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())
        if size > self._metadata_bytes_max:
            raise InvalidRequestError(
                "The metadata is not valid.",
                fields={"metadata": [f"must have {self._metadata_bytes_max} bytes at most"]},
            )

    def new_blob(self, caller: Caller = NODE) -> BlobWriter:
        """Return a writer for the bytes of a file. `discard` it when done, whatever happened."""
        return BlobWriter(
            store=self._store,
            hasher=self._hasher,
            inline_bytes_max=self._inline_blob_bytes_max,
            bytes_max=self.bytes_max(caller),
        )

    def store(
        self,
        uploads: Sequence[Upload],
        *,
        if_absent: bool = False,
        replication: str | None = None,
        caller: Caller = NODE,
    ) -> Stored:
        """Store files: all of them or none.

        Args:
            uploads: with all their bytes written.
            if_absent: refuse if a file of one of these names is there.
            replication: "sync" to wait for the quorum, "async" not to; None for the setting.

        Raises:
            InvalidNameError, ForbiddenError, AlreadyExistsError, QuotaExceededError, and what
            `Committer.submit` raises.

        Durability: on return bytes and records are synced.
        """
        pending = self.begin_store(
            uploads, if_absent=if_absent, replication=replication, caller=caller
        )
        pending.wait()
        return pending.result()

    def begin_store(
        self,
        uploads: Sequence[Upload],
        *,
        if_absent: bool = False,
        replication: str | None = None,
        caller: Caller = NODE,
    ) -> Pending[Stored]:
        """Begin to store files, as `store` does; the caller waits for it as he likes.

        Durability: nothing yet, but the bytes of large blobs are synced in temporary files.
        """
        for upload in uploads:
            self.check_name(upload.key, caller)
            self._check_metadata(upload.metadata)
            upload.blob.finish()
        command = StoreFiles(
            uploads=[(self._ulids.make(), upload) for upload in uploads],
            if_absent=if_absent,
            is_sound=self._is_sound,
            by=caller.key_id,
            quota_bytes=self._quota_bytes,
        )
        self._disks.take_log(command.log_bytes_max)
        copies = self._copies(replication)
        blobs = [upload.blob for upload in uploads]
        holders: Holders | None = None
        if copies > 1:
            holders = self._quorum.copy_blobs(blobs, copies=copies)
        elif any(blob.staged is not None for blob in blobs):
            holders = Holders()
        ticket = self._committer.enqueue(command, copies=copies, holders=holders)
        return self._pending(ticket, lambda durability: Stored(command.files, durability))

    def _pending(
        self, ticket: Ticket, make_result: Callable[[Durability], Result]
    ) -> Pending[Result]:
        return Pending(ticket, self._committer.tickets, make_result)

    def _is_sound(self, blob: Blob) -> bool:
        """Tell whether a blob that the index knows can be referred to by one more file."""
        if blob.lsn > self._log.position.lsn:
            return True  # put by a neighbour in the commit that is being planned
        if blob.kind is BlobKind.FILE:
            return self._store.has(blob.digest, blob.size)
        try:
            read_inline(self._log, blob)
        except (BlobCorruptError, BlobMissingError, WalDroppedError):
            return False
        return True

    def find(self, file_id: str, caller: Caller = NODE) -> File:
        """Return a file. Raises NoSuchFileError."""
        file = self._index.find_file(file_id, now_ms())
        if file is None or not caller.sees(file.key):
            raise NoSuchFileError(f"There is no file {file_id}.")
        return file

    def open(self, file_id: str, caller: Caller = NODE) -> Download:
        """Open a file for reading.

        Raises:
            NoSuchFileError: there is none of that id, or it has expired.
            BlobMissingError: the index knows the file but not its bytes.
        """
        found = self._index.find_download(file_id, now_ms())
        if found is None or not caller.sees(found[0].key):
            raise NoSuchFileError(f"There is no file {file_id}.")
        file, blobs = found
        return Download(
            file=file,
            blobs=blobs,
            find_blob=self._index.find_blob,
            log=self._log,
            stores=self._stores,
            damage=self._damage,
            verified=self._verified,
        )

    def list(
        self,
        *,
        after: str | None = None,
        limit: int,
        prefix: str = "",
        name: str | None = None,
        deleted: bool = False,
        bucket: str = DEFAULT_BUCKET,
        caller: Caller = NODE,
    ) -> Page:
        """Return a page of files, ordered by name and then id.

        Args:
            after: `next` of the page before.
            limit: files on the page at most.
            prefix: only names that begin so, and as the caller's do.
            name: only files of exactly that name.
            deleted: those in the trash that can be restored, instead of those that can be found.

        Raises:
            InvalidRequestError: `after` is not what a page gave.
        """
        position = _decode_cursor(after) if after else None
        if caller.prefix.startswith(prefix):
            prefix = caller.prefix
        elif not caller.sees(prefix):
            return Page((), None)
        moment_ms = now_ms()
        files = self._index.list_files(
            bucket=bucket,
            after=position,
            limit=limit + 1,
            prefix=prefix,
            name=name,
            now_ms=moment_ms,
            deleted_after_ms=moment_ms - self._delete_grace_ms if deleted else None,
        )
        page = tuple(files[:limit])
        return Page(page, _encode_cursor(page[-1]) if len(files) > limit else None)

    def update(
        self,
        file_id: str,
        changes: Mapping[str, object],
        *,
        if_match: Collection[str] | None = None,
        replication: str | None = None,
        caller: Caller = NODE,
    ) -> Stored:
        """Change what may be changed of a file: `key`, `content_type`, `metadata`, `expires_at_ms`.

        Raises:
            NoSuchFileError, PreconditionFailedError, InvalidNameError, ForbiddenError, and what
            `Committer.submit` raises.

        Durability: on return the record is synced.
        """
        if "key" in changes:
            self.check_name(str(changes["key"]), caller)
        if "metadata" in changes:
            self._check_metadata(cast("Mapping[str, str]", changes["metadata"]))
        command = ChangeFile(file_id=file_id, changes=changes, if_match=if_match, caller=caller)
        durability = self._committer.submit(command, copies=self._copies(replication))
        return Stored(command.files, durability)

    def delete(
        self,
        file_id: str,
        *,
        if_match: Collection[str] | None = None,
        replication: str | None = None,
        caller: Caller = NODE,
    ) -> Durability:
        """Put a file into the trash: nobody finds it now. Raises and durability as `update`."""
        pending = self.begin_delete(
            file_id, if_match=if_match, replication=replication, caller=caller
        )
        pending.wait()
        return pending.result()

    def begin_delete(
        self,
        file_id: str,
        *,
        if_match: Collection[str] | None = None,
        replication: str | None = None,
        caller: Caller = NODE,
    ) -> Pending[Durability]:
        """Begin to put a file into the trash, as `delete` does. Durability: nothing yet."""
        command = RemoveFile(file_id=file_id, if_match=if_match, caller=caller)
        ticket = self._committer.enqueue(command, copies=self._copies(replication))
        return self._pending(ticket, lambda durability: durability)

    def restore(
        self,
        file_id: str,
        *,
        if_match: Collection[str] | None = None,
        replication: str | None = None,
        caller: Caller = NODE,
    ) -> Stored:
        """Take a file out of the trash, as it was. An expiry that has passed meanwhile is void.

        Raises and durability as `update`; NoSuchFileError also if it was in the trash for too long.
        """
        command = UndeleteFile(
            file_id=file_id, if_match=if_match, grace_ms=self._delete_grace_ms, caller=caller
        )
        durability = self._committer.submit(command, copies=self._copies(replication))
        return Stored(command.files, durability)


def _encode_cursor(file: FileInfo) -> str:
    return file.id + file.key


def _decode_cursor(text: str) -> tuple[str, str]:
    """Return name and id of the last file of a page."""
    match = CURSOR.fullmatch(text)
    if match is None:
        raise InvalidRequestError(
            "The value of 'after' is not one that a page of files gave.",
            fields={"after": ["must be the 'next' of a page"]},
        )
    return match[2], match[1]
