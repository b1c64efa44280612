"""Changes on their way through one group commit, as its leader has planned them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from dfs.core.errors import DfsError, QuorumError
from dfs.services.command import Draft
from dfs.services.tickets import Ticket
from dfs.storage.base import StagedBlob
from dfs.wal.control import LogPosition
from dfs.wal.frame import Frame, encode_frame
from dfs.wal.record import encode_meta


@dataclass(slots=True)
class Batch:
    """What the leader has planned."""

    segment_id: int
    offset: int
    lsn: int
    tickets: list[Ticket] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    staged: list[tuple[StagedBlob, bytes, int]] = field(default_factory=list)
    published: list[bytes] = field(default_factory=list)
    sync_s: float = 0.0

    @classmethod
    def behind(cls, end: LogPosition) -> Batch:
        """Return an empty batch whose records come at the end of the log."""
        return cls(segment_id=end.segment_id, offset=end.offset, lsn=end.lsn)

    def add(self, draft: Draft, flags: int) -> Frame:
        """Give a record its LSN and its place, behind those that were added before."""
        self.lsn += 1
        record_type, meta = encode_meta(draft.meta)
        encoded = encode_frame(
            lsn=self.lsn, type=record_type, flags=flags, meta=meta, data=draft.data
        )
        frame = Frame(
            segment_id=self.segment_id,
            offset=self.offset,
            length=len(encoded),
            lsn=self.lsn,
            type=record_type,
            flags=flags,
            meta=meta,
            data=memoryview(draft.data),
        )
        self.frames.append(encoded)
        self.offset += len(encoded)
        return frame

    def report(self, *, lock_wait_s: float, locked_s: float, carried: str | None) -> CommitReport:
        """Return what was done, once it is."""
        return CommitReport(
            changes=len(self.tickets),
            first_lsn=self.lsn - len(self.frames) + 1,
            last_lsn=self.lsn,
            log_bytes=sum(map(len, self.frames)),
            lock_wait_s=lock_wait_s,
            locked_s=locked_s,
            sync_s=self.sync_s,
            carried=carried,
        )

    def is_held(self, held: Collection[str]) -> bool:
        """Tell whether each change is on enough stores, if these replicas have the records."""
        return all(len(ticket.whole(held)) + 1 >= ticket.copies for ticket in self.tickets)

    def note_durable(self) -> None:
        """Tell each caller that its change is durable."""
        for ticket in self.tickets:
            ticket.is_durable = True

    def require_stores(
        self, primary: str, held: Collection[str], failed: Mapping[str, DfsError]
    ) -> None:
        """Tell each ticket which stores have its change.

        Args:
            primary: name of the store that has all of it.
            held: replicas that have the records. failed: name -> why not, of those that have not.

        Raises:
            QuorumError: for some change they are too few.
        """
        for ticket in self.tickets:
            whole = ticket.whole(held)
            ticket.stores = (primary, *sorted(whole))
            if len(ticket.stores) < ticket.copies:
                raise quorum_error(ticket.copies, whole, failed)


class CommitReport(msgspec.Struct, frozen=True, gc=False):
    """What one commit did, for metrics and log.

    Attributes:
        changes: commands that became durable together.
        first_lsn, last_lsn: of their records.
        log_bytes: appended.
        lock_wait_s: seconds that the node lock was waited for. locked_s: that it was held.
        sync_s: seconds that the sync of the log took.
        carried: its span, see `dfs.core.tracing`.
    """

    changes: int
    first_lsn: int
    last_lsn: int
    log_bytes: int
    lock_wait_s: float
    locked_s: float
    sync_s: float
    carried: str | None = None

    def facts(self) -> dict[str, int]:
        """Return what was committed, for the log and the span."""
        return {
            "changes": self.changes,
            "first_lsn": self.first_lsn,
            "lsn": self.last_lsn,
            "log_bytes": self.log_bytes,
        }


OnCommit = Callable[[CommitReport], None]


def ignore_report(report: CommitReport) -> None:
    """Do nothing."""


def quorum_error(copies: int, held: Iterable[str], failed: Mapping[str, DfsError]) -> QuorumError:
    """Return the error for a change that too few stores could take."""
    reasons = "; ".join(f"{name}: {error.message}" for name, error in sorted(failed.items()))
    return QuorumError(
        f"Only {len(set(held)) + 1} of the {copies} stores that must have it could take the "
        "change in time. Nothing was stored.",
        hint="See /admin/replicas/status.",
        reasons=reasons or None,
    )
