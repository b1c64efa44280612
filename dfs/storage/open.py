"""Opening a store by the place it is at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dfs.core.disk import Disks
from dfs.core.errors import ConfigError
from dfs.core.model import PRIMARY_NAME
from dfs.storage.local_store import LocalStore

if TYPE_CHECKING:
    from dfs.storage.object_store import ObjectStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How to reach the server of the stores at `s3://` addresses. As the arguments of ObjectStore.

    Attributes:
        spool_path: directory for blobs on their way, on a disk of this machine.
    """

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    timeout_s: float = 10.0
    spool_path: Path | None = None

    def __repr__(self) -> str:
        """Return all but the secret: a traceback may show it."""
        return f"S3Settings(endpoint={self.endpoint!r}, region={self.region!r})"


def open_store(
    location: str | Path,
    *,
    name: str = PRIMARY_NAME,
    s3: S3Settings | None = None,
    disks: Disks | None = None,
    prepare: bool = True,
) -> LocalStore | ObjectStore:
    """Return the store at `location`.

    A store with another name than the primary's is taken to be shared, see `LocalStore`.

    Args:
        location: path of a directory, or `s3://BUCKET/PREFIX`.
        name: how the store is called in answers and logs.
        s3: for an `s3://` address; without it the environment says all.
        disks: see `LocalStore`.
        prepare: whether to create what the store needs. Without that nothing is touched, and the
            caller must call `prepare` before it writes to a new store.

    Raises:
        ConfigError: `location` is a URL of another kind, or a setting is malformed.
        NoSpaceError, StoreUnavailableError: the store could not be prepared.

    Durability: on return the directories of a prepared store are durable.
    """
    store = _make_store(str(location), name, s3 or S3Settings(), disks)
    if prepare:
        store.prepare()
    return store


def _make_store(
    location: str, name: str, s3: S3Settings, disks: Disks | None
) -> LocalStore | ObjectStore:
    """Return the store, nothing of it touched yet. Raises ConfigError."""
    match = _SCHEME.match(location)
    if match is None:
        return LocalStore(path=Path(location), name=name, shared=name != PRIMARY_NAME, disks=disks)
    if match[1] != "s3":
        raise ConfigError(
            f"The store {name!r} is at a {match[1]}:// address, which this version cannot use.",
            hint="Give the path of a directory, or an s3:// address.",
        )
    # Its library takes five megabytes of each process, so only of those that need it.
    from dfs.storage.object_store import ObjectStore  # noqa: PLC0415

    return ObjectStore(
        url=location,
        name=name,
        endpoint=s3.endpoint,
        region=s3.region,
        access_key_id=s3.access_key_id,
        secret_access_key=s3.secret_access_key,
        timeout_s=s3.timeout_s,
        spool_path=s3.spool_path,
    )
