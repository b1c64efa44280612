"""Group commit: order, grouping, failures."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from itertools import pairwise

import pytest

from dfs.core.errors import (
    AlreadyExistsError,
    BlobCorruptError,
    IndexUnavailableError,
    NoSpaceError,
    NoSuchFileError,
    PreconditionFailedError,
    WalReadOnlyError,
)
from dfs.core.model import BlobKind
from dfs.services.changes import Upload
from dfs.services.crew import Crew
from dfs.wiring import open_services
from tests.services.conftest import (
    Opener,
    list_keys,
    lose_index,
    make_config,
    read_bytes,
    store_bytes,
)

LARGE = os.urandom(3 << 20)


def run_together(count: int, work) -> list[object]:
    """Run `work(i)` in `count` threads at once; return results or errors in order."""
    results: list[object] = [None] * count
    barrier = threading.Barrier(count)

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = work(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_upload_acknowledged_has_passed_every_step_in_order(open_node: Opener):
    """A file's blob is in place before its record, the record synced before the index knows it."""
    steps: list[str] = []
    node = open_node(on_step=steps.append)
    steps.clear()
    store_bytes(node, "large", LARGE)
    assert steps == [
        "commit.locked",
        "commit.planned",
        "commit.published",
        "log.dirty",
        "log.appended",
        "log.synced",
        "commit.indexed",
        "log.published",
    ]


def test_upload_acknowledged_names_lsn_and_store(node):
    """The answer to a write says which record it is and which stores have it."""
    first = store_bytes(node, "a", b"one")
    second = store_bytes(node, "b", b"two")
    assert (first.durability.lsn, second.durability.lsn) == (2, 4)
    assert first.durability.stores == ("primary",)
    assert first.files[0].lsn == 2


def test_upload_same_bytes_stores_one_blob(node):
    """Equal bytes are stored once, however they come, and each file reads back whole."""
    ids = [store_bytes(node, f"k{i}", data).files[0].id for i in range(3) for data in (b"x", LARGE)]
    with node.index.begin() as index:
        for data in (b"x", LARGE):
            assert index.blob(hashlib.sha256(data).digest()).references == 3
    assert [read_bytes(node, file_id) for file_id in ids] == [b"x", LARGE] * 3


def test_upload_of_bytes_whose_stored_copy_is_damaged_mends_it(node, tmp_path):
    """A damaged copy of the same size is replaced by the upload, in the store and in the log."""
    large = store_bytes(node, "large", LARGE).files[0]
    small = store_bytes(node, "small", b"s" * 1000).files[0]
    with node.store.blob_path(large.digest).open("r+b") as file:
        file.write(b"XXXX")
    data = (tmp_path / "wal" / "wal.active").read_bytes()
    with (tmp_path / "wal" / "wal.active").open("r+b") as file:
        file.seek(data.index(b"s" * 1000))
        file.write(b"XXXX")
    for file_id in (large.id, small.id):
        with pytest.raises(BlobCorruptError):
            read_bytes(node, file_id)
    assert read_bytes(node, store_bytes(node, "again", LARGE).files[0].id) == LARGE
    assert read_bytes(node, store_bytes(node, "again", b"s" * 1000).files[0].id) == b"s" * 1000
    assert read_bytes(node, large.id) == LARGE
    assert read_bytes(node, small.id) == b"s" * 1000


def test_upload_of_one_form_with_a_name_twice_that_must_be_free_is_refused(node):
    """`if_absent` sees the names of its own form."""
    blobs = [node.files.new_blob(), node.files.new_blob()]
    with pytest.raises(AlreadyExistsError):
        node.files.store([Upload(blob, "same", "text/plain") for blob in blobs], if_absent=True)
    assert list_keys(node) == {}


def test_upload_known_blob_whose_file_is_lost_puts_it_back(node):
    """An upload of bytes whose blob file has vanished mends the older files too."""
    first = store_bytes(node, "a", LARGE).files[0]
    node.store.remove(first.digest)
    store_bytes(node, "b", LARGE)
    assert read_bytes(node, first.id) == LARGE


def test_upload_small_lives_in_the_log_and_large_in_a_file(node):
    """The inline limit decides where bytes live."""
    small = store_bytes(node, "small", b"s" * 65536).files[0]
    large = store_bytes(node, "large", b"l" * 65537).files[0]
    with node.index.begin() as index:
        kinds = [index.blob(file.digest).kind for file in (small, large)]
    assert kinds == [BlobKind.INLINE, BlobKind.FILE]
    assert not node.store.has(small.digest, small.size)
    assert node.store.has(large.digest, large.size)


def test_commits_of_many_threads_share_syncs(node):
    """Threads that announce themselves are committed together."""
    before = node.log.sync_count

    def upload(index: int) -> None:
        with node.files.announce():
            store_bytes(node, f"k{index}", b"%d" % index)

    assert run_together(16, upload) == [None] * 16
    assert node.log.sync_count - before <= 8
    assert len(list_keys(node)) == 16


class WatchedCrew(Crew):
    """A crew that notes when a thread steps aside."""

    def __init__(self) -> None:
        super().__init__(gather_s=0.001)
        self.asides = 0

    def step_aside(self) -> None:
        """Note it."""
        self.asides += 1


def test_leader_lets_those_run_for_whom_it_waits(tmp_path, index_url, monkeypatch):
    """One thread runs at a time: who is on the way could not arrive while the leader waits."""
    crew = WatchedCrew()
    node = open_services(make_config(tmp_path, index_url), crew=crew)
    asides: list[int] = []
    monkeypatch.setattr(crew.gathering, "wait", lambda: asides.append(crew.asides))
    blob = node.files.new_blob()
    blob.write(b"body")
    pending = node.files.begin_store([Upload(blob, "name", "text/plain")])
    crew.gathering.expect()
    before = crew.asides
    node.committer.tickets.do()
    assert asides == [before + 1]
    assert pending.result().files
    node.close()


def test_command_failing_in_a_batch_fails_alone(node):
    """A command whose precondition does not hold gets its own error; its neighbours succeed."""
    victim = store_bytes(node, "victim", b"v").files[0]

    def work(index: int) -> object:
        with node.files.announce():
            if index % 3 == 0:
                return node.files.delete("0" * 26)
            if index % 3 == 1:
                return node.files.delete(victim.id, if_match=["no-such-etag"])
            return store_bytes(node, f"k{index}", b"%d" % index)

    results = run_together(12, work)
    assert all(isinstance(result, NoSuchFileError) for result in results[0::3])
    assert all(isinstance(result, PreconditionFailedError) for result in results[1::3])
    assert {node.files.find(result.files[0].id).key for result in results[2::3]} == {
        "k2",
        "k5",
        "k8",
        "k11",
    }


def test_delete_raced_by_many_threads_succeeds_once(node):
    """Of several deletes of one file exactly one is acknowledged."""
    file_id = store_bytes(node, "a", b"x").files[0].id
    results = run_together(8, lambda _: node.files.delete(file_id))
    assert sum(isinstance(result, NoSuchFileError) for result in results) == 7
    assert list_keys(node) == {}


def test_upload_if_absent_raced_by_many_threads_succeeds_once(node):
    """Of several uploads that demand a free name exactly one is acknowledged."""

    def upload(index: int) -> object:
        blob = node.files.new_blob()
        blob.write(b"%d" % index)
        return node.files.store([Upload(blob, "name", "text/plain")], if_absent=True)

    results = run_together(8, upload)
    assert sum(isinstance(result, AlreadyExistsError) for result in results) == 7
    assert len(list_keys(node)) == 1


def test_batch_is_bounded_in_count_and_bytes(open_node: Opener):
    """No commit takes more changes or bytes than the settings allow."""
    reports = []
    node = open_node(commit_batch_count_max=4)
    node.committer._on_commit = reports.append

    def upload(index: int) -> None:
        with node.files.announce():
            store_bytes(node, f"k{index}", os.urandom(100))

    assert run_together(16, upload) == [None] * 16
    assert sum(report.changes for report in reports) == 16
    assert max(report.changes for report in reports) <= 4


def test_no_space_tells_every_caller_and_keeps_nothing(node, monkeypatch):
    """When the disk is full every caller is told; log, index and store are as before."""
    kept = store_bytes(node, "kept", b"kept").files[0]
    position = node.log.position
    real = os.pwritev

    def full(fd, buffers, offset):
        real(fd, [bytes(buffers[0])[:10]], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dfs.wal.log.os.pwritev", full)

    def upload(index: int) -> None:
        with node.files.announce():
            store_bytes(node, f"k{index}", b"%d" % index if index % 2 else LARGE)

    results = run_together(6, upload)
    assert all(isinstance(result, NoSpaceError) for result in results)
    monkeypatch.undo()
    assert node.log.position == position
    assert not node.log.control.is_dirty
    assert list(node.store.list_blobs()) == []
    assert list_keys(node) == {kept.id: kept.etag}
    store_bytes(node, "after", b"after")
    assert len(list_keys(node)) == 2


FAULTS = [NoSpaceError, IndexUnavailableError, MemoryError]


@pytest.mark.parametrize(
    ("statement", "fault"), [("COMMIT", NoSpaceError), *(("INSERT", fault) for fault in FAULTS)]
)
def test_index_that_did_not_commit_has_the_records_taken_back(node, monkeypatch, statement, fault):
    """Where it is certain that the index has not, nothing of the refused change appears."""
    kept = store_bytes(node, "kept", b"kept").files[0]
    position = node.log.position
    real = type(node.index).write

    def fail(index, sql, parameters=()):
        if sql.startswith(statement):
            raise fault("There is no room in the index.")
        return real(index, sql, parameters)

    monkeypatch.setattr(type(node.index), "write", fail)
    for data in (b"small", LARGE):
        with pytest.raises(fault):
            store_bytes(node, "refused", data)
    monkeypatch.undo()
    assert node.log.position == position
    assert not node.log.control.is_dirty
    assert list(node.store.list_blobs()) == []
    new = store_bytes(node, "new", b"new").files[0]
    assert list_keys(node) == {kept.id: kept.etag, new.id: new.etag}


def test_index_failing_inside_a_plan_fails_the_whole_batch(open_node: Opener, monkeypatch):
    """A fault of the database is nobody's own: no neighbour is committed in what is left of it."""
    node = open_node(commit_gather_us=1_000_000)
    announced = threading.Barrier(2)

    def fail(*_: object) -> bool:
        raise IndexUnavailableError("The index does not answer.")

    monkeypatch.setattr("dfs.db.transaction.IndexTransaction.key_exists", fail)

    def upload(index: int) -> object:
        with node.files.announce():
            announced.wait()  # so that both are in one batch
            blob = node.files.new_blob()
            blob.write(b"%d" % index)
            return node.files.store([Upload(blob, "k", "text/plain")], if_absent=index == 0)

    results = run_together(2, upload)
    assert [type(result) for result in results] == [IndexUnavailableError] * 2
    assert list_keys(node) == {}


def test_log_removed_or_cut_under_a_running_node_takes_no_more_writes(node, tmp_path):
    """Nothing is acknowledged into a file that nobody will ever read."""
    store_bytes(node, "a", b"x" * 1000)
    os.truncate(tmp_path / "wal" / "wal.active", 500)
    with pytest.raises(WalReadOnlyError, match="taken away or cut"):
        store_bytes(node, "b", b"x")
    assert "taken away or cut" in node.health.reasons()["log"]


def test_metrics_that_fail_do_not_fail_what_is_durable(node):
    """A fault in counting a commit reaches its leader at most, never a follower."""
    raised = []

    def count(report):
        raised.append(report)
        raise RuntimeError("no room for counters")

    node.committer._on_commit = count
    with pytest.raises(RuntimeError):
        store_bytes(node, "a", b"x")
    assert len(raised) == 1
    assert len(list_keys(node)) == 1


def test_failed_sync_turns_the_node_read_only_until_the_next_start(open_node: Opener, monkeypatch):
    """After a sync that failed nothing is acknowledged; the next start begins a new segment."""
    node = open_node()
    kept = store_bytes(node, "kept", b"kept").files[0]
    syncs = []

    def fail(fd):
        syncs.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("dfs.wal.log.os.fdatasync", fail)
    for _ in range(3):
        with pytest.raises(WalReadOnlyError):
            store_bytes(node, "lost", b"lost")
    monkeypatch.undo()
    assert len(syncs) == 1
    with pytest.raises(WalReadOnlyError):
        store_bytes(node, "late", b"late")
    assert "Input/output error" in node.health.reasons()["log"]
    assert list_keys(node) == {kept.id: kept.etag}

    again = open_node()
    assert again.health.reasons()["log"] is None
    assert [segment.state for segment in again.wal_inspection.segments()] == ["abandoned", "active"]
    new = store_bytes(again, "new", b"new").files[0]
    assert list_keys(again) == {kept.id: kept.etag, new.id: new.etag}
    node.close()
    lose_index(again)
    rebuilt = open_node()
    assert list_keys(rebuilt) == {kept.id: kept.etag, new.id: new.etag}


def test_log_rotates_and_everything_stays_readable(node):
    """Full segments are sealed; files in all of them can be read, and the log has no hole."""
    stored = {}
    for index in range(60):
        file = store_bytes(node, f"k{index}", os.urandom(50_000)).files[0]
        stored[file.id] = file.etag
    segments = node.wal_inspection.segments()
    assert [segment.id for segment in segments] == [1, 2, 3]
    assert [segment.state for segment in segments] == ["sealed", "sealed", "active"]
    assert max(segment.size_bytes for segment in segments) <= 1 << 20
    for before, after in pairwise(segments):
        assert after.first_lsn == before.last_lsn + 1
    assert list_keys(node) == stored


def test_two_processes_worth_of_committers_share_one_log(open_node: Opener):
    """Two sets of services on one node commit in turn, and each sees the other's files."""
    nodes = [open_node(), open_node()]
    results = run_together(
        8, lambda i: [store_bytes(nodes[i % 2], f"k{i}-{j}", b"%d" % j) for j in range(10)]
    )
    assert not any(isinstance(result, Exception) for result in results)
    assert len(list_keys(nodes[0])) == 80
    assert list_keys(nodes[0]) == list_keys(nodes[1])
    lsns = sorted(stored.durability.lsn for result in results for stored in result)
    assert len(set(lsns)) == 80
