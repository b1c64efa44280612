"""Making sure that a store is the one it should be, before a byte is written to it or believed."""

from __future__ import annotations

from dfs.core.errors import StoreIdentityError, StoreUnavailableError
from dfs.core.model import StoreState
from dfs.storage.base import BlobStore
from dfs.storage.identity import StoreIdentity, new_identity


def adopt(
    store: BlobStore, state: StoreState | None, *, cluster_id: bytes
) -> tuple[StoreState, bool]:
    """Look at a store's identity, and give it one if it is new or was replaced by an empty one.

    A directory that is gone is waited for: its disk may come back, and filling the place where it
    was mounted would help nobody. One that is there and empty is a replacement.

    Args:
        state: what is known of the store, or None if nothing is.

    Returns:
        (what is known now, whether the store has to be taken for empty).

    Raises:
        StoreIdentityError: it belongs to another cluster, or to a newer program.
        StoreUnavailableError: it does not answer, is gone, or its disk is not mounted.

    Durability: on return the store's identity is durable.
    """
    if state is None:
        store.prepare()
    is_mounted = store.is_mount()
    if state is not None and state.was_mounted and not is_mounted:
        raise StoreUnavailableError(
            "The disk of the store is not mounted.",
            hint="Mount it. To go on without a disk of its own, give the store another path.",
            store=store.name,
        )
    identity = store.read_identity()
    if identity is None:
        store.prepare()
        identity = _claim(store, cluster_id)
    if identity.cluster_id != cluster_id:
        raise StoreIdentityError(
            f"The store belongs to cluster {identity.cluster_id.hex()}, not to {cluster_id.hex()}.",
            hint="Check the paths of the stores: one of them is another node's.",
            store=store.name,
        )
    if state is not None and state.store_id == identity.store_id:
        return state, False
    return StoreState(store.name, identity.store_id, was_mounted=is_mounted), True


def _claim(store: BlobStore, cluster_id: bytes) -> StoreIdentity:
    """Give a store without an owner an identity; return it, or that of whoever was quicker."""
    identity = new_identity(cluster_id=cluster_id)
    try:
        store.adopt(identity)
    except StoreIdentityError:
        found = store.read_identity()
        if found is None:
            raise
        return found
    return identity
