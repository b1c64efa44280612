"""Opening a store by the place it is at."""

from __future__ import annotations

import re
from pathlib import Path

from dfs.core.errors import ConfigError
from dfs.storage.local_store import LocalStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(location: str | Path, *, name: str = "primary", prepare: bool = True) -> LocalStore:
    """Return the store at `location`.

    Args:
        location: path of a directory.
        name: how the store is called in answers and logs.
        prepare: create its directories; else nothing is touched.

    Raises:
        ConfigError: `location` is a URL: there is no store of that kind.
        NoSpaceError, StoreUnavailableError: the directories could not be created.

    Durability: on return the directories that were created are durable.
    """
    match = _SCHEME.match(str(location))
    if match is not None:
        raise ConfigError(
            f"The store {name!r} is at a {match[1]}:// address, which this version cannot use.",
            hint="Give the path of a directory.",
        )
    store = LocalStore(path=Path(location), name=name)
    if prepare:
        store.prepare()
    return store
