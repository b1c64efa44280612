"""The stores of a node: the primary and its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dfs.core.errors import NoSuchStoreError
from dfs.core.filelock import Gate
from dfs.storage.base import BlobStore, KeepsSegments, ListsBlobs, QuarantinesBlobs


def copying_gate(wal_path: Path, store: str) -> Gate:
    """Return what everybody passes who copies blobs to a store.

    It is shut while a blob is put aside that nobody knows: a copy that is made there at that
    moment, or found there, may be of the same bytes.
    """
    return Gate(wal_path / f"{store}.copying")


class ReplicaStore(BlobStore, KeepsSegments, ListsBlobs, QuarantinesBlobs, Protocol):
    """What a store must be able to do to hold a copy of everything."""


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores that the settings name, whether they answer or not.

    Attributes:
        replicas: by name, in the order of their numbers.
    """

    primary: BlobStore
    replicas: Mapping[str, ReplicaStore]

    def get(self, name: str) -> BlobStore:
        """Return a store. Raises NoSuchStoreError."""
        store = self.primary if name == self.primary.name else self.replicas.get(name)
        if store is None:
            raise NoSuchStoreError(f"There is no store {name!r}.")
        return store

    def all(self) -> list[BlobStore]:
        """Return all stores, the primary first."""
        return [self.primary, *self.replicas.values()]

    def others(self, name: str) -> list[BlobStore]:
        """Return the stores that can give what one of them lacks, the primary first."""
        return [store for store in self.all() if store.name != name]
