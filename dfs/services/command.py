"""What a change must tell the group commit about itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from dfs.db.transaction import IndexTransaction
from dfs.storage.base import StagedBlob
from dfs.wal.record import Meta

RECORD_OVERHEAD_BYTES = 512
"""Allowance for the frame and the fixed fields of a record when a batch is measured."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A record that has no place in the log yet."""

    meta: Meta
    data: bytes = b""


class Bytesless:
    """What is common to the changes that put no bytes and make no files."""

    file_ids: Sequence[str] = ()
    new_file_ids: Sequence[str] = ()
    digests: Sequence[bytes] = ()

    def staged(self) -> Sequence[tuple[StagedBlob, bytes, int]]:
        """Return nothing: there are no blob files."""
        return ()

    def read_back(self, index: IndexTransaction) -> None:
        """Keep nothing."""


class Command(Protocol):
    """A change somebody wants."""

    @property
    def log_bytes_max(self) -> int:
        """Bytes of log the change takes at most, roughly."""

    @property
    def file_ids(self) -> Sequence[str]:
        """Files whose rows `plan` will look at, but for those of `new_file_ids`."""

    @property
    def new_file_ids(self) -> Sequence[str]:
        """Ids made for this change, which no file has."""

    @property
    def digests(self) -> Sequence[bytes]:
        """Blobs whose rows `plan` will look at."""

    def plan(self, index: IndexTransaction) -> Sequence[Draft]:
        """Check the preconditions against the index and return the records of the change.

        Raises:
            RequestError: the change cannot be made. Nothing of it happens.
        """

    def staged(self) -> Sequence[tuple[StagedBlob, bytes, int]]:
        """Return the blob files that the planned change needs: (staged blob, digest, size)."""

    def read_back(self, index: IndexTransaction) -> None:
        """Keep what the caller wants to know of the rows as the change has made them."""
