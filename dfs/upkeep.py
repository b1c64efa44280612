"""What a node does by itself, built from its parts: replication, scrub, garbage, compaction."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dfs.core.config import Config
from dfs.core.disk import Disks
from dfs.core.filelock import FileLock
from dfs.core.steps import OnStep
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.services.commit import Committer
from dfs.services.compaction import COMPACTION_LOCK_NAME, Compaction
from dfs.services.crew import Crew
from dfs.services.damage import DamageBook
from dfs.services.dropping import SegmentDropper, owe_returned
from dfs.services.garbage import GarbageCollector
from dfs.services.hints import Wake
from dfs.services.hooks import Hooks
from dfs.services.keys import KeyService
from dfs.services.ledger import Ledger
from dfs.services.mending import mend_segment
from dfs.services.quarantine import Quarantine
from dfs.services.recovery import Recovered
from dfs.services.removal import BlobRemover
from dfs.services.replication import Replication, store_lock_path
from dfs.services.scrub import Scrub
from dfs.services.stores import Stores
from dfs.services.survey import Survey
from dfs.services.turn import Turns
from dfs.wal.log import WriteAheadLog


@dataclass(frozen=True, slots=True)
class Parts:
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
    wake: Wake
    damage: DamageBook
    hooks: Hooks
    crew: Crew


def build_replication(parts: Parts, *, on_step: OnStep) -> Replication:
    """Return what pays what the stores owe."""
    remover = _build_remover(parts, on_step)
    dropper = _build_dropper(parts, on_step)

    spans = parts.hooks.spans

    def mend(segment_id: int) -> None:
        with spans.span("replication.mend", segment_id=segment_id):
            mend_segment(
                parts.log,
                segment_id,
                cluster_id=parts.recovered.cluster_id,
                sources=list(parts.stores.replicas.values()),
                states=parts.repository.store_states(),
            )
        with parts.log.lock():
            owe_returned(parts.log, parts.index, lsn=parts.log.position.lsn)

    return Replication(
        log=parts.log,
        index=parts.repository,
        ledger=parts.ledger,
        stores=parts.stores,
        cluster_id=parts.recovered.cluster_id,
        damage=parts.damage,
        mend_segment=mend,
        remover=remover,
        dropper=dropper,
        locks=parts.locks,
        turns=parts.turns,
        spans=spans,
    )


def _build_remover(parts: Parts, on_step: OnStep) -> BlobRemover:
    return BlobRemover(
        ledger=parts.ledger,
        stores=parts.stores,
        locks={
            name: FileLock(store_lock_path(parts.config.wal_path, f"{name}-removal"))
            for name in parts.stores.replicas
        },
        on_step=on_step,
    )


def _build_dropper(parts: Parts, on_step: OnStep) -> SegmentDropper:
    return SegmentDropper(
        log=parts.log,
        index=parts.repository,
        ledger=parts.ledger,
        stores=parts.stores,
        locks=parts.locks,
        sync_index=parts.index.sync,
        on_step=on_step,
    )


def build_scrub(parts: Parts) -> Scrub:
    """Return what reads the stores through for damage."""
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
        spans=parts.hooks.spans,
    )


def build_compaction(parts: Parts, committer: Committer) -> Compaction:
    """Return what drops segments of the log that are mostly dead."""
    return Compaction(
        log=parts.log,
        index=parts.repository,
        committer=committer,
        damage=parts.damage,
        lock=FileLock(parts.config.wal_path / COMPACTION_LOCK_NAME),
        dead_ratio_min=parts.config.compact_dead_ratio,
        bytes_per_s=parts.config.compact_bytes_per_s,
    )


def build_garbage(parts: Parts, committer: Committer, keys: KeyService) -> GarbageCollector:
    """Return what makes away with what nobody wants."""
    return GarbageCollector(
        committer=committer,
        index=parts.repository,
        keys=keys,
        delete_grace_s=parts.config.delete_grace_s,
    )
