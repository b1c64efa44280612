"""Having the log of a node restored before the node is opened, and object stores asked for more.

That is done by processes of their own, since whoever opens the node may fork later, and what talks
to object stores must not be carried over a fork.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import structlog

from dfs.core.config import Config
from dfs.core.errors import WalError, WalGapError
from dfs.core.settings import MORE_REPLICAS, SETTINGS
from dfs.services.restore import needs_restoring
from dfs.services.rollback import Newer, find_newer, require_newest
from dfs.services.stores import Stores
from dfs.services.workshop import sweep_workshop
from dfs.storage.local_store import LocalStore
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog

RESTORE, FIND_NEWER = "workers.restore", "workers.newer"
NO_LOG_STATUS = 3
"""Exit status of restoring when there is no log, here or on a replica."""

logger = structlog.get_logger()


def restore_if_needed(config: Config) -> bool:
    """Have the log restored from the replicas if it looks as if it had to be.

    Returns:
        Whether a log may begin: there is none, here or on a replica.

    Raises:
        WalGapError: it cannot be restored; the text says why.
        WalFormatError, StorageError: the log cannot be looked at.
    """
    sweep_workshop(config.wal_path)
    if not config.replicas or _is_new(config):
        return True
    reason = needs_restoring(config.wal_path)
    return reason is not None and restore(config, reason=reason)


def restore_after(config: Config, error: WalError) -> bool:
    """Have the log restored that recovery has refused with `error`, if there are replicas.

    Returns:
        Whether a log may begin, as `restore_if_needed`.

    Raises:
        WalError: `error` itself if there are none; else why it cannot be restored.
    """
    if not config.replicas:
        raise error
    durable_lsn = error.context.get("durable_lsn")
    return restore(
        config, reason=str(error), durable_lsn=durable_lsn if isinstance(durable_lsn, int) else 0
    )


def restore(config: Config, *, reason: str, durable_lsn: int = 0) -> bool:
    """Have the log restored from the replicas.

    Args:
        reason: why, for the log of the program.
        durable_lsn: of a record that is known to have been acknowledged.

    Returns:
        Whether there is none, here or on a replica.

    Raises:
        WalGapError: it cannot be restored; the text says why.
    """
    logger.warning("log_restoring", reason=reason)
    done = _run(config, RESTORE, durable_lsn)
    if done.returncode not in (0, NO_LOG_STATUS):
        said = done.stderr.strip().rpartition("\n")[2]
        raise WalGapError(f"The log could not be restored: {said}", path=config.wal_path)
    logger.warning("log_restored", result=done.stdout.strip())
    return done.returncode == NO_LOG_STATUS


def require_newest_of(config: Config, log: WriteAheadLog, stores: Stores) -> None:
    """Refuse a log that lacks commits which a replica has: its disk was put back as it was once.

    Object stores are asked by a process of its own. Who does not answer is passed over.

    Raises:
        WalGapError: as `services.rollback.require_newest`.
    """
    directories = [store for store in stores.replicas.values() if isinstance(store, LocalStore)]
    require_newest(log, partial(find_newer, directories))
    if len(directories) < len(stores.replicas):
        require_newest(log, partial(_ask_object_stores, config))


def _ask_object_stores(config: Config, end: LogPosition) -> Newer | None:
    """Return an object store that has acknowledged commits behind a place, or None."""
    try:
        done = _run(
            config,
            FIND_NEWER,
            end.segment_id,
            end.offset,
            end.lsn,
            timeout_s=config.replica_timeout_s,
        )
    except subprocess.TimeoutExpired:
        logger.warning("replica_unasked", hint="No object store answers; a job will say why.")
        return None
    if done.returncode:
        logger.warning("replica_unasked", said=done.stderr.strip().rpartition("\n")[2])
    return msgspec.json.decode(done.stdout, type=Newer) if done.stdout else None


def _run(
    config: Config, program: str, *arguments: int, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of dfs with the settings of this process. Raises TimeoutExpired."""
    return subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        env=_environment(config),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def _is_new(config: Config) -> bool:
    """Tell whether there plainly is no log anywhere: new nodes shall start without delay."""
    places = [config.wal_path, *(Path(location) for _, location in config.replicas)]
    try:
        return all("://" not in location for _, location in config.replicas) and not any(
            os.path.lexists(place) and any(place.iterdir()) for place in places
        )
    except OSError:
        return False


def _environment(config: Config) -> dict[str, str]:
    """Return an environment in which the program reads the settings that it needs as they are."""
    root = str(Path(__file__).parent.parent)
    settings = {
        "STORAGE_PATH": str(config.storage_path),
        "WAL_PATH": str(config.wal_path),
        "DFS_REPLICATION": "async",
        "DFS_S3_ENDPOINT": config.s3_endpoint,
        "DFS_S3_REGION": config.s3_region,
        "DFS_S3_ACCESS_KEY_ID": config.s3_access_key_id,
        "DFS_S3_SECRET_ACCESS_KEY": config.s3_secret_access_key,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    names = [*os.environ, *(setting.name for setting in SETTINGS)]
    others = {name: "" for name in names if MORE_REPLICAS.fullmatch(name)}
    replicas = {f"{name.upper()}_PATH": location for name, location in config.replicas}
    given = {name: value for name, value in settings.items() if value is not None}
    return {**os.environ, **others, **replicas, **given}
