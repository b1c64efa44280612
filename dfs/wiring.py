"""The one place that knows every class: builds the services of a process from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dfs.core.config import Config
from dfs.core.disk import Disks
from dfs.core.durable import storage_error
from dfs.core.errors import WalCorruptError, WalGapError
from dfs.core.filelock import FileLock
from dfs.core.steps import OnStep, ignore_step
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.opening import build_disks, build_index, build_log, build_queue, open_replicas
from dfs.queue.base import JobQueue
from dfs.restoring import restore_after, restore_if_needed
from dfs.services.batch import CommitReport
from dfs.services.commit import Committer
from dfs.services.damage import DamageBook
from dfs.services.files import FileService
from dfs.services.garbage import GarbageCollector
from dfs.services.hints import Hinter, ignore_hint
from dfs.services.hooks import NO_HOOKS, Hooks
from dfs.services.inspection import WalInspection
from dfs.services.ledger import Ledger
from dfs.services.mending import mend_segment
from dfs.services.quarantine import Quarantine
from dfs.services.quorum import Quorum
from dfs.services.readiness import NodeHealth
from dfs.services.recovery import Recovered, recover
from dfs.services.removal import BlobRemover
from dfs.services.replicas import Replicas
from dfs.services.replication import Replication, store_lock_path
from dfs.services.scrub import Scrub
from dfs.services.stores import Stores
from dfs.services.survey import Survey
from dfs.services.turn import Turns
from dfs.services.usage import UsageService
from dfs.storage.base import BlobStore
from dfs.storage.open import open_store
from dfs.wal.log import WriteAheadLog


@dataclass(frozen=True, slots=True)
class Services:
    """What one process of a node works with. Everything open hangs on it; `close` closes it."""

    config: Config
    log: WriteAheadLog
    index: IndexDatabase
    store: BlobStore
    stores: Stores
    ledger: Ledger
    turns: Turns
    replication: Replication
    scrub: Scrub
    replicas: Replicas
    quorum: Quorum
    queue: JobQueue
    hinter: Hinter
    committer: Committer
    files: FileService
    garbage: GarbageCollector
    usage: UsageService
    wal_inspection: WalInspection
    health: NodeHealth
    hasher: ThreadPoolExecutor
    recovered: Recovered

    def close(self) -> None:
        """Close files and connections. The process may fork afterwards."""
        self.hinter.stop()
        self.quorum.close()
        self.hasher.shutdown()
        self.scrub.close()
        self.replication.close()
        self.queue.close()
        self.index.close()
        self.log.close()


def open_services(
    config: Config, *, on_step: OnStep = ignore_step, hooks: Hooks = NO_HOOKS
) -> Services:
    """Open and recover the node, and return its services.

    A log that is missing or damaged is restored from the replicas first, if there are any.

    Raises:
        DfsError: the node cannot be opened safely. Nothing stays open.

    Durability: as `services.recovery.recover`, and `services.restore.restore_log`.
    """
    restore_if_needed(config)
    try:
        return _open_recovered(config, on_step=on_step, hooks=hooks)
    except (WalCorruptError, WalGapError) as error:  # found by reading the records
        restore_after(config, error)
    return _open_recovered(config, on_step=on_step, hooks=hooks)


def _open_recovered(config: Config, *, on_step: OnStep, hooks: Hooks) -> Services:
    log = build_log(config, on_step)
    index = build_index(config)
    try:
        log.open()
        disks = build_disks(config, index)
        store = open_store(config.storage_path, disks=disks)
        recovered = recover(
            log=log,
            index=index,
            store=store,
            storage_path=config.storage_path,
            node_id=config.node_id,
            has_replicas=bool(config.replicas),
        )
    except BaseException as error:
        index.close()
        log.close()
        if isinstance(error, OSError):
            raise storage_error(error) from error
        raise
    stores = Stores(store, open_replicas(config, disks))
    services = _build_services(
        config,
        log=log,
        index=index,
        disks=disks,
        stores=stores,
        recovered=recovered,
        on_step=on_step,
        hooks=hooks,
    )
    try:
        services.replication.adopt_new()
    except BaseException:
        services.close()
        raise
    return services


@dataclass(frozen=True, slots=True)
class _Parts:
    """What most services are made of."""

    config: Config
    log: WriteAheadLog
    index: IndexDatabase
    disks: Disks
    repository: IndexRepository
    ledger: Ledger
    stores: Stores
    locks: dict[str, FileLock]
    recovered: Recovered
    hasher: ThreadPoolExecutor
    turns: Turns
    wake: Callable[[Iterable[str]], None]
    damage: DamageBook
    hooks: Hooks


def _build_services(
    config: Config,
    *,
    log: WriteAheadLog,
    index: IndexDatabase,
    disks: Disks,
    stores: Stores,
    recovered: Recovered,
    on_step: OnStep,
    hooks: Hooks,
) -> Services:
    """Put the services on top of what is open and recovered. Opens nothing."""
    queue = build_queue(config, cluster_id=recovered.cluster_id)
    hinter = Hinter(queue=queue)
    repository = IndexRepository(index)
    ledger = Ledger(log=log, index=index)
    wake = hinter.wake if config.redis_url is not None else ignore_hint
    parts = _Parts(
        config=config,
        log=log,
        index=index,
        disks=disks,
        repository=repository,
        ledger=ledger,
        stores=stores,
        locks={name: FileLock(store_lock_path(config.wal_path, name)) for name in stores.replicas},
        recovered=recovered,
        hasher=ThreadPoolExecutor(thread_name_prefix="hasher"),
        turns=Turns(patience_s=config.replica_timeout_s),
        wake=wake,
        damage=_build_damage(repository, ledger, wake, hooks),
        hooks=hooks,
    )
    quorum = _build_quorum(parts)
    committer = _build_committer(parts, quorum, on_step=on_step)
    scrub = _build_scrub(parts)
    replicas = _build_replicas(parts, queue, scrub)
    return Services(
        config=config,
        log=log,
        index=index,
        store=stores.primary,
        stores=stores,
        ledger=ledger,
        turns=parts.turns,
        replication=_build_replication(parts, on_step=on_step),
        scrub=scrub,
        replicas=replicas,
        quorum=quorum,
        queue=queue,
        hinter=hinter,
        committer=committer,
        files=_build_files(parts, committer, quorum),
        garbage=_build_garbage(parts, committer),
        usage=UsageService(log=log, index=repository, quota_bytes=config.quota_bytes),
        wal_inspection=WalInspection(log=log, index=repository),
        health=_build_health(parts, queue, replicas),
        hasher=parts.hasher,
        recovered=recovered,
    )


def _build_damage(
    index: IndexRepository, ledger: Ledger, wake: Callable[[Iterable[str]], None], hooks: Hooks
) -> DamageBook:
    return DamageBook(
        index=index,
        ledger=ledger,
        wake=wake,
        on_damage=hooks.on_damage,
        on_rescue=hooks.on_rescue,
    )


def _build_health(parts: _Parts, queue: JobQueue, replicas: Replicas) -> NodeHealth:
    return NodeHealth(
        log=parts.log,
        index=parts.index,
        disks=parts.disks,
        paths=(parts.config.wal_path, parts.config.storage_path),
        ping_queue=queue.check,
        recall_stores=replicas.recall,
    )


def _build_quorum(parts: _Parts) -> Quorum:
    return Quorum(
        log=parts.log,
        index=parts.repository,
        ledger=parts.ledger,
        stores=parts.stores,
        locks=parts.locks,
        threads=parts.hasher,
        timeout_s=parts.config.quorum_timeout_s,
    )


def _build_committer(parts: _Parts, quorum: Quorum, *, on_step: OnStep) -> Committer:
    def after_commit(report: CommitReport) -> None:
        parts.wake(parts.stores.replicas)
        parts.hooks.on_commit(report)

    return Committer(
        log=parts.log,
        index=parts.index,
        store=parts.stores.primary,
        quorum=quorum,
        node_id=parts.config.node_id,
        batch_bytes_max=parts.config.commit_batch_bytes_max,
        batch_count_max=parts.config.commit_batch_count_max,
        gather_s=parts.config.commit_gather_us / 1e6,
        on_step=on_step,
        on_commit=after_commit,
    )


def _build_replication(parts: _Parts, *, on_step: OnStep) -> Replication:
    path = parts.config.wal_path
    remover = BlobRemover(
        ledger=parts.ledger,
        stores=parts.stores,
        locks={
            name: FileLock(store_lock_path(path, f"{name}-removal"))
            for name in parts.stores.replicas
        },
        on_step=on_step,
    )

    def mend(segment_id: int) -> None:
        mend_segment(
            parts.log,
            segment_id,
            cluster_id=parts.recovered.cluster_id,
            sources=list(parts.stores.replicas.values()),
            states=parts.repository.store_states(),
        )

    return Replication(
        log=parts.log,
        index=parts.repository,
        ledger=parts.ledger,
        stores=parts.stores,
        cluster_id=parts.recovered.cluster_id,
        damage=parts.damage,
        mend_segment=mend,
        remover=remover,
        locks=parts.locks,
        turns=parts.turns,
    )


def _build_scrub(parts: _Parts) -> Scrub:
    survey = Survey(
        log=parts.log,
        index=parts.repository,
        stores=parts.stores,
        cluster_id=parts.recovered.cluster_id,
        orphan_age_s=parts.config.delete_grace_s,
    )
    return Scrub(
        survey=survey,
        quarantine=Quarantine(
            survey=survey,
            log=parts.log,
            index=parts.repository,
            ledger=parts.ledger,
            stores=parts.stores,
            locks=parts.locks,
            wake=parts.wake,
            on_damage=parts.hooks.on_damage,
        ),
        index=parts.repository,
        ledger=parts.ledger,
        stores=parts.stores,
        bytes_per_s=parts.config.scrub_bytes_per_s,
        interval_s=parts.config.scrub_interval_s,
    )


def _build_replicas(parts: _Parts, queue: JobQueue, scrub: Scrub) -> Replicas:
    config = parts.config
    return Replicas(
        log=parts.log,
        index=parts.repository,
        ledger=parts.ledger,
        stores=parts.stores,
        locations={parts.stores.primary.name: str(config.storage_path), **dict(config.replicas)},
        queue=queue if config.redis_url is not None else None,
        start_scrub=scrub.start,
    )


def _build_garbage(parts: _Parts, committer: Committer) -> GarbageCollector:
    return GarbageCollector(
        committer=committer, index=parts.repository, delete_grace_s=parts.config.delete_grace_s
    )


def _build_files(parts: _Parts, committer: Committer, quorum: Quorum) -> FileService:
    return FileService(
        committer=committer,
        index=parts.repository,
        log=parts.log,
        stores=parts.stores,
        damage=parts.damage,
        quorum=quorum,
        disks=parts.disks,
        replication=parts.config.replication,
        write_quorum=parts.config.write_quorum,
        hasher=parts.hasher,
        inline_blob_bytes_max=parts.config.inline_blob_bytes_max,
        upload_bytes_max=parts.config.upload_bytes_max,
        quota_bytes=parts.config.quota_bytes,
        delete_grace_s=parts.config.delete_grace_s,
    )


def recover_node(config: Config) -> Recovered:
    """Recover the node before any worker process exists, and close everything again."""
    services = open_services(config)
    services.close()
    return services.recovered
