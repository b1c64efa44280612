"""The directories `blobs/ab/cd` of a local store, made durable before a blob is named in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dfs.core.durable import DIRECTORY_MODE, storage_error, sync_directory


class ShardDirectories:
    """Creates the two directories above a blob, and remembers which of them are durable.

    Threads may share it. Two that both find a directory unknown both sync it, which does no harm.

    Args:
        root: the directory `blobs` of the store.
    """

    def __init__(self, *, root: Path) -> None:
        self._root = root
        self._durable: set[str] = set()

    def make(self, digest: bytes) -> list[str]:
        """Create the directory of a blob.

        Returns:
            The directories on the way to it (relative to the root, outermost first) that are not
            known to be durable, those that others created included: hand them to `sync`.

        Raises:
            NoSpaceError, StoreUnavailableError: it could not be created.
        """
        unknown = [shard for shard in _names(digest) if shard not in self._durable]
        for shard in unknown:
            path = self._root / shard
            try:
                path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            except OSError as error:
                raise storage_error(error, path=path) from error
        return unknown

    def sync(self, made: Sequence[str]) -> None:
        """Make what `make` returned durable.

        It is apart from `make` so that the sync of the file comes in between: on a journalling
        file system that one carries the new directories along, and little is left to wait for.

        Raises:
            NoSpaceError, StoreUnavailableError: the sync failed; the directories stay unknown.
        """
        for shard in made:
            sync_directory((self._root / shard).parent)
            self._durable.add(shard)

    def forget_all(self) -> None:
        """Believe nothing about any directory: the disk may be another one."""
        self._durable.clear()

    def forget(self, digest: bytes) -> None:
        """Believe nothing about the directories of a blob: somebody may have removed them."""
        self._durable.difference_update(_names(digest))


def _names(digest: bytes) -> tuple[str, str]:
    """Return the directories above a blob, relative to the root: ("ab", "ab/cd")."""
    name = digest[:2].hex()
    return name[:2], f"{name[:2]}/{name[2:]}"
