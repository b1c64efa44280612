"""Stores that are taken in by two processes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfs.core.errors import StoreIdentityError
from dfs.services.adoption import adopt
from dfs.storage.identity import StoreIdentity, new_identity
from dfs.storage.local_store import LocalStore

CLUSTER_ID = b"c" * 16


class OvertakenStore(LocalStore):
    """A store that another process takes in just before this one does."""

    def __init__(self, path: Path, other: StoreIdentity) -> None:
        super().__init__(path=path, name="replica1")
        self._other = other

    def adopt(self, identity: StoreIdentity) -> None:
        """See `BlobStore`."""
        super().adopt(self._other)
        super().adopt(identity)


def test_adopt_empty_store_takes_the_identity_of_who_was_quicker(tmp_path: Path) -> None:
    """That is no fault of the store: both processes go on with the same one."""
    other = new_identity(cluster_id=CLUSTER_ID)
    store = OvertakenStore(tmp_path, other)
    state, is_new = adopt(store, None, cluster_id=CLUSTER_ID)
    assert (state.store_id, is_new) == (other.store_id, True)
    assert store.read_identity() == other


def test_adopt_store_that_another_cluster_takes_meanwhile_is_refused(tmp_path: Path) -> None:
    """Being quicker makes nobody the owner of what two clusters want."""
    store = OvertakenStore(tmp_path, new_identity())
    with pytest.raises(StoreIdentityError, match="belongs to cluster"):
        adopt(store, None, cluster_id=CLUSTER_ID)
