"""From the settings to what a process opens: log, index, stores and their disks, queue."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

from dfs.core.config import Config
from dfs.core.disk import INDEX, LOG, PRIMARY, Disks
from dfs.core.steps import OnStep
from dfs.db.connections import Aside
from dfs.db.session import IndexDatabase
from dfs.queue.base import JobQueue
from dfs.queue.inline_queue import InlineQueue
from dfs.queue.rq_queue import RqQueue, queue_name
from dfs.services.recovery import mark_for_rebuilding
from dfs.services.stores import ReplicaStore
from dfs.storage.open import S3Settings, open_store
from dfs.wal.log import WriteAheadLog

SPOOL_NAME = "spool"


def build_log(config: Config, on_step: OnStep) -> WriteAheadLog:
    """Return the log, not open yet."""
    return WriteAheadLog(
        path=config.wal_path,
        segment_bytes=config.wal_segment_bytes,
        preallocate_bytes=config.wal_preallocate_bytes,
        reserve_bytes=config.reserve_bytes,
        on_step=on_step,
    )


def build_index(config: Config, *, aside: Aside = nullcontext) -> IndexDatabase:
    """Return the index, not open yet; `aside`: see there."""
    return IndexDatabase(
        url=config.database_url,
        node_id=config.node_id,
        replicas=[name for name, _ in config.replicas],
        on_damaged=partial(mark_for_rebuilding, config.wal_path),
        aside=aside,
    )


def build_disks(config: Config, index: IndexDatabase) -> Disks:
    """Return the disks on which uploads leave a reserve. Raises StorageError."""
    paths = {LOG: config.wal_path, PRIMARY: config.storage_path}
    if index.directory is not None:
        paths[INDEX] = index.directory
    return Disks(paths, reserve_bytes=config.reserve_bytes, reserve_inodes=config.reserve_inodes)


def open_replicas(config: Config, disks: Disks | None = None) -> dict[str, ReplicaStore]:
    """Return the replicas by name. Whether they are there is seen when they are used.

    Args:
        disks: those with a reserve, which copies leave alone, too.
    """
    s3 = S3Settings(
        endpoint=config.s3_endpoint,
        region=config.s3_region,
        access_key_id=config.s3_access_key_id,
        secret_access_key=config.s3_secret_access_key,
        spool_path=config.run_path / SPOOL_NAME,
    )
    return {
        name: open_store(location, name=name, s3=s3, disks=disks, prepare=False)
        for name, location in config.replicas
    }


def build_queue(config: Config, *, cluster_id: bytes) -> JobQueue:
    """Return the queue of the settings, or one that runs what is asked for at once."""
    if config.redis_url is None:
        return InlineQueue(jobs={})
    return RqQueue(
        url=config.redis_url, name=queue_name(cluster_id=cluster_id, node_id=config.node_id)
    )
