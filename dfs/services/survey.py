"""Going through all of a store: the log, the blob files, and what it holds besides.

One walk serves the scrub, which takes it in small steps over days and may be killed between any
two, and the repair script, which takes it at once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from dfs.core.clock import now_ms
from dfs.core.errors import StoreUnavailableError, WalError
from dfs.core.model import REMOVALS, SEGMENT_UNIT_BYTES, Blob, DebtKind, StoreState
from dfs.db.repository import IndexRepository
from dfs.services.apply import REMOVAL_DELAY_MS
from dfs.services.lag import measure_lag
from dfs.services.log_survey import LogSurvey
from dfs.services.stores import Stores
from dfs.services.verification import Fault, Finding, Place, look_at_blob, read_blob
from dfs.storage.base import BlobStore, ListsBlobs
from dfs.wal.log import WriteAheadLog
from dfs.wal.segment import FIRST_SEGMENT_ID

PAGE_BLOBS = 256
OWED_GRACE_MS = 60_000
"""What is owed for less is on its way, and nothing to be reported."""
ORPHAN_AGE_S_MIN = REMOVAL_DELAY_MS / 1000
COPY_BYTES_PER_S_MIN = 8 << 20
"""No synchronous write takes longer from the copies of its blobs to its commit."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a walk is taken.

    Attributes:
        full: read every byte; else look for existence and size only.
        patience: how often a store may fail at one place before the unit is taken to be
            unreadable, and passed. Whether the store is there at all is asked each time.
        owed_before_ms: units that are owed since then, or before, are looked at all the same;
            0: those that are owed are passed.
    """

    full: bool = True
    patience: int = 0
    owed_before_ms: int = 0


class Phase(Enum):
    """The parts of a walk, in their order."""

    SEGMENTS = "segments"
    BLOBS = "blobs"
    EXTRA = "extra"


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a walk, as text "phase/unit/offset/lsn/tries".

    Attributes:
        unit: the last one that is done, or of which `offset` bytes are: a digest in hexadecimal,
            the number of a segment; empty at the beginning of a phase.
        offset, lsn: how far the unit has been read; 0 when it is done.
        tries: how often the store has failed at this very place.
    """

    phase: Phase = Phase.SEGMENTS
    unit: str = ""
    offset: int = 0
    lsn: int = 0
    tries: int = 0

    def __str__(self) -> str:
        return f"{self.phase.value}/{self.unit}/{self.offset}/{self.lsn}/{self.tries}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the place; the beginning for a text that is none."""
        try:
            phase, unit, *numbers = text.split("/")
            offset, lsn, tries = map(int, numbers)
            cursor = cls(Phase(phase), unit, offset, lsn, tries)
            if cursor.phase is Phase.SEGMENTS:
                int(unit or "0")
            else:
                bytes.fromhex(unit)
        except ValueError:
            return cls()
        return cursor

    @property
    def segment_id(self) -> int:
        """The segment that is done, or begun; 0 for none."""
        return int(self.unit or "0")

    @property
    def digest(self) -> bytes:
        """The blob that is done, or begun; empty for none."""
        return bytes.fromhex(self.unit)


@dataclass(frozen=True, slots=True)
class Step:
    """A bit of a walk.

    Attributes:
        cursor: where to go on.
        read_bytes: read and found whole in this step.
        passed_bytes: that need not be read: of a unit that is owed or damaged, or that nobody
            wants.
        units: blobs or segments that this step has come to the end of: 0 or 1.
        is_owed: the unit was not looked at, since the store owes it anyway.
        finding: what is wrong with it.
    """

    cursor: Cursor
    read_bytes: int = 0
    passed_bytes: int = 0
    units: int = 0
    is_owed: bool = False
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is to go through: units, and bytes of them."""

    units: int
    bytes: int


class Survey:
    """Looks at the stores of a node; changes nothing.

    Args:
        cluster_id: 16 bytes, of the node's log.
        orphan_age_s: a blob that nobody knows is an orphan when it is older than that, and than
            `ORPHAN_AGE_S_MIN`: before, somebody may be about to say what it is.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexRepository,
        stores: Stores,
        cluster_id: bytes,
        orphan_age_s: float,
    ) -> None:
        self.orphan_age_s = max(orphan_age_s, ORPHAN_AGE_S_MIN)
        self.segments = LogSurvey(log=log, index=index, stores=stores, cluster_id=cluster_id)
        self._log = log
        self._index = index
        self._stores = stores

    def require_same(self, store: BlobStore) -> StoreState:
        """Make sure that a store is there, and is the one that the node knows.

        A disk that is not mounted leaves an empty directory: nothing in it is missing.

        Raises:
            StoreUnavailableError, StoreIdentityError.
        """
        state = self._index.store_states().get(store.name)
        if state is None or not state.store_id:
            raise StoreUnavailableError("The store was never in use yet.", store=store.name)
        if state.was_mounted and not store.is_mount():
            raise StoreUnavailableError("The disk of the store is not mounted.", store=store.name)
        identity = store.read_identity()
        if identity is None or identity.store_id != state.store_id:
            raise StoreUnavailableError(
                "The store is not the one that was here before.", store=store.name
            )
        return state

    def measure(self, store: BlobStore) -> Extent:
        """Return how much a walk has to go through. Reads all of a small index."""
        count, size = self._index.blob_file_totals()
        end = self.segments.find_end(store)
        sealed = self._index.list_segments(limit=end.segment_id)
        log_bytes = sum(row.size_bytes for row in sealed if row.id < end.segment_id)
        return Extent(count + end.segment_id, size + log_bytes + end.offset)

    def is_orphan(self, store: BlobStore, digest: bytes, size: int) -> bool:
        """Tell whether nobody knows a blob, and nobody is about to. One to be removed is known.

        It stays so only as long as nothing is published on the store: see `Quarantine`.

        Raises:
            StoreUnavailableError, MetadataError.
        """
        end = self._log.position  # first: the index is ahead of it, if anything
        if self._index.find_blob(digest) is not None:
            return False
        state = self._index.node_state()
        if state is None or state.applied_lsn < end.lsn:  # it has lost its newest rows
            return False
        if any(self._index.has_debt(store.name, kind, [digest]) for kind in REMOVALS):
            return False
        written_at_ms = store.written_at_ms(digest) if isinstance(store, ListsBlobs) else None
        age_s = self.orphan_age_s + size / COPY_BYTES_PER_S_MIN
        is_old = written_at_ms is not None and now_ms() - written_at_ms > age_s * 1000
        # The files that a replica's own log knows must be whole there, though they are deleted.
        return is_old and not self._is_far_behind(store.name)

    def walk(self, store: BlobStore, cursor: Cursor, manner: Manner) -> Iterator[Step]:
        """Go through a store, from a place on.

        Raises:
            StoreUnavailableError, StoreIdentityError: go on later, from the last place.
            MetadataError, WalError: the node does not do its part.
        """
        self.require_same(store)
        if cursor.phase is Phase.SEGMENTS:
            yield from self._walk_segments(store, cursor, manner)
            cursor = Cursor(Phase.BLOBS)
            yield Step(cursor)
        if cursor.phase is Phase.BLOBS:
            yield from self._walk_blobs(store, cursor, manner)
            cursor = Cursor(Phase.EXTRA)
            yield Step(cursor)
        # A listing cannot be taken up in its middle; the rest of it is left to the next walk.
        if not cursor.unit and cursor.tries <= manner.patience:
            yield from self._walk_extra(store)

    def _walk_segments(
        self, store: BlobStore, cursor: Cursor, manner: Manner
    ) -> Generator[Step, None, None]:
        segment_id = cursor.segment_id + (0 if cursor.offset else 1)
        while segment_id <= self.segments.find_end(store).segment_id:
            unit = segment_id.to_bytes(SEGMENT_UNIT_BYTES, "big")
            blank = Finding(store.name, DebtKind.SEGMENT, unit, Fault.UNREADABLE, 0, "")
            done = Cursor(Phase.SEGMENTS, str(segment_id))
            try:
                span = self.segments.find_span(store, segment_id)
            except WalError as error:
                finding = replace(blank, fault=Fault.DAMAGED, detail=error.message)
                yield Step(done, units=1, finding=finding)
            else:
                blank = replace(blank, size=span.end if span is not None else 0)
                is_owed = self._index.has_debt(store.name, DebtKind.SEGMENT, [unit])
                if is_owed and not self._is_overdue(blank, manner):
                    yield Step(done, passed_bytes=blank.size, units=1, is_owed=True)
                elif span is not None and self.segments.is_dropped(store, span):
                    yield Step(done, passed_bytes=blank.size, units=1)
                elif span is not None:
                    start = (cursor.offset, cursor.lsn) if cursor.offset else None
                    reading = (
                        self.segments.read(store, span, start)
                        if manner.full
                        else _as_reading(self.segments.look(store, span))
                    )
                    yield from self._follow(
                        reading, store, blank, cursor=cursor, done=done, patience=manner.patience
                    )
            segment_id += 1
            cursor = done
        if manner.owed_before_ms:
            yield from self._find_lag(store, cursor)

    def _find_lag(self, store: BlobStore, cursor: Cursor) -> Generator[Step, None, None]:
        """Yield a finding if the store has been owed the end of the log for long."""
        if self._is_far_behind(store.name):
            unit = self._log.position.segment_id.to_bytes(SEGMENT_UNIT_BYTES, "big")
            detail = self._index.store_states()[store.name].error or "the end of the log is owed"
            finding = Finding(store.name, DebtKind.SEGMENT, unit, Fault.OWED, 0, detail)
            yield Step(cursor, finding=finding)

    def _is_far_behind(self, name: str) -> bool:
        state = self._index.store_states().get(name)
        if state is None or name not in self._stores.replicas:
            return False
        lag = measure_lag(state, log=self._log, index=self._index, end=self._log.position)
        return lag.oldest_at_ms is not None and now_ms() - lag.oldest_at_ms > OWED_GRACE_MS

    def _walk_blobs(
        self, store: BlobStore, cursor: Cursor, manner: Manner
    ) -> Generator[Step, None, None]:
        if cursor.offset:
            begun = self._index.find_blob(cursor.digest)
            if begun is not None and begun.references > 0:
                yield from self._look_at_blob(store, begun, cursor, manner)
            cursor = Cursor(Phase.BLOBS, cursor.unit)
        while page := self._index.list_blobs(after=cursor.digest, limit=PAGE_BLOBS):
            owed = self._index.has_debt(store.name, DebtKind.BLOB, [blob.digest for blob in page])
            for blob in page:
                done = Cursor(Phase.BLOBS, blob.digest.hex())
                if blob.digest in owed and not self._is_overdue(_blank(store, blob), manner):
                    yield Step(done, passed_bytes=blob.size, units=1, is_owed=True)
                elif blob.references > 0:
                    yield from self._look_at_blob(store, blob, cursor, manner)
                else:
                    yield Step(done, passed_bytes=blob.size, units=1)
                cursor = done

    def _look_at_blob(
        self, store: BlobStore, blob: Blob, cursor: Cursor, manner: Manner
    ) -> Generator[Step, None, None]:
        reading = (
            read_blob(store, blob, start=cursor.offset)
            if manner.full
            else _as_reading(look_at_blob(store, blob))
        )
        done = Cursor(Phase.BLOBS, blob.digest.hex())
        blank = _blank(store, blob)
        yield from self._follow(
            reading, store, blank, cursor=cursor, done=done, patience=manner.patience
        )

    def _follow(
        self,
        reading: Generator[Place, None, Finding | None],
        store: BlobStore,
        blank: Finding,
        *,
        cursor: Cursor,
        done: Cursor,
        patience: int,
    ) -> Generator[Step, None, None]:
        """Yield the steps of one unit while it is read.

        Args:
            blank: what is found if it cannot be read.
            cursor: where the reading begins. done: where it ends.
        """
        offset, tries = cursor.offset, cursor.tries
        finding = None
        try:
            while True:
                try:
                    reached, lsn = next(reading)
                except StopIteration as stop:
                    finding = stop.value
                    break
                if reached < blank.size:
                    place = replace(done, offset=reached, lsn=lsn)
                    yield Step(place, read_bytes=reached - offset)
                    offset, tries = reached, 0
        except StoreUnavailableError as error:
            if tries < patience:
                raise
            self.require_same(store)
            finding = replace(blank, detail=error.message)
        left_bytes = blank.size - offset
        if finding is None:
            yield Step(done, read_bytes=left_bytes, units=1)
        else:
            yield Step(done, passed_bytes=left_bytes, units=1, finding=finding)

    def _walk_extra(self, store: BlobStore) -> Generator[Step, None, None]:
        """Look for what the store holds and nobody knows."""
        cursor = Cursor(Phase.EXTRA)
        if isinstance(store, ListsBlobs):
            known = self._known_digests()
            current = next(known, None)
            for digest, size in store.list_blobs():
                while current is not None and current < digest:
                    current = next(known, None)
                finding = None
                if current != digest and self.is_orphan(store, digest, size):
                    detail = "nobody knows it"
                    finding = Finding(store.name, DebtKind.BLOB, digest, Fault.EXTRA, size, detail)
                cursor = Cursor(Phase.EXTRA, digest.hex())
                yield Step(cursor, finding=finding)
        replica = self._stores.replicas.get(store.name)
        for segment_id, size in replica.list_segments() if replica is not None else ():
            if not FIRST_SEGMENT_ID <= segment_id <= self._log.position.segment_id:
                unit = segment_id.to_bytes(SEGMENT_UNIT_BYTES, "big")
                detail = "the log has no such segment"
                finding = Finding(store.name, DebtKind.SEGMENT, unit, Fault.EXTRA, size, detail)
                yield Step(cursor, finding=finding)

    def _known_digests(self) -> Iterator[bytes]:
        after = b""
        while page := self._index.list_blobs(after=after, limit=PAGE_BLOBS):
            yield from (blob.digest for blob in page)
            after = page[-1].digest

    def _is_overdue(self, unit: Finding, manner: Manner) -> bool:
        """Tell whether the store owes a unit for so long that it should be there."""
        if not manner.owed_before_ms:
            return False
        debt = self._index.find_debt(unit.store, unit.kind, unit.unit)
        return debt is None or debt.owed_at_ms <= manner.owed_before_ms


def _blank(store: BlobStore, blob: Blob) -> Finding:
    return Finding(store.name, DebtKind.BLOB, blob.digest, Fault.UNREADABLE, blob.size, "")


def _as_reading(finding: Finding | None) -> Generator[Place, None, Finding | None]:
    """Return a reading that is over: of what was only looked at."""
    yield from ()
    return finding
