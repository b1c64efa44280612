"""What versions a node's data is of, and what a start of this program would make of it.

Looking changes nothing, and can be done while the node runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dfs.core.errors import (
    DfsError,
    IndexDamagedError,
    StoreUnavailableError,
    WalCorruptError,
    WalGapError,
)
from dfs.db.migrations import find_applied, list_migrations, require_known
from dfs.services.schema import WAY_BACK
from dfs.services.stores import Stores
from dfs.storage.identity import FORMAT_VERSION as STORE_FORMAT
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome
from dfs.wal.record import STRUCTURES, decode_meta
from dfs.wal.segment import FORMAT_VERSION as LOG_FORMAT


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        is_running: processes of the node are at work.
        segments: of the log.
        records: in the log, by the name of their type.
        stores: what is there, by the name of the store.
        schema: the newest migration of the index; None if there is no index yet.
        lacking: migrations that a start would apply.
        refusals: why a start would be refused.
        notes: what else there is to know.
    """

    is_running: bool = False
    segments: int = 0
    records: Counter[str] = field(default_factory=Counter)
    stores: dict[str, str] = field(default_factory=dict)
    schema: str | None = None
    lacking: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def unwritten(self) -> list[str]:
        """Names of the types that this program may write and the log does not hold yet."""
        return [kind.__name__ for kind in STRUCTURES.values() if kind.__name__ not in self.records]


def examine(log: WriteAheadLog, index_url: str, stores: Stores) -> Findings:
    """Look at the data of a node. Reads all of its log.

    Args:
        log: opened. index_url: the setting DATABASE_URL.
    """
    findings = Findings()
    with _noting_refusal(findings):
        _look_at_log(findings, log)
    with _noting_refusal(findings):
        _look_at_stores(findings, stores)
    with _noting_refusal(findings):
        _look_at_index(findings, index_url)
    return findings


def describe_findings(findings: Findings) -> list[str]:
    """Return what was found, and what follows, as lines for people."""
    counts = ", ".join(f"{count} {name}" for name, count in sorted(findings.records.items()))
    return [
        f"this program   log format {LOG_FORMAT}, store format {STORE_FORMAT}, "
        f"index schema {list_migrations()[-1]}, {len(STRUCTURES)} types of records",
        f"log            segments: {findings.segments}; records: {counts or 'none'}",
        *(f"{name:<14} {what}" for name, what in findings.stores.items()),
        f"index          schema {findings.schema or 'none yet'}",
        f"processes      {'at work' if findings.is_running else 'none'}",
        *findings.notes,
        "",
        *(f"A start would be REFUSED: {refusal}" for refusal in findings.refusals),
        *_describe_changes(findings),
        *_describe_return(findings),
    ]


def _describe_changes(findings: Findings) -> list[str]:
    if findings.refusals:
        return []
    if not findings.lacking:
        return ["A start of this version changes no format of anything."]
    stop = " All processes have to be stopped first: it does not start beside an older version."
    return [
        f"A start of this version CHANGES the index: {', '.join(findings.lacking)}."
        + (stop if findings.is_running else ""),
        WAY_BACK,
    ]


def _describe_return(findings: Findings) -> list[str]:
    """Return what cannot be taken back once it has happened."""
    if not findings.unwritten:
        return []
    return [
        "A version of dfs refuses a log with a type of record that it does not know, and no record "
        "can be taken out again. This one writes, when they are needed, types that are not in the "
        f"log yet: {', '.join(findings.unwritten)}."
    ]


@contextmanager
def _noting_refusal(findings: Findings) -> Iterator[None]:
    """Go on behind what a start would be refused for."""
    try:
        yield
    except (WalCorruptError, WalGapError) as error:
        findings.refusals.append(f"{error} Unless a replica has it whole: then it is restored.")
    except DfsError as error:
        findings.refusals.append(str(error))


def _look_at_log(findings: Findings, log: WriteAheadLog) -> None:
    with log.lock():
        findings.is_running = log.control.has_others()
    findings.segments = len(log.segments())
    reader = log.read(after_lsn=0, until=log.control.position)
    for frame in reader:
        findings.records[type(decode_meta(frame)).__name__] += 1
    if reader.end.outcome is Outcome.CORRUPT:
        raise reader.end.error()
    if reader.end.outcome is Outcome.TORN_TAIL:
        findings.notes.append("A start cuts off the end of the log, which was never acknowledged.")


def _look_at_stores(findings: Findings, stores: Stores) -> None:
    for store in stores.all():
        try:
            identity = store.read_identity()
        except StoreUnavailableError as error:
            findings.stores[store.name] = f"cannot be reached: {error.message}"
        except DfsError as error:
            findings.stores[store.name] = f"left alone: {error}"
            if store is stores.primary:
                raise
        else:
            findings.stores[store.name] = (
                "not a store yet" if identity is None else f"format {identity.format_version}"
            )


def _look_at_index(findings: Findings, index_url: str) -> None:
    try:
        applied = find_applied(index_url)
    except IndexDamagedError:
        findings.notes.append("The index is damaged: a start rebuilds it from the log.")
        return
    findings.schema = applied[-1] if applied else None
    require_known(applied)
    if applied:
        findings.lacking = [name for name in list_migrations() if name not in applied]
