"""What every store must say about itself, whatever it is made of."""

from __future__ import annotations

import pytest

from dfs.core.errors import StoreIdentityError
from dfs.storage.base import BlobStore
from dfs.storage.identity import new_identity


def test_store_name_is_the_one_given(store: BlobStore) -> None:
    """A store says the name that it was opened with."""
    assert store.name == "contract"


def test_prepare_again_changes_nothing(store: BlobStore) -> None:
    """Each process prepares the store it opens, whatever is in it."""
    identity = new_identity()
    store.adopt(identity)

    store.prepare()

    assert store.read_identity() == identity


def test_read_identity_of_a_new_store_is_none(store: BlobStore) -> None:
    """A store that nobody adopted is nobody's."""
    assert store.read_identity() is None


def test_adopt_store_reads_back_the_same(store: BlobStore) -> None:
    """The identity that was written is the one that is read; writing it again is no error."""
    identity = new_identity()

    store.adopt(identity)
    store.adopt(identity)

    assert store.read_identity() == identity


def test_adopt_store_of_another_is_refused(store: BlobStore) -> None:
    """An identity never takes the place of another, even of the same cluster."""
    identity = new_identity()
    store.adopt(identity)

    with pytest.raises(StoreIdentityError, match="a store already") as caught:
        store.adopt(new_identity(cluster_id=identity.cluster_id))
    assert caught.value.context["store_id"] == identity.store_id.hex()
    assert store.read_identity() == identity


def test_store_in_a_plain_place_is_no_mount(store: BlobStore) -> None:
    """Only the mount point of a file system is one."""
    assert not store.is_mount()
