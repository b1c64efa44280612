"""The one place that knows every class: builds the services of a process from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from dfs.core.config import Config
from dfs.core.disk import Disks
from dfs.core.durable import storage_error
from dfs.core.errors import WalCorruptError, WalGapError
from dfs.core.filelock import FileLock
from dfs.core.steps import OnStep, ignore_step
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.guarding import make_first_key, require_guard
from dfs.opening import build_disks, build_index, build_log, build_queue, open_replicas
from dfs.queue.base import JobQueue
from dfs.restoring import require_newest_of, restore_after, restore_if_needed
from dfs.services.audit import AuditTrail
from dfs.services.batch import CommitReport
from dfs.services.commit import Committer
from dfs.services.compaction import Compaction
from dfs.services.crew import Crew
from dfs.services.damage import DamageBook
from dfs.services.files import FileService
from dfs.services.garbage import GarbageCollector
from dfs.services.hints import Hinter, Wake, ignore_hint
from dfs.services.hooks import NO_HOOKS, Hooks
from dfs.services.inspection import WalInspection
from dfs.services.keyring import Keyring
from dfs.services.keys import KeyService
from dfs.services.ledger import Ledger
from dfs.services.quorum import Quorum
from dfs.services.readiness import NodeHealth
from dfs.services.recovery import Recovered, recover
from dfs.services.replicas import Replicas
from dfs.services.replication import Replication, store_lock_path
from dfs.services.scrub import Scrub
from dfs.services.stores import Stores
from dfs.services.turn import Turns
from dfs.services.usage import UsageService
from dfs.services.verified_files import VerifiedFiles
from dfs.storage.base import BlobStore, StampsBlobs
from dfs.storage.open import open_store
from dfs.upkeep import Parts, build_compaction, build_garbage, build_replication, build_scrub
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
    compaction: Compaction
    replicas: Replicas
    quorum: Quorum
    queue: JobQueue
    hinter: Hinter
    committer: Committer
    files: FileService
    garbage: GarbageCollector
    keys: KeyService
    keyring: Keyring
    usage: UsageService
    audit: AuditTrail
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
        self.compaction.close()
        self.replication.close()
        self.queue.close()
        self.index.close()
        self.log.close()


def open_services(
    config: Config,
    *,
    on_step: OnStep = ignore_step,
    hooks: Hooks = NO_HOOKS,
    crew: Crew | None = None,
) -> Services:
    """Open and recover the node, and return its services.

    A log that is missing or damaged is restored from the replicas first, if there are any.

    Args:
        crew: the threads of this process; None if each runs whenever it likes.

    Raises:
        DfsError: the node cannot be opened safely. Nothing stays open.

    Durability: as `services.recovery.recover`, and `services.restore.restore_log`.
    """
    crew = crew or Crew(gather_s=config.commit_gather_us / 1e6)
    try:
        may_begin = restore_if_needed(config)
        try:
            return _open_recovered(
                config, may_begin=may_begin, on_step=on_step, hooks=hooks, crew=crew
            )
        except (WalCorruptError, WalGapError) as error:  # found by reading the records
            may_begin = restore_after(config, error)
        return _open_recovered(config, may_begin=may_begin, on_step=on_step, hooks=hooks, crew=crew)
    except OSError as error:
        raise storage_error(error) from error


def _open_recovered(
    config: Config, *, may_begin: bool, on_step: OnStep, hooks: Hooks, crew: Crew
) -> Services:
    log = build_log(config, on_step)
    index = build_index(config, aside=crew.aside)
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
            may_begin=may_begin,
        )
    except BaseException:
        index.close()
        log.close()
        raise
    stores = Stores(store, open_replicas(config, disks))
    for each in stores.all():
        hooks.on_store(each)
    services = _build_services(
        config,
        log=log,
        index=index,
        disks=disks,
        stores=stores,
        recovered=recovered,
        on_step=on_step,
        hooks=hooks,
        crew=crew,
    )
    try:
        require_newest_of(config, log, stores)
        services.replication.adopt_new()
    except BaseException:
        services.close()
        raise
    return services


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
    crew: Crew,
) -> Services:
    """Put the services on top of what is open and recovered. Opens nothing."""
    queue = build_queue(config, cluster_id=recovered.cluster_id)
    hinter = Hinter(queue=queue, spans=hooks.spans)
    parts = _gather_parts(
        config,
        log=log,
        index=index,
        disks=disks,
        stores=stores,
        recovered=recovered,
        wake=hinter.wake if config.redis_url is not None else ignore_hint,
        hooks=hooks,
        crew=crew,
    )
    quorum = _build_quorum(parts)
    committer = _build_committer(parts, quorum, on_step=on_step)
    scrub = build_scrub(parts)
    replicas = _build_replicas(parts, queue, scrub)
    keys = KeyService(committer=committer, index=parts.repository, copies=config.copies())
    return Services(
        config=config,
        log=log,
        index=index,
        store=stores.primary,
        stores=stores,
        ledger=parts.ledger,
        turns=parts.turns,
        replication=build_replication(parts, on_step=on_step),
        scrub=scrub,
        compaction=build_compaction(parts, committer),
        replicas=replicas,
        quorum=quorum,
        queue=queue,
        hinter=hinter,
        committer=committer,
        files=_build_files(parts, committer, quorum),
        garbage=build_garbage(parts, committer, keys),
        keys=keys,
        keyring=Keyring(index=parts.repository, ledger=parts.ledger, threads=parts.hasher),
        usage=UsageService(log=log, index=parts.repository, quota_bytes=config.quota_bytes),
        audit=AuditTrail(log=log, index=parts.repository),
        wal_inspection=WalInspection(log=log, index=parts.repository),
        health=_build_health(parts, queue, replicas, committer),
        hasher=parts.hasher,
        recovered=recovered,
    )


def _gather_parts(
    config: Config,
    *,
    log: WriteAheadLog,
    index: IndexDatabase,
    disks: Disks,
    stores: Stores,
    recovered: Recovered,
    wake: Wake,
    hooks: Hooks,
    crew: Crew,
) -> Parts:
    repository = IndexRepository(index)
    ledger = Ledger(log=log, index=index, on_attempt=hooks.on_attempt)
    return Parts(
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
        crew=crew,
    )


def _build_damage(index: IndexRepository, ledger: Ledger, wake: Wake, hooks: Hooks) -> DamageBook:
    return DamageBook(
        index=index,
        ledger=ledger,
        wake=wake,
        on_damage=hooks.on_damage,
        on_rescue=hooks.on_rescue,
    )


def _build_health(
    parts: Parts, queue: JobQueue, replicas: Replicas, committer: Committer
) -> NodeHealth:
    return NodeHealth(
        log=parts.log,
        index=parts.index,
        disks=parts.disks,
        paths=(parts.config.wal_path, parts.config.storage_path),
        ping_queue=queue.check,
        recall_stores=replicas.recall,
        find_commit_s=committer.tickets.led_s,
        quorum_s=parts.config.quorum_timeout_s,
    )


def _build_quorum(parts: Parts) -> Quorum:
    return Quorum(
        log=parts.log,
        index=parts.repository,
        ledger=parts.ledger,
        stores=parts.stores,
        locks=parts.locks,
        threads=parts.hasher,
        timeout_s=parts.config.quorum_timeout_s,
        spans=parts.hooks.spans,
    )


def _build_committer(parts: Parts, quorum: Quorum, *, on_step: OnStep) -> Committer:
    def after_commit(report: CommitReport) -> None:
        parts.wake(parts.stores.replicas, carried=report.carried)
        parts.hooks.on_commit(report)

    return Committer(
        log=parts.log,
        index=parts.index,
        store=parts.stores.primary,
        quorum=quorum,
        node_id=parts.config.node_id,
        batch_bytes_max=parts.config.commit_batch_bytes_max,
        batch_count_max=parts.config.commit_batch_count_max,
        crew=parts.crew,
        on_step=on_step,
        on_commit=after_commit,
        spans=parts.hooks.spans,
    )


def _build_replicas(parts: Parts, queue: JobQueue, scrub: Scrub) -> Replicas:
    config = parts.config
    return Replicas(
        log=parts.log,
        index=parts.repository,
        ledger=parts.ledger,
        stores=parts.stores,
        locations={parts.stores.primary.name: str(config.storage_path), **dict(config.replicas)},
        queue=queue if config.redis_url is not None else None,
        start_scrub=scrub.start,
        spans=parts.hooks.spans,
    )


def _build_files(parts: Parts, committer: Committer, quorum: Quorum) -> FileService:
    return FileService(
        committer=committer,
        index=parts.repository,
        log=parts.log,
        stores=parts.stores,
        damage=parts.damage,
        quorum=quorum,
        disks=parts.disks,
        copies=parts.config.copies,
        hasher=parts.hasher,
        inline_blob_bytes_max=parts.config.inline_blob_bytes_max,
        upload_bytes_max=parts.config.upload_bytes_max,
        quota_bytes=parts.config.quota_bytes,
        name_bytes_max=parts.config.name_bytes_max,
        metadata_bytes_max=parts.config.metadata_bytes_max,
        delete_grace_s=parts.config.delete_grace_s,
        verified=_build_verified(parts),
    )


def _build_verified(parts: Parts) -> VerifiedFiles | None:
    """Return the memory of sound files, if a proxy is to send them."""
    store, config = parts.stores.primary, parts.config
    if not config.accel_prefix or not isinstance(store, StampsBlobs):
        return None
    return VerifiedFiles(
        store=store, good_for_s=config.accel_verified_s, on_hit=parts.hooks.on_handover
    )


def recover_node(config: Config, *, hosts: Sequence[str]) -> Recovered:
    """Recover the node before any worker process exists, and close everything again.

    Args:
        hosts: addresses that it listens on.

    Raises:
        ConfigError: strangers would reach the node, and there is no API key, or no good one in
            DFS_FIRST_KEY.
        And what `open_services` raises.
    """
    # The first key waits for no replica: object stores must not be used before the fork.
    services = open_services(replace(config, replication="async"))
    try:
        has_keys = not services.keyring.is_empty()
        if not has_keys and config.first_key is not None:
            make_first_key(services.keys, config.first_key)
            has_keys = True
        require_guard(config.auth, hosts, has_keys=has_keys)
    finally:
        services.close()
    return services.recovered
