"""Restores the log of a node from its replicas: `python -m workers.restore [DURABLE_LSN]`.

Run by whoever opens a node whose log is missing or damaged, in a process of its own: what talks to
object stores must not be carried over a fork. By hand it does the same. Prints one line. Exit
status: 0 if the log is whole now; 1 if not, with the reason on stderr; 2 for a wrong call or
setting; 3 if there is no log yet, here or on a replica.
"""

from __future__ import annotations

import sys

from dfs.core.config import Config, load_config
from dfs.core.descriptors import raise_descriptor_limit
from dfs.core.errors import ConfigError, DfsError
from dfs.core.logging import configure_logging, style_of
from dfs.core.modes import keep_files_private
from dfs.opening import open_replicas
from dfs.restoring import NO_LOG_STATUS
from dfs.services.restore import Restored, restore_log


def restore(config: Config, *, durable_lsn: int) -> Restored | None:
    """Restore the log as the settings say; return and raise as `restore_log`."""
    return restore_log(
        wal_path=config.wal_path,
        storage_path=config.storage_path,
        stores=list(open_replicas(config).values()),
        durable_lsn=durable_lsn,
    )


def describe(restored: Restored | None) -> str:
    """Return what was done, in one line."""
    if restored is None:
        return "There is no log yet, here or on a replica."
    if not restored.segments:
        return f"The log is whole up to LSN {restored.position.lsn}; nothing was restored."
    return (
        f"Restored {len(restored.segments)} segments of the log from "
        f"{', '.join(restored.origins) or 'headers'}; it ends at LSN {restored.position.lsn}."
    )


def main(arguments: list[str]) -> int:
    """Restore the log as the settings say. Returns the exit status."""
    if len(arguments) > 1 or not all(argument.isdecimal() for argument in arguments):
        sys.stderr.write("usage: python -m workers.restore [DURABLE_LSN]\n")
        return 2
    try:
        config = load_config()
        configure_logging(style_of(config))
        raise_descriptor_limit()
        restored = restore(config, durable_lsn=int(arguments[0]) if arguments else 0)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except DfsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{describe(restored)}\n")
    return NO_LOG_STATUS if restored is None else 0


if __name__ == "__main__":
    keep_files_private()
    sys.exit(main(sys.argv[1:]))
