"""What the processes of the model do, and what must be so afterwards."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dfs.core.config import Config
from dfs.core.errors import DfsError, NoSpaceError
from dfs.services.changes import RemoveFile, StoreFiles, Upload
from dfs.services.tickets import Holders
from dfs.wiring import Services, open_services
from tests.model.world import INDEX, Process, World
from tests.services.conftest import make_config
from torture.independent import find_bad_files, read_log

INLINE_BYTES_MAX = 32


class Violation(AssertionError):  # noqa: N818 # what a model checker calls it
    """A promise is broken."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change: some files stored together, or one deleted.

    Attributes:
        stores: id of the file -> its content. deletes: id of the file.
    """

    name: str
    stores: tuple[tuple[str, bytes], ...] = ()
    deletes: str = ""

    def submit(self, node: Services) -> None:
        """Have it made durable. Raises DfsError."""
        if self.deletes:
            node.committer.submit(RemoveFile(file_id=self.deletes, if_match=None))
            return
        blobs = []
        try:
            for _, content in self.stores:
                blob = node.files.new_blob()
                blobs.append(blob)
                blob.write(content)
                blob.finish()
            uploads = [
                (file_id, Upload(blob, file_id, "text/plain"))
                for (file_id, _), blob in zip(self.stores, blobs, strict=True)
            ]
            command = StoreFiles(uploads=uploads, if_absent=False, is_sound=node.files._is_sound)
            is_large = any(blob.staged is not None for blob in blobs)
            node.committer.submit(command, holders=Holders() if is_large else None)
        finally:
            for blob in blobs:
                blob.discard()


def store(name: str, *contents: bytes) -> Change:
    """Return the change that stores files of these contents together."""
    return Change(
        name, tuple((f"{name}-{number}", content) for number, content in enumerate(contents))
    )


def delete(name: str, file_id: str) -> Change:
    """Return the change that deletes a file."""
    return Change(name, deletes=file_id)


@dataclass(frozen=True, slots=True)
class Known:
    """What has been told to the outside, and so must be true from then on.

    Attributes:
        begun: changes that were asked for. acknowledged: those that were confirmed.
        impossible: those that were refused with a promise that nothing of them happened.
        seen: files that a node has shown after a start. gone: files that it then did not have.
    """

    begun: frozenset[Change] = frozenset()
    acknowledged: frozenset[Change] = frozenset()
    impossible: frozenset[Change] = frozenset()
    seen: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()

    def check(self, files: set[str]) -> None:
        """Compare with the files that there are. Raises Violation."""
        deleting = {change.deletes for change in self.begun if change.deletes}
        deleted = {change.deletes for change in self.acknowledged if change.deletes}
        stored = {name for change in self.begun for name, _ in change.stores}
        _require(files <= stored, f"files nobody has stored: {files - stored}")
        _require(not files & deleted, f"deleted files are back: {files & deleted}")
        for change in self.begun:
            names = {name for name, _ in change.stores}
            found = names & files
            if names & deleting:
                continue
            _require(found in (set(), names), f"half of a change is there: {found} of {names}")
            if change in self.acknowledged:
                _require(found == names, f"an acknowledged change is lost: {change.name}")
            if change in self.impossible:
                _require(not found, f"a change that did not happen is there: {change.name}")
        lost = self.seen - files - deleting
        _require(not lost, f"files that were shown are lost: {lost}")
        _require(not files & self.gone, f"files that were gone are back: {files & self.gone}")

    def see(self, files: set[str]) -> Known:
        """Return what is known once a node has started and shown its files."""
        stored = {name for change in self.begun for name, _ in change.stores}
        return replace(self, seen=frozenset(files), gone=self.gone | frozenset(stored - files))


class Telling:
    """What the processes of one world have told so far."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def make(self, process: Process, node: Services, changes: Sequence[Change]) -> None:
        """Make changes one after the other, as far as the node takes them."""
        for change in changes:
            self.known = replace(self.known, begun=self.known.begun | {change})
            try:
                change.submit(node)
            except NoSpaceError:
                self.known = replace(self.known, impossible=self.known.impossible | {change})
            except DfsError as error:
                process.history.append(error.code)
            else:
                failed = process.world.failed  # whoever died of it could not tell the others
                _require(
                    failed is None or failed.is_dead,
                    f"{change.name} acknowledged behind a failed sync",
                )
                self.known = replace(self.known, acknowledged=self.known.acknowledged | {change})
            process.step("answered")


def config_of(directory: Path, *, segment_bytes: int) -> Config:
    """Return the settings of a node with all that is small."""
    return make_config(
        directory,
        f"sqlite:///{directory / INDEX}",
        wal_segment_bytes=segment_bytes,
        wal_preallocate_bytes=256,
        inline_blob_bytes_max=INLINE_BYTES_MAX,
        reserve_bytes=0,
        reserve_inodes=0,
    )


@contextlib.contextmanager
def open_node(world: World, *, segment_bytes: int) -> Iterator[Services]:
    """Open a node on the directories of a world."""
    node = open_services(config_of(world.directory, segment_bytes=segment_bytes))
    try:
        yield node
    finally:
        node.close()


def check_node(node: Services, known: Known) -> set[str]:
    """Check a node that has just been recovered.

    Returns:
        Ids of the files that there are.

    Raises:
        Violation: a promise is broken.
    """
    control, path = node.log.control, node.config.wal_path
    _require(control.read_only_reason is None, f"read-only: {control.read_only_reason}")
    _require(not control.is_dirty, "dirty after recovery")
    log = read_log(path / "segments", path / "wal.active")
    position = node.log.position
    end = log.segments[-1]
    _require(
        (end.id, end.end, log.lsn) == (position.segment_id, position.offset, position.lsn),
        f"the log ends at {end.id}, {end.end}, {log.lsn} and not at {position}",
    )
    _require(node.index.applied_lsn() == log.lsn, "the index has not followed the log")
    page = node.files.list(limit=100)
    found = {file.id: (file.key, file.etag) for file in page.files}
    wanted = {name: (file.name, file.sha256) for name, file in log.files.items()}
    _require(found == wanted, f"the index says {found}, the log {wanted}")
    trash = {file.id for file in node.files.list(limit=100, deleted=True).files}
    _require(trash == set(log.deleted), f"the trash holds {trash}, not {set(log.deleted)}")
    bad = list(find_bad_files(log, node.config.storage_path))
    _require(not bad, f"files are not whole: {bad}")
    for change in known.begun:
        for name, content in change.stores:
            if name in found:
                digest = hashlib.sha256(content).hexdigest()
                _require(found[name][1] == digest, f"{name} has other bytes")
    known.check(set(found))
    return set(found)


Program = Callable[[Process], None]


def _require(is_true: bool, what: str) -> None:
    if not is_true:
        raise Violation(what)
