"""What nobody wants any more goes, from every store; what somebody wants stays."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from dfs.core.errors import NoSuchFileError, QuorumError
from dfs.core.model import DebtKind
from dfs.db.repository import IndexRepository
from dfs.services import apply, quorum
from dfs.services.changes import StoreFiles, Upload
from dfs.services.garbage import Collected, DropBlobs, ExpireFiles, PurgeFiles
from dfs.services.tickets import Holders
from dfs.wal.record import DropBlob, PurgeFile, decode_meta
from dfs.wiring import Services
from tests.services.conftest import Clock, Opener, list_keys, lose_index, read_bytes, store_bytes
from tests.services.recount import check_figures, read_dead

LARGE_BYTES = 100_000
"""Of a blob that is a file of its own."""
DELAY_S = apply.REMOVAL_DELAY_MS / 1000
GRACE_S = 60
STORES = ("primary", "replica1", "replica2")


@pytest.fixture
def replicas(tmp_path: Path) -> tuple[tuple[str, str], ...]:
    """Two replicas in directories."""
    return tuple((name, str(tmp_path / name)) for name in STORES[1:])


@pytest.fixture
def node(open_node: Opener, replicas: tuple[tuple[str, str], ...], clock: Clock) -> Services:
    """A node with two replicas, which keeps what was deleted for a minute."""
    return open_node(replicas=replicas, delete_grace_s=GRACE_S)


def collect(node: Services) -> Collected:
    """Run the job that finds garbage."""
    return node.garbage.work(budget_s=60)


def work(node: Services, *names: str) -> None:
    """Let stores do all that they can do now."""
    for name in names or STORES:
        while (report := node.replication.work(name, budget_s=10)).more:
            pass
        assert report.error is None


def holders(node: Services, digest: bytes, size: int = LARGE_BYTES) -> set[str]:
    """Return the names of the stores that hold a blob file."""
    return {store.name for store in node.stores.all() if store.has(digest, size)}


def drop(node: Services, clock: Clock, data: bytes, *, is_shipped: bool = True) -> bytes:
    """Have a blob on all stores and then dropped, but removed nowhere yet. Returns its digest.

    Args:
        is_shipped: the replicas have the log of it.
    """
    file = store_bytes(node, "first", data).files[0]
    work(node)
    node.files.delete(file.id)
    clock.advance(seconds=GRACE_S)
    assert collect(node) == Collected(expired=0, purged=1, dropped=1)
    if is_shipped:
        work(node, "replica1", "replica2")
    assert holders(node, file.digest) == set(STORES)
    return file.digest


def test_deleted_file_goes_step_by_step_from_every_store(node: Services, clock: Clock) -> None:
    """Into the trash, out of the index after the grace, from the primary, at last from replicas."""
    file = store_bytes(node, "a", os.urandom(LARGE_BYTES), expires_at_ms=clock.now_ms() + 1000)
    digest, file_id = file.files[0].digest, file.files[0].id
    work(node)
    assert collect(node) == Collected(0, 0, 0)
    clock.advance(seconds=1)
    assert collect(node) == Collected(1, 0, 0)
    assert [each.id for each in node.files.list(limit=9, deleted=True).files] == [file_id]
    clock.advance(seconds=GRACE_S - 1)
    assert collect(node) == Collected(0, 0, 0)
    clock.advance(seconds=1)
    assert collect(node) == Collected(0, 1, 1)
    check_figures(node)
    work(node)
    assert holders(node, digest) == {"replica1", "replica2"}
    clock.advance(seconds=DELAY_S)
    work(node)
    assert holders(node, digest) == set()
    assert IndexRepository(node.index).summarize_debts() == []
    assert collect(node) == Collected(0, 0, 0)


def test_inline_blob_of_a_purged_file_is_dead_and_stays(node: Services, clock: Clock) -> None:
    """Small blobs lie in the log, which compaction makes smaller; until then they can be had."""
    for _ in range(2):
        file = store_bytes(node, "a", b"small").files[0]
        assert read_bytes(node, file.id) == b"small"
        node.files.delete(file.id)
        clock.advance(seconds=GRACE_S)
        assert collect(node) == Collected(0, 1, 0)
        check_figures(node)


def test_blob_that_the_trash_or_another_file_needs_is_not_dropped(
    node: Services, clock: Clock
) -> None:
    """References from the trash count, and so do those of each of several files."""
    data = os.urandom(LARGE_BYTES)
    first, second, third = (store_bytes(node, "a", data).files[0] for _ in range(3))
    node.files.delete(first.id)
    clock.advance(seconds=GRACE_S)
    node.files.delete(second.id)
    assert collect(node) == Collected(0, 1, 0)
    assert node.files.restore(second.id).files[0].id == second.id
    node.files.delete(third.id)
    assert read_bytes(node, second.id) == data


def test_collecting_takes_more_than_a_batch(
    node: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many files go in one run, a batch to a command, and in the next run nothing is left."""
    monkeypatch.setattr("dfs.services.garbage.BATCH_COUNT_MAX", 3)
    for number in range(8):
        store_bytes(node, "a", b"%d" % number * LARGE_BYTES, expires_at_ms=clock.now_ms() + 5000)
    clock.advance(seconds=5)
    assert collect(node) == Collected(8, 0, 0)
    clock.advance(seconds=GRACE_S)
    assert collect(node) == Collected(0, 8, 8)
    check_figures(node)
    assert collect(node) == Collected(0, 0, 0)


def test_collecting_twice_the_same_does_nothing(node: Services, clock: Clock) -> None:
    """A command whose candidates are gone makes no record, whoever was quicker."""
    file = store_bytes(node, "a", os.urandom(LARGE_BYTES)).files[0]
    node.files.delete(file.id)
    clock.advance(seconds=GRACE_S)
    node.committer.submit(PurgeFiles([file], deleted_by_ms=clock.now_ms()))
    node.committer.submit(DropBlobs([file.digest]))
    end = node.log.position
    purge = PurgeFiles([file], deleted_by_ms=clock.now_ms())
    node.committer.submit(purge)
    node.committer.submit(DropBlobs([file.digest]))
    assert (purge.count, node.log.position) == (0, end)


def test_file_that_was_restored_is_not_purged(node: Services, clock: Clock) -> None:
    """What was a candidate a moment ago is looked at again under the lock."""
    file = store_bytes(node, "a", b"a").files[0]
    node.files.delete(file.id)
    node.files.restore(file.id)
    node.committer.submit(PurgeFiles([file], deleted_by_ms=clock.now_ms() + 10**9))
    assert read_bytes(node, file.id) == b"a"


def test_file_that_was_deleted_again_stays_for_another_grace(node: Services) -> None:
    """The grace runs from the last time that a file was deleted."""
    file = store_bytes(node, "a", b"a").files[0]
    node.files.delete(file.id)
    (deleted,) = node.files.list(limit=9, deleted=True).files
    assert deleted.deleted_at_ms is not None
    purge = PurgeFiles([file], deleted_by_ms=deleted.deleted_at_ms - 1)
    node.committer.submit(purge)
    assert purge.count == 0
    node.files.restore(file.id)


def test_file_that_was_given_more_time_does_not_expire(node: Services, clock: Clock) -> None:
    """Whoever changes the expiry just before the file is put into the trash keeps the file."""
    file = store_bytes(node, "a", b"a", expires_at_ms=clock.now_ms() + 1000).files[0]
    node.files.update(file.id, {"expires_at_ms": None})
    expire = ExpireFiles([file], at_ms=clock.now_ms() + 5000)
    node.committer.submit(expire)
    assert (expire.count, read_bytes(node, file.id)) == (0, b"a")


def test_tombstones_name_the_first_record_of_what_is_gone(node: Services, clock: Clock) -> None:
    """They must stay in the log for as long as that record or one behind it is in there."""
    file = store_bytes(node, "a", os.urandom(LARGE_BYTES)).files[0]
    node.files.update(file.id, {"key": "b"})
    node.files.delete(file.id)
    clock.advance(seconds=GRACE_S)
    collect(node)
    metas = [decode_meta(frame) for frame in node.log.read(after_lsn=0)]
    (purge,) = [meta for meta in metas if isinstance(meta, PurgeFile)]
    (dropped,) = [meta for meta in metas if isinstance(meta, DropBlob)]
    assert (dropped.first_lsn, purge.first_lsn) == (1, 2)
    row = node.index.read_one("SELECT tombstone_bytes, tombstone_lsn FROM dfs_segment_use")
    sizes = [frame.length for frame in node.log.read(after_lsn=4)]
    assert row == (sum(sizes), 1)


def test_rebuild_after_collecting_gives_the_same(open_node: Opener, clock: Clock) -> None:
    """What was purged and dropped does not come back with the index."""
    node = open_node(delete_grace_s=GRACE_S)
    for size in (5, LARGE_BYTES):
        node.files.delete(store_bytes(node, "gone", bytes(size)).files[0].id)
    clock.advance(seconds=GRACE_S)
    kept = store_bytes(node, "kept", b"k" * LARGE_BYTES).files[0]
    assert collect(node) == Collected(0, 2, 1)
    before = (IndexRepository(node.index).usage(), read_dead(node))
    lose_index(node)
    rebuilt = open_node(delete_grace_s=GRACE_S)
    assert (IndexRepository(rebuilt.index).usage(), read_dead(rebuilt)) == before
    assert list_keys(rebuilt) == {kept.id: kept.etag}
    check_figures(rebuilt)
    assert collect(rebuilt) == Collected(0, 0, 0)


def test_blob_file_whose_bytes_came_into_the_log_is_removed(open_node: Opener) -> None:
    """With a higher limit for inline blobs the same bytes are put into the log; all is readable."""
    data = os.urandom(LARGE_BYTES)
    node = open_node()
    first = store_bytes(node, "first", data).files[0]
    node = open_node(inline_blob_bytes_max=2 * LARGE_BYTES)
    second = store_bytes(node, "second", data).files[0]
    work(node, "primary")
    assert not node.store.has(first.digest, LARGE_BYTES)
    assert read_bytes(node, first.id) == read_bytes(node, second.id) == data
    check_figures(node)
    node = open_node(inline_blob_bytes_max=0)
    store_bytes(node, "third", data)
    work(node, "primary")
    assert read_bytes(node, first.id) == data
    check_figures(node)


# Uploads of the same bytes at the same moment


def test_upload_between_drop_and_removal_keeps_the_blob(
    node: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are wanted again: what the stores owe of their removal is void, at any moment."""
    data = os.urandom(LARGE_BYTES)
    digest = drop(node, clock, data)
    file = store_bytes(node, "second", data).files[0]
    clock.advance(seconds=DELAY_S)
    removed: list[bytes] = []
    for store in node.stores.all():
        monkeypatch.setattr(store, "remove", removed.append)
    work(node)
    assert removed == []
    assert holders(node, digest) == set(STORES)
    assert read_bytes(node, file.id) == data
    assert IndexRepository(node.index).summarize_debts() == []


def test_upload_while_a_replica_removes_is_copied_there_afterwards(
    open_node: Opener, replicas: tuple[tuple[str, str], ...], clock: Clock
) -> None:
    """A removal that has begun cannot be stopped, so that the copy comes after it."""
    data = os.urandom(LARGE_BYTES)
    stored: list[str] = []

    def on_step(name: str) -> None:
        if name == "removal.begun" and arm.is_set():
            arm.clear()
            stored.append(store_bytes(node, "second", data).files[0].id)

    arm = threading.Event()
    node = open_node(on_step, replicas=replicas, delete_grace_s=GRACE_S)
    digest = drop(node, clock, data)
    work(node, "primary")
    assert holders(node, digest) == {"replica1", "replica2"}
    clock.advance(seconds=DELAY_S)
    arm.set()
    work(node, "replica1")
    assert holders(node, digest) == {"primary", "replica1", "replica2"}
    assert read_bytes(node, stored[0]) == data
    work(node)
    assert holders(node, digest) == {"primary", "replica1", "replica2"}
    assert IndexRepository(node.index).summarize_debts() == []


def test_copy_waits_for_a_removal_that_somebody_has_begun(node: Services, clock: Clock) -> None:
    """A copy that is found there is none: whoever began to remove it may be about to."""
    data = os.urandom(LARGE_BYTES)
    digest = drop(node, clock, data)
    clock.advance(seconds=DELAY_S)
    index = IndexRepository(node.index)
    (debt,) = index.removals("replica1", [digest])
    node.replication._remover._begin("replica1", [debt])  # and then it hangs
    store_bytes(node, "second", data)
    lock = node.replication._remover._locks["replica1"]
    with lock.hold(timeout_s=0) as held:
        assert held
        work(node, "replica1")
        assert index.find_debt("replica1", DebtKind.BLOB, digest) is not None
        node.stores.replicas["replica1"].remove(digest)
    clock.advance(seconds=600)
    work(node, "replica1")
    clock.advance(seconds=600)
    work(node, "replica1")
    work(node)
    assert holders(node, digest) == set(STORES)
    assert index.summarize_debts() == []


def store_sync(node: Services, data: bytes) -> tuple[str, ...]:
    """Store a file synchronously; return the stores that are said to have it."""
    blob = node.files.new_blob()
    try:
        blob.write(data)
        upload = Upload(blob, "sync", "text/plain")
        return node.files.store([upload], replication="sync").durability.stores
    finally:
        blob.discard()


def test_sync_write_counts_on_no_replica_that_removes_the_blob(
    node: Services, clock: Clock
) -> None:
    """It is acknowledged by the stores on which the bytes will stay."""
    data = os.urandom(LARGE_BYTES)
    digest = drop(node, clock, data)
    clock.advance(seconds=DELAY_S)
    (debt,) = IndexRepository(node.index).removals("replica1", [digest])
    node.replication._remover._begin("replica1", [debt])
    assert store_sync(node, data) == ("primary", "replica2")
    work(node)
    assert holders(node, digest) == set(STORES)


def test_sync_write_puts_the_removal_off_that_has_not_begun(
    node: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it found on a replica stays there until it is committed, however late the removal is."""
    data = os.urandom(LARGE_BYTES)
    digest = drop(node, clock, data)
    clock.advance(seconds=DELAY_S)
    copy_blobs = node.quorum.copy_blobs

    def copy_and_wait(*arguments, **options):
        copied = copy_blobs(*arguments, **options)
        work(node, "replica1", "replica2")
        return copied

    monkeypatch.setattr(node.quorum, "copy_blobs", copy_and_wait)
    monkeypatch.setattr(quorum, "GRACE_S", 30.0)  # else a slow replica is left behind
    assert set(store_sync(node, data)) == set(STORES)
    assert holders(node, digest) == set(STORES)


def test_sync_write_that_took_too_long_is_refused(node: Services) -> None:
    """Copies seen so long ago that they may have been removed since are not believed."""
    blob = node.files.new_blob()
    blob.write(os.urandom(LARGE_BYTES))
    blob.finish()
    seen = node.quorum.copy_blobs([blob], copies=2)
    assert seen is not None

    def submit(holders: Holders) -> tuple[str, ...]:
        upload = ("0" * 26, Upload(blob, "k", "t"))
        command = StoreFiles(uploads=[upload], if_absent=False, is_sound=lambda _: True)
        return node.committer.submit(command, copies=2, holders=holders).stores

    with pytest.raises(QuorumError):
        submit(Holders(seen.names, until_s=0.0))
    assert quorum.HOLD_S < DELAY_S
    assert len(submit(seen)) > 1  # the slower one of the replicas is not waited for
    blob.discard()


def test_replica_keeps_a_blob_until_it_has_the_log_that_dropped_it(
    node: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica is enough to restore what its own log says, so that bytes go after the log came."""
    digest = drop(node, clock, os.urandom(LARGE_BYTES), is_shipped=False)
    clock.advance(seconds=DELAY_S)
    with monkeypatch.context() as behind:
        behind.setattr(node.replication, "_ship", lambda store: 0)
        node.replication.work("replica1", budget_s=0)
    assert "replica1" in holders(node, digest)
    clock.advance(seconds=10)
    work(node, "replica1")
    assert "replica1" not in holders(node, digest)


def test_primary_removes_nothing_while_the_index_is_behind_the_log(
    node: Services, clock: Clock
) -> None:
    """After a crash the log may have put the blob again, and the index not know it yet."""
    digest = drop(node, clock, os.urandom(LARGE_BYTES))
    node.log.control.mark_dirty()
    node.replication.work("primary", budget_s=0)
    assert "primary" in holders(node, digest)
    store_bytes(node, "b", b"b")  # which recovers the tail first
    work(node, "primary")
    assert "primary" not in holders(node, digest)


def test_blobs_survive_any_order_of_uploads_and_collecting(
    open_node: Opener, replicas: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads store and delete the same few bytes while others collect, remove and copy them."""
    monkeypatch.setattr(apply, "REMOVAL_DELAY_MS", 0)
    node = open_node(replicas=replicas, delete_grace_s=0)
    contents = [bytes([number]) * LARGE_BYTES for number in range(3)]
    writing = threading.Event()
    writing.set()
    failures: list[BaseException] = []

    def write(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25):
            data = rng.choice(contents)
            file = store_bytes(node, "a", data).files[0]
            assert read_bytes(node, file.id) == data
            if rng.random() < 0.9:
                node.files.delete(file.id)

    def tidy(name: str) -> None:
        while writing.is_set():
            collect(node)
            node.replication.work(name, budget_s=0)

    def guarded(act, argument) -> None:
        try:
            act(argument)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=guarded, args=(write, seed)) for seed in range(3)]
    tidiers = [threading.Thread(target=guarded, args=(tidy, name)) for name in STORES]
    for thread in (*writers, *tidiers):
        thread.start()
    for thread in writers:
        thread.join()
    writing.clear()
    for thread in tidiers:
        thread.join()
    assert failures == []
    collect(node)
    work(node)
    check_figures(node)
    wanted = {bytes.fromhex(etag) for etag in list_keys(node).values()}
    for store in node.stores.all():
        assert {digest for digest, _ in store.list_blobs()} == wanted


def test_deleted_file_cannot_be_restored_after_its_purge(node: Services, clock: Clock) -> None:
    """What left the trash is gone."""
    file = store_bytes(node, "a", b"a").files[0]
    node.files.delete(file.id)
    clock.advance(seconds=GRACE_S)
    collect(node)
    clock.advance(seconds=-GRACE_S)
    with pytest.raises(NoSuchFileError):
        node.files.restore(file.id)
