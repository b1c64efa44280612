"""The changes that clients ask for, as commands of the group commit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from dfs.core.access import NODE, Caller
from dfs.core.clock import now_ms
from dfs.core.errors import (
    AlreadyExistsError,
    NoSuchFileError,
    PreconditionFailedError,
    QuotaExceededError,
)
from dfs.core.model import DEFAULT_BUCKET, Blob, BlobKind, File
from dfs.db.transaction import IndexTransaction
from dfs.services.command import RECORD_OVERHEAD_BYTES, Bytesless, Draft
from dfs.services.upload import BlobWriter
from dfs.storage.base import StagedBlob
from dfs.wal.record import DeleteFile, PutBlob, PutFile, RestoreFile, UpdateFile

ANY_ETAG = "*"


class Upload(msgspec.Struct, frozen=True):
    """A file to be stored.

    Attributes:
        blob: its bytes, finished.
    """

    blob: BlobWriter
    key: str
    content_type: str
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    expires_at_ms: int | None = None
    bucket: str = DEFAULT_BUCKET


class StoreFiles:
    """Store some files: all of them or none.

    Args:
        uploads: (id of the new file, what it is) for each.
        if_absent: refuse if a file of one of these names is there.
        by: id of the key with which this is asked for.
        is_sound: tells whether a blob that the index knows can really be read.
        quota_bytes: what all files together may have, those in the trash included; 0: no limit.
    """

    file_ids: Sequence[str] = ()

    def __init__(
        self,
        *,
        uploads: Sequence[tuple[str, Upload]],
        if_absent: bool,
        is_sound: Callable[[Blob], bool],
        by: str = "",
        quota_bytes: int = 0,
    ) -> None:
        self.files: tuple[File, ...] = ()
        self.new_file_ids = [file_id for file_id, _ in uploads]
        self.digests = [upload.blob.digest for _, upload in uploads]
        self._uploads = uploads
        self._if_absent = if_absent
        self._by = by
        self._is_sound = is_sound
        self._quota_bytes = quota_bytes
        self.log_bytes_max = sum(_upload_bytes(upload) for _, upload in uploads)
        self._staged: list[tuple[StagedBlob, bytes, int]] = []

    def plan(self, index: IndexTransaction) -> list[Draft]:
        if self._quota_bytes:
            self._require_quota(index)
        created_at_ms = now_ms()
        drafts: list[Draft] = []
        drafted: set[bytes] = set()
        names: set[tuple[str, str]] = set()
        for file_id, upload in self._uploads:
            name = (upload.bucket, upload.key)
            if self._if_absent and (name in names or index.key_exists(*name, created_at_ms)):
                raise AlreadyExistsError(f"There is a file named {upload.key!r} already.")
            names.add(name)
            if upload.blob.digest not in drafted:
                drafts.extend(self._plan_blob(upload.blob, index))
                drafted.add(upload.blob.digest)
            drafts.append(
                Draft(
                    PutFile(
                        id=file_id,
                        bucket=upload.bucket,
                        key=upload.key,
                        size=upload.blob.size,
                        digest=upload.blob.digest,
                        content_type=upload.content_type,
                        created_at_ms=created_at_ms,
                        metadata=dict(upload.metadata),
                        expires_at_ms=upload.expires_at_ms,
                        by=self._by,
                    )
                )
            )
        return drafts

    def staged(self) -> Sequence[tuple[StagedBlob, bytes, int]]:
        return self._staged

    def read_back(self, index: IndexTransaction) -> None:
        self.files = tuple(
            file for file_id in self.new_file_ids if (file := index.file(file_id)) is not None
        )

    def _require_quota(self, index: IndexTransaction) -> None:
        size = sum(upload.blob.size for _, upload in self._uploads)
        left = self._quota_bytes - index.held_bytes()
        if size > left:
            raise QuotaExceededError(
                f"Only {max(0, left)} of {self._quota_bytes} bytes are left for files. Those in "
                "the trash count until they are purged."
            )

    def _plan_blob(self, blob: BlobWriter, index: IndexTransaction) -> list[Draft]:
        """Return the record that puts these bytes, unless the node has them already."""
        known = index.blob(blob.digest)
        if known is not None and blob.staged is not None and known.kind is BlobKind.FILE:
            # The file that is there may be damaged; the one just received takes its place.
            self._staged.append((blob.staged, blob.digest, blob.size))
            return []
        if known is not None and known.kind is BlobKind.INLINE and self._is_sound(known):
            return []
        if blob.staged is not None:
            self._staged.append((blob.staged, blob.digest, blob.size))
        data = blob.data
        return [
            Draft(
                PutBlob(
                    digest=blob.digest,
                    size=blob.size,
                    inline=data is not None,
                    block_crc32s=blob.block_crc32s,
                ),
                data or b"",
            )
        ]


class _FileChange(Bytesless):
    """A change of one file that puts no bytes.

    Args:
        if_match: entity tags of which the file must have one, or "*"; None for no condition.
        caller: who asks. He must see the file, whatever its name is by then.

    Attributes:
        files: the file, as the change has left it.
    """

    log_bytes_max = RECORD_OVERHEAD_BYTES

    def __init__(
        self, *, file_id: str, if_match: Collection[str] | None, caller: Caller = NODE
    ) -> None:
        self.files: tuple[File, ...] = ()
        self.file_ids = [file_id]
        self._if_match = if_match
        self._caller = caller

    def read_back(self, index: IndexTransaction) -> None:
        file = index.file(self.file_ids[0])
        self.files = (file,) if file is not None else ()

    def _seen_file(self, index: IndexTransaction) -> File | None:
        """Return the file, in the trash or not; None if the caller sees none of that id."""
        file = index.file(self.file_ids[0])
        return file if file is not None and self._caller.sees(file.key) else None

    def _require_file(self, index: IndexTransaction, at_ms: int) -> File:
        """Return the file if it can be found at that moment and is the one the caller means."""
        file = self._seen_file(index)
        if file is None or file.deleted_at_ms is not None or has_expired(file, at_ms):
            raise NoSuchFileError(f"There is no file {self.file_ids[0]}.")
        self._require_match(file)
        return file

    def _require_match(self, file: File) -> None:
        wanted = self._if_match
        if wanted is not None and ANY_ETAG not in wanted and file.etag not in wanted:
            raise PreconditionFailedError("The file is not the one named by If-Match.")


class ChangeFile(_FileChange):
    """Change the name, type, metadata or expiry of a file.

    Args:
        changes: new values by attribute of `model.File`; what is not named stays.
        if_match, caller: as for every change of a file.
    """

    def __init__(
        self,
        *,
        file_id: str,
        changes: Mapping[str, object],
        if_match: Collection[str] | None,
        caller: Caller = NODE,
    ) -> None:
        super().__init__(file_id=file_id, if_match=if_match, caller=caller)
        self._changes = changes
        self.log_bytes_max = RECORD_OVERHEAD_BYTES + len(str(changes)) * 4

    def plan(self, index: IndexTransaction) -> list[Draft]:
        updated_at_ms = now_ms()
        file = self._require_file(index, updated_at_ms)
        current = {
            "key": file.key,
            "content_type": file.content_type,
            "metadata": dict(file.metadata),
            "expires_at_ms": file.expires_at_ms,
        }
        new: dict[str, object] = {**current, **self._changes}
        by = self._caller.key_id
        return [Draft(UpdateFile(id=file.id, updated_at_ms=updated_at_ms, by=by, **new))]  # type: ignore[arg-type]


class RemoveFile(_FileChange):
    """Put a file into the trash."""

    def plan(self, index: IndexTransaction) -> list[Draft]:
        deleted_at_ms = now_ms()
        file = self._require_file(index, deleted_at_ms)
        return [Draft(DeleteFile(file.id, deleted_at_ms, self._caller.key_id))]


class UndeleteFile(_FileChange):
    """Take a file out of the trash.

    Args:
        grace_ms: it must have been there for less.
        if_match, caller: as for every change of a file.
    """

    def __init__(
        self,
        *,
        file_id: str,
        if_match: Collection[str] | None,
        grace_ms: int,
        caller: Caller = NODE,
    ) -> None:
        super().__init__(file_id=file_id, if_match=if_match, caller=caller)
        self._grace_ms = grace_ms

    def plan(self, index: IndexTransaction) -> list[Draft]:
        restored_at_ms = now_ms()
        file = self._seen_file(index)
        deleted_at_ms = None if file is None else file.deleted_at_ms
        if (
            file is None
            or deleted_at_ms is None
            or deleted_at_ms + self._grace_ms <= restored_at_ms
        ):
            raise NoSuchFileError(f"There is no file {self.file_ids[0]} in the trash.")
        self._require_match(file)
        # Else it would be gone again at once.
        expires_at_ms = None if has_expired(file, restored_at_ms) else file.expires_at_ms
        return [Draft(RestoreFile(file.id, restored_at_ms, expires_at_ms, self._caller.key_id))]


def has_expired(file: File, at_ms: int) -> bool:
    """Tell whether a file has expired by a moment."""
    return file.expires_at_ms is not None and file.expires_at_ms <= at_ms


def _upload_bytes(upload: Upload) -> int:
    """Return roughly how many bytes of log a file takes at most."""
    texts = [upload.key, upload.content_type, *upload.metadata, *upload.metadata.values()]
    inline = upload.blob.size if upload.blob.staged is None else 0
    checksums = len(upload.blob.block_crc32s)
    return 2 * RECORD_OVERHEAD_BYTES + inline + checksums + 4 * sum(map(len, texts))
