"""Bugs of the protocol, planted into the real code: the model must find each of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

from msgspec.structs import replace

from dfs.core.errors import StorageError
from dfs.services import recovery
from dfs.services.commit import Committer
from dfs.storage import local_staging, local_store
from dfs.wal import log, reader
from dfs.wal.control import ControlFile
from dfs.wal.log import WriteAheadLog
from dfs.wal.writer import SegmentWriter

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug.

    Attributes:
        scenario: in which it shows. crashes: how many of them in a row it takes.
        patches: what makes it, as for `mock.patch.object`.
    """

    scenario: str
    patches: tuple[Patch, ...]
    crashes: int = 1

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Have it in the code inside the block."""
        with contextlib.ExitStack() as stack:
            for target, name, value in self.patches:
                stack.enter_context(mock.patch.object(target, name, value))
            yield


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def _around(owner: Any, name: str, function: Callable[..., Any]) -> Patch:
    """Return the patch by which `function` is called with the real method before its arguments."""
    real = getattr(owner, name)
    return owner, name, lambda *arguments, **named: function(real, *arguments, **named)


def _ignore_fault(real: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.suppress(StorageError):
        real(*arguments)


def _try_again(real: Callable[..., Any], writer: SegmentWriter) -> None:
    try:
        real(writer)
    except StorageError:
        real(writer)


def _shift_end(real: Callable[..., Any], wal: Any, ended: Any, **named: Any) -> None:
    real(wal, replace(ended, offset=max(0, ended.offset - 1)), **named)


def _cut_more(real: Callable[..., Any], wal: Any, position: Any) -> Any:
    return real(wal, replace(position, offset=position.offset - 1))


def _commit_index_first(
    real: Callable[..., Any], committer: Committer, batch: Any, index: Any
) -> Any:
    index.commit()
    return real(committer, batch, index)


def _go_on_in_failed(real: Callable[..., Any], wal: WriteAheadLog, index: Any) -> None:
    if wal.control.read_only_reason is not None:
        wal.control.reset(wal.position)
    real(wal, index)


def _believe_control_alone(wal: WriteAheadLog, index: object) -> None:
    if wal.control.read_only_reason is not None:
        wal.control.reset(wal.leave_active(wal.position))


@contextlib.contextmanager
def _no_lock(control: ControlFile) -> Iterator[None]:
    yield


def _turn_read_only_quietly(wal: WriteAheadLog, cause: StorageError) -> StorageError:
    wal._appended = None
    return cause


_UNSYNCED_OS = SimpleNamespace(**{**vars(os), "fdatasync": _nothing})

BUGS = {
    "acknowledged before the sync": Bug("commit", ((SegmentWriter, "sync", _nothing),)),
    "dirty flag not set": Bug("one-dies", ((ControlFile, "mark_dirty", _nothing),)),
    "no lock between processes": Bug("one-dies", ((ControlFile, "lock", _no_lock),)),
    "tail cut past the durable end": Bug("commit", (_around(WriteAheadLog, "cut", _cut_more),)),
    "tail not cut": Bug("commit", ((WriteAheadLog, "cut", _nothing),)),
    "half of a change believed": Bug("commit", ((reader, "_CONTINUES", 0),)),
    "tail of a dead process not synced": Bug(
        "two-processes", ((WriteAheadLog, "sync_active", _nothing),)
    ),
    "index ahead of the log": Bug(
        "commit",
        (
            _around(Committer, "_write", _commit_index_first),
            (Committer, "_commit_index", _nothing),
        ),
    ),
    "records not applied to the index": Bug("commit", ((recovery, "_apply_batch", _nothing),)),
    "rotation without a sync of the directory": Bug(
        "rotation", ((log, "sync_directory", _nothing),)
    ),
    "end of the previous segment wrong": Bug(
        "rotation", (_around(WriteAheadLog, "_write_next", _shift_end),)
    ),
    "failed sync taken for one that worked": Bug(
        "fault", (_around(SegmentWriter, "sync", _ignore_fault),)
    ),
    "failed sync tried again": Bug("fault", (_around(SegmentWriter, "sync", _try_again),)),
    "failed sync forgotten": Bug(
        "fault", ((WriteAheadLog, "_turn_read_only", _turn_read_only_quietly),)
    ),
    "failed segment written on": Bug(
        "lone-fault", (_around(recovery, "leave_failed_segment", _go_on_in_failed),), crashes=2
    ),
    "durable record of a dead process abandoned": Bug(
        "death-then-fault", ((recovery, "leave_failed_segment", _believe_control_alone),)
    ),
    "refused change not cut off durably": Bug(
        "fault", ((SegmentWriter, "cut", lambda w, p: os.ftruncate(w._fd, p.offset)),)
    ),
    "refused change not cut off": Bug("fault", ((WriteAheadLog, "cut_back", _nothing),)),
    "blob file without a sync": Bug("blob-file", ((local_staging, "os", _UNSYNCED_OS),)),
    "name of a blob file without a sync": Bug(
        "blob-file", ((local_store, "sync_directory", _nothing),)
    ),
}
