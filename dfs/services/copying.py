"""Copying blob files from store to store, every block checked on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from dfs.core.errors import (
    BlobCorruptError,
    BlobMissingError,
    DfsError,
    StorageError,
    StoreUnavailableError,
)
from dfs.core.model import Blob
from dfs.core.tasks import start_task
from dfs.core.tracing import NO_SPANS, Spans, in_context
from dfs.storage.base import BlobReader, BlobStore, StagedBlob
from dfs.storage.verified import read_verified


@dataclass(slots=True)
class Copied:
    """What became of some blobs.

    Attributes:
        whole: digests of those that the target holds whole now.
        failed: digest -> why not, of the others.
        damaged: (store, blob, how) of copies that turned out damaged or missing on the way.
    """

    whole: set[bytes] = field(default_factory=set)
    failed: dict[bytes, DfsError] = field(default_factory=dict)
    damaged: list[tuple[str, Blob, DfsError]] = field(default_factory=list)


class BlobSource(Protocol):
    """Where a blob can be read from; a store is one."""

    @property
    def name(self) -> str:
        """How it is called in answers and logs."""

    def open(self, digest: bytes) -> BlobReader:
        """Open a blob for reading. Raises as `BlobStore.open`."""


class BlobCopier:
    """Copies blobs to one store.

    Args:
        target: where to.
        sources: where from; the first that has a blob whole gives it.
        threads: copies several at once: one is written while others are synced and read back.
        on_progress: called after every block.
        publish_lock: held while a blob gets its name; the primary wants the node's lock for it.
        spans: told of each copy.
    """

    def __init__(
        self,
        *,
        target: BlobStore,
        sources: Sequence[BlobSource],
        threads: Executor,
        on_progress: Callable[[], None],
        publish_lock: Callable[[], AbstractContextManager[object]] = nullcontext,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._target = target
        self._sources = sources
        self._threads = threads
        self._on_progress = on_progress
        self._publish_lock = publish_lock
        self._spans = spans

    def copy(self, blobs: Sequence[Blob], *, anew: bool = False) -> Copied:
        """Have these blobs whole on the target. One found whole there is left as it is.

        Args:
            anew: write them all the same, so that they are as young as this call.

        Raises:
            StorageError: the target failed; nothing is known of these blobs on it.

        Durability: on return the blobs in `whole` are durable on the target, and were read back
        from its medium.
        """
        copied = Copied()
        copy_blob = in_context(self._trace_copy)
        copies = [start_task(self._threads, copy_blob, blob, copied, anew) for blob in blobs]
        wait(copies)
        for copy in copies:
            copy.result()
        return copied

    def _trace_copy(self, blob: Blob, copied: Copied, anew: bool) -> None:
        store, digest = self._target.name, blob.digest.hex()
        with self._spans.span("replication.copy", store=store, digest=digest, bytes=blob.size):
            self._copy(blob, copied, anew)

    def _copy(self, blob: Blob, copied: Copied, anew: bool) -> None:
        """Have one blob whole on the target: while it is read back, others are written."""
        if not anew and self._confirm(blob):
            copied.whole.add(blob.digest)
            return
        staged = self._stage(blob, copied)
        if staged is None:
            return
        try:
            with self._publish_lock():
                self._target.publish([(staged, blob.digest, blob.size)])
        finally:
            staged.discard()
        if self._is_whole(blob):
            copied.whole.add(blob.digest)
        else:
            copied.failed[blob.digest] = BlobCorruptError(
                "The store does not give back what was written to it.", digest=blob.digest.hex()
            )

    def _confirm(self, blob: Blob) -> bool:
        """Tell whether the target holds the blob whole already, and see to it that it stays.

        A copy that cannot be read is replaced; if the target does not work at all, that fails.
        """
        try:
            return self._target.confirm(blob.digest, blob.size) and self._is_whole(blob)
        except StoreUnavailableError:
            return False

    def _is_whole(self, blob: Blob) -> bool:
        try:
            with (
                self._spans.span("replication.verify", store=self._target.name),
                self._target.open(blob.digest) as reader,
            ):
                reader.drop_cache()
                for _ in _read(reader, blob):
                    self._on_progress()
                reader.drop_cache()  # read once, it must not push out what is read often
        except (BlobCorruptError, BlobMissingError):
            return False
        return True

    def _stage(self, blob: Blob, copied: Copied) -> StagedBlob | None:
        """Write the blob to the target, not yet under its name. None: no source has it whole."""
        for source in self._sources:
            staged = self._target.stage()
            try:
                self._write(staged, _from_source(source, blob))
                staged.seal(blob.digest)
            except _SourceError as error:
                staged.discard()
                copied.failed[blob.digest] = error.reason
                if isinstance(error.reason, BlobCorruptError | BlobMissingError):
                    copied.damaged.append((source.name, blob, error.reason))
            except BaseException:
                staged.discard()
                raise
            else:
                copied.failed.pop(blob.digest, None)
                return staged
        return None

    def _write(self, staged: StagedBlob, pieces: Iterator[bytes]) -> None:
        """Write all pieces; none is kept in memory while the file is synced."""
        for piece in pieces:
            staged.write(piece)
            self._on_progress()


class _SourceError(Exception):
    """A source does not have a blob whole. Stays inside this module."""

    def __init__(self, reason: DfsError) -> None:
        super().__init__(reason)
        self.reason = reason


def _from_source(source: BlobSource, blob: Blob) -> Iterator[bytes]:
    """Yield the blob's bytes as a source has them; its errors are told apart from the target's."""
    with _source_errors():
        reader = source.open(blob.digest)
    with reader:
        pieces = _read(reader, blob)
        while True:
            with _source_errors():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


@contextmanager
def _source_errors() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise _SourceError(error) from error


def _read(reader: BlobReader, blob: Blob) -> Iterator[bytes]:
    """Yield all bytes of a blob, checked, as one generator: its first errors come late, too."""
    yield from read_verified(
        reader,
        size=blob.size,
        block_crc32s=blob.block_crc32s,
        start=0,
        stop=blob.size,
        digest=blob.digest,
    )
