"""Tells what a start of this version would change, and replaces a running node without a stop.

    python -m scripts.upgrade check     what versions the data is of, and what cannot be taken back
    python -m scripts.upgrade apply     the same; then new processes take over from the old ones

Both need the settings of the node. `check` reads all of the log and changes nothing, whether the
node runs or not. `apply` has Gunicorn's master start another one with the code that is there now
(SIGUSR2), waits until that one serves, and only then ends the old one (SIGTERM), which answers what
has come to it. If the new one does not start, the old one goes on.

Exit status: 0 = nothing is changed, or all is replaced; 1 = a start changes something, or the old
processes go on; 2 = a start would be refused, or it could not be told.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from dfs.core.config import Config, load_config
from dfs.core.errors import DfsError
from dfs.core.logging import configure_logging, style_of
from dfs.core.modes import keep_files_private
from dfs.core.steps import ignore_step
from dfs.opening import build_log, open_replicas
from dfs.services.stores import Stores
from dfs.services.versions import Findings, describe_findings, examine
from dfs.storage.open import open_store
from dfs.wal.layout import Situation, find_situation
from scripts.processes import children_of, find_predecessor, find_successor, read_web_pid

UNCHANGED, CHANGES, REFUSED = 0, 1, 2
START_TIMEOUT_S = 600
END_TIMEOUT_S = 60
PAUSE_S = 0.1


class UpgradeError(Exception):
    """The old processes go on."""


def look(config: Config) -> Findings:
    """Return of what versions the data of the node is. Raises DfsError."""
    if find_situation(config.wal_path) is Situation.EMPTY:
        return Findings(notes=[f"{config.wal_path} holds no log: a start begins one."])
    log = build_log(config, ignore_step)
    log.open()
    try:
        primary = open_store(config.storage_path, prepare=False)
        return examine(log, config.database_url, Stores(primary, open_replicas(config)))
    finally:
        log.close()


def check(config: Config) -> tuple[int, Findings]:
    """Print what was found, and what follows. Returns the exit status, too."""
    findings = look(config)
    print("\n".join(describe_findings(findings)), flush=True)
    if findings.refusals:
        return REFUSED, findings
    return CHANGES if findings.lacking else UNCHANGED, findings


def replace_processes(config: Config) -> None:
    """Have new web processes take over from those that run.

    Raises:
        UpgradeError: they do not.
    """
    old = read_web_pid(config.run_path)
    if old is None:
        raise UpgradeError(f"No web server runs with DFS_RUN_PATH={config.run_path}.")
    if find_successor(old, among=children_of(old)) is not None:
        raise UpgradeError("Another upgrade is under way.")
    before = find_predecessor(old)
    if before is not None:
        print(f"An upgrade was broken off: process {before} is ended first.", flush=True)
        wait_for_end(before)
    send(old, signal.SIGUSR2)
    new = wait_for_successor(config, old)
    print(f"Process {new} serves; {old} answers what has come to it, and ends.", flush=True)
    wait_for_end(old)
    print("Done.")


def wait_for_successor(config: Config, old: int) -> int:
    """Wait until a new master serves, and return its process id. Raises UpgradeError."""
    until_s = time.monotonic() + START_TIMEOUT_S
    new: int | None = None
    while time.monotonic() < until_s:
        found = find_successor(old, among=children_of(old))
        if new is not None and found is None:
            raise UpgradeError("The new version did not start; the old one goes on. See the log.")
        new = found
        if new is not None and read_web_pid(config.run_path) == new:
            return new
        time.sleep(PAUSE_S)
    if new is not None:
        send(new, signal.SIGTERM)
    raise UpgradeError("The new version does not serve; the old one goes on. See the log.")


def send(pid: int, signal_number: int) -> None:
    """Send a signal to a process. Raises UpgradeError, ProcessLookupError."""
    try:
        os.kill(pid, signal_number)
    except PermissionError:
        raise UpgradeError(f"Process {pid} is another user's.") from None


def wait_for_end(pid: int) -> None:
    """End a process in good order. Raises UpgradeError."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            send(pid, signal.SIGTERM)
            if not select.select([descriptor], [], [], END_TIMEOUT_S)[0]:
                raise UpgradeError(f"Process {pid} does not end. The new ones serve.")
        finally:
            os.close(descriptor)


def apply(config: Config) -> int:
    """Replace the processes of a running node, unless something has to be stopped for it."""
    status, findings = check(config)
    print()
    if status == REFUSED:
        return REFUSED
    if findings.lacking:
        raise UpgradeError("Nothing was done. Stop the node, and start it with this version.")
    replace_processes(config)
    return UNCHANGED


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("check", "apply"))
    action = parser.parse_args(arguments).action
    try:
        config = load_config()
        configure_logging(style_of(config).quieter(logging.WARNING))
        return check(config)[0] if action == "check" else apply(config)
    except UpgradeError as error:
        print(f"dfs: {error}", file=sys.stderr)
        return CHANGES
    except (DfsError, OSError) as error:
        print(f"dfs: {error}", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    keep_files_private()
    sys.exit(main())
