"""Tells which object store has more of the log than a node, whose ends at ID OFFSET LSN.

Run as `python -m workers.newer ID OFFSET LSN` by whoever opens a node, in a process of its own like
`workers.restore`. Prints one line, as JSON, if there is such a store. Exit status: 0; 2 for a wrong
call or setting.
"""

from __future__ import annotations

import sys

import msgspec

from dfs.core.config import load_config
from dfs.core.errors import ConfigError
from dfs.opening import open_replicas
from dfs.services.rollback import find_newer
from dfs.storage.local_store import LocalStore
from dfs.wal.control import LogPosition


def main(arguments: list[str]) -> int:
    """Ask the object stores that the settings name. Returns the exit status."""
    if len(arguments) != 3 or not all(argument.isdecimal() for argument in arguments):
        sys.stderr.write("usage: python -m workers.newer SEGMENT_ID OFFSET LSN\n")
        return 2
    try:
        stores = open_replicas(load_config()).values()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    objects = [store for store in stores if not isinstance(store, LocalStore)]
    newer = find_newer(objects, LogPosition(*map(int, arguments)))
    if newer is not None:
        sys.stdout.write(f"{msgspec.json.encode(newer).decode()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
