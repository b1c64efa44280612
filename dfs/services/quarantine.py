"""What is done with damage: it is put aside if a whole copy is elsewhere, and its mend is owed.

Damage that has no whole copy stays in its place: the blocks of it that are sound may be all there
is of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import structlog

from dfs.core.clock import now_ms
from dfs.core.errors import StorageError, WalError
from dfs.core.filelock import FileLock
from dfs.core.model import Blob, Debt, DebtKind
from dfs.db.repository import IndexRepository
from dfs.db.transaction import IndexTransaction
from dfs.services.damage import OnDamage, ignore_damage
from dfs.services.hints import ignore_hint
from dfs.services.ledger import Ledger
from dfs.services.stores import Stores, copying_gate
from dfs.services.survey import Survey
from dfs.services.verification import Fault, Finding, drain, look_again_at_blob, read_blob
from dfs.storage.base import BlobStore, QuarantinesBlobs
from dfs.wal.log import WriteAheadLog

LOCK_WAIT_S = 10.0
GATE_WAIT_S = 1.0
OnTaken = Callable[[IndexTransaction], None]

logger = structlog.get_logger()


def ignore_taken(index: IndexTransaction) -> None:
    """Do nothing."""


class Quarantine:
    """Acts on what a survey has found. Looks again before it does: stores change meanwhile.

    Args:
        locks: by name of the replica; held while its segments are changed.
        wake: asks for work on stores, see `Hinter.wake`.
        on_damage: told of each unit of a store that was not owed yet.
    """

    def __init__(
        self,
        *,
        survey: Survey,
        log: WriteAheadLog,
        index: IndexRepository,
        ledger: Ledger,
        stores: Stores,
        locks: Mapping[str, FileLock],
        wake: Callable[[Iterable[str]], None] = ignore_hint,
        on_damage: OnDamage = ignore_damage,
    ) -> None:
        self._survey = survey
        self._log = log
        self._index = index
        self._ledger = ledger
        self._stores = stores
        self._locks = locks
        self._wake = wake
        self._on_damage = on_damage

    def take(
        self, found: Finding, *, even_owed: bool = False, on_taken: OnTaken = ignore_taken
    ) -> bool:
        """Owe the mend of what is missing or damaged, and put aside what is damaged.

        The debt is written after the damage was put aside: who is killed in between leaves a unit
        missing, which is found again from the same place.

        Args:
            even_owed: do it even if the mend is owed already; it is then tried anew, at once.
            on_taken: may add to the transaction that writes the debt.

        Returns:
            Whether it was still so; not, if it was mended, deleted, owed or shipped again since.

        Raises:
            StoreUnavailableError, StoreIdentityError: the store is away; nothing was done.
            NoSpaceError, MetadataError: nothing is owed yet.

        Durability: on return the debt is in the index.
        """
        store = self._stores.get(found.store)
        self._survey.require_same(store)
        if not even_owed and self._index.has_debt(found.store, found.kind, [found.unit]):
            return False
        take = self._take_blob if found.kind is DebtKind.BLOB else self._take_segment
        put_aside = take(store, found, on_taken)
        if put_aside is None:
            return False
        logger.error(
            "damage_found",
            store=found.store,
            kind=found.kind.name.lower(),
            unit=found.name,
            fault=found.fault.value,
            detail=found.detail,
            put_aside=put_aside,
        )
        self._on_damage(found.store, found.kind)
        self._wake([found.store])
        return True

    def put_extra_aside(self, found: Finding) -> bool:
        """Move what nobody knows to the store's `damaged`, unless somebody knows it by now.

        Nothing is published on the store meanwhile. What comes later finds the place empty, and
        what came just before is young.

        Returns:
            Whether it was moved; not, if others are busy there.

        Raises:
            NoSpaceError, StoreUnavailableError, MetadataError: it may still be in its place.
        """
        store = self._stores.get(found.store)
        self._survey.require_same(store)
        if found.kind is DebtKind.SEGMENT:
            return self._put_segment_aside(found, is_extra=True)
        if not isinstance(store, QuarantinesBlobs):
            return False
        with self._hold_still(store.name) as is_still:
            if not is_still or not self._survey.is_orphan(store, found.unit, found.size):
                return False
            store.quarantine_blob(found.unit)
        logger.warning("orphan_put_aside", store=store.name, unit=found.name, size_bytes=found.size)
        return True

    def sweep(self, name: str) -> int:
        """Remove what was put aside in a store for so long that nobody will come for it.

        What is owed to be mended stays: of a blob that is damaged everywhere it may be the rest.

        Returns:
            How many files.

        Raises:
            StorageError, MetadataError: the rest is left to the next time.
        """
        store = self._stores.get(name)
        if not isinstance(store, QuarantinesBlobs):
            return 0
        before_ms = now_ms() - self._survey.orphan_age_s * 1000
        old = [unit for unit in store.list_put_aside() if unit.at_ms < before_ms]
        count = 0
        for unit in old:
            if not self._index.has_debt(name, unit.kind, [unit.unit]):
                store.remove_put_aside(unit)
                count += 1
        if count:
            logger.info("quarantine_swept", store=name, count=count)
        return count

    @contextlib.contextmanager
    def _hold_still(self, name: str) -> Iterator[bool]:
        """Let no blob get its name in a store inside the block; yield whether that is so."""
        if name == self._stores.primary.name:
            with self._log.lock():
                yield True
        else:
            with copying_gate(self._log.path, name).shut(timeout_s=GATE_WAIT_S) as is_shut:
                yield is_shut

    # Blobs

    def _take_blob(self, store: BlobStore, found: Finding, on_taken: OnTaken) -> bool | None:
        """Return whether the blob was put aside; None if there was nothing to do."""
        blob = self._index.find_blob(found.unit)
        if blob is None or blob.references <= 0:
            return None
        has_damage = found.fault in (Fault.DAMAGED, Fault.WRONG_SIZE)
        is_needless = has_damage and self._has_other(blob, store)
        put_aside = False
        # Blobs of the primary get their names under the node's lock, those of replicas without.
        with self._primary_lock(store):
            if not look_again_at_blob(store, blob, found):
                return None
            if is_needless and isinstance(store, QuarantinesBlobs):
                put_aside = _try_to(lambda: store.quarantine_blob(blob.digest), found)
        with self._ledger.begin() as index:
            known = index.blob(found.unit)
            if known is None or known.references <= 0:
                return None
            index.owe([Debt.of_blob(found.store, blob.digest, blob.size, now_ms())])
            on_taken(index)
        return put_aside

    def _primary_lock(self, store: BlobStore) -> contextlib.AbstractContextManager[None]:
        is_primary = store is self._stores.primary
        return self._log.lock() if is_primary else contextlib.nullcontext()

    def _has_other(self, blob: Blob, store: BlobStore) -> bool:
        """Tell whether another store holds the blob whole. Reads all of it."""
        for other in self._stores.others(store.name):
            with contextlib.suppress(StorageError):
                if drain(read_blob(other, blob)) is None:
                    return True
        return False

    # Segments

    def _take_segment(self, store: BlobStore, found: Finding, on_taken: OnTaken) -> bool | None:
        """Return whether the segment was put aside; None if there was nothing to do.

        Those of the primary stay: the node reads what is sound in them, and mends the file in its
        place. So does the growing one of a replica: shipping writes over it.
        """
        segments = self._survey.segments
        if not segments.look_again(store, found):
            return None
        put_aside = False
        if (
            found.fault in (Fault.DAMAGED, Fault.WRONG_SIZE)
            and store is not self._stores.primary
            and found.segment_id < segments.find_end(store).segment_id
            and self._has_other_segment(store, found)
        ):
            put_aside = self._put_segment_aside(found)
        with self._ledger.begin() as index:
            end = segments.find_end(store)
            if (end.segment_id, end.offset) <= (found.segment_id, found.offset or 0):
                return None  # it is being shipped again
            debt = Debt.of_segment(found.store, found.segment_id, found.size, now_ms())
            index.owe([debt])
            on_taken(index)
        return put_aside

    def _has_other_segment(self, store: BlobStore, found: Finding) -> bool:
        """Tell whether another store holds all of the segment. Reads all of it."""
        segments = self._survey.segments
        try:
            wanted = segments.find_span(store, found.segment_id)
        except WalError:
            return False
        for other in self._stores.others(store.name):
            with contextlib.suppress(StorageError, WalError):
                span = segments.find_span(other, found.segment_id)
                is_all = span is not None and span == wanted
                if span and is_all and drain(segments.read(other, span)) is None:
                    return True
        return False

    def _put_segment_aside(self, found: Finding, *, is_extra: bool = False) -> bool:
        replica = self._stores.replicas[found.store]
        with self._locks[found.store].hold(timeout_s=LOCK_WAIT_S) as held:
            if is_extra and found.segment_id <= self._log.position.segment_id:
                return False
            return held and _try_to(lambda: replica.quarantine_segment(found.segment_id), found)


def _try_to(put_aside: Callable[[], None], found: Finding) -> bool:
    """Return whether it worked: what cannot be moved, on a full disk or so, can still be owed."""
    try:
        put_aside()
    except StorageError as error:
        logger.warning("not_put_aside", store=found.store, unit=found.name, error=str(error))
        return False
    return True
