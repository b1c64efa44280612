"""Dropping segments: on the node, on its replicas, and under the eyes of readers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from dfs.core.errors import (
    BlobMissingError,
    StoreUnavailableError,
    WalCorruptError,
    WalError,
)
from dfs.core.model import DebtKind
from dfs.services.download import Download
from dfs.services.dropping import drop_copy, drop_segment
from dfs.services.shipping import NOWHERE, LogShipper, position_of
from dfs.storage.memory_store import MemoryStore
from dfs.storage.stamp import stamp_of
from dfs.wal.stub import STUB_BYTES_MAX, decode_stub
from dfs.wiring import Services
from tests.services.conftest import list_keys
from tests.services.dropped import compact, decide, find_segment
from tests.services.replicated import (
    ReplicatedNode,
    facts,
    fill,
    flip,
    mend,
    replicate,
    store_small,
)


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[ReplicatedNode]:
    """A node with two replicas, not opened yet."""
    cluster = ReplicatedNode(tmp_path, sqlite_url)
    yield cluster
    cluster.close()


@pytest.fixture
def node(cluster: ReplicatedNode) -> Services:
    """The node, open, with four segments on all stores."""
    node = cluster.open()
    fill(node)
    replicate(node)
    return node


def stub_ids(cluster: ReplicatedNode, store: str = "wal") -> list[int]:
    """Return the segments of which a store has stubs."""
    paths = sorted((cluster.directory / store / "segments").iterdir())
    stubs = [decode_stub(path.read_bytes()) for path in paths]
    return [stub.drop.segment_id for stub in stubs if stub is not None]


def lookup(node: Services, file_id: str) -> Download:
    """Return a file as a reader has it that has only asked the index yet."""
    return node.files.open(file_id)


def test_dropped_segment_is_a_stub_and_every_file_is_still_read(cluster, node):
    """The bytes of the files lie elsewhere; nothing of them is lost, in any process."""
    other = cluster.open()
    expected = list_keys(other)
    drop = decide(node, 2)
    assert list_keys(other) == expected
    assert drop_segment(node.log, drop)
    assert stub_ids(cluster) == [2]
    assert list_keys(node) == list_keys(other) == expected
    assert not (cluster.wal / "restore").exists()


def test_index_rebuilt_from_stubs_alone_has_the_same_files(cluster, node):
    """The log without what was dropped says the same as before, whatever is dropped."""
    compact(node, 1, 3, 2)
    expected = facts(node)
    rows = {row.id: (row.first_lsn, row.last_lsn, row.size_bytes) for row in segments(node)}
    cluster.close()
    cluster.lose("index")
    node = cluster.open()
    assert stub_ids(cluster) == [1, 2, 3]
    assert facts(node) == expected
    assert {r.id: (r.first_lsn, r.last_lsn, r.size_bytes) for r in segments(node)} == rows


def segments(node: Services):
    """Return the sealed segments that the index knows."""
    return node.replication._index.list_segments(limit=100)


def test_index_is_durable_before_the_segment_is_gone(cluster, node):
    """Else a power cut could leave an index that is older than what was dropped."""
    full = cluster.segment(2).read_bytes()
    drop = decide(node, 2)
    seen: list[bool] = []

    def sync() -> None:
        node.index.sync()
        seen.append(cluster.segment(2).read_bytes() == full)

    assert drop_segment(node.log, drop, sync_index=sync)
    assert not drop_segment(node.log, drop, sync_index=sync)
    assert seen == [True]


def test_dropping_twice_does_nothing_more(cluster, node):
    """A job that comes twice finds the stub, and leaves the file as it is."""
    drop = compact(node, 2)[0]
    before = stamp_of(cluster.segment(2).stat())
    assert not drop_segment(node.log, drop)
    assert stamp_of(cluster.segment(2).stat()) == before  # but that it was read


def test_segment_that_is_needed_is_not_dropped(cluster, node):
    """Not the active one, not before the log has what was moved, not another than was meant."""
    drop = decide(node, 2)
    before = cluster.segment(2).read_bytes()
    end = node.log.position
    for change, kind in [
        ({"moved_lsn": end.lsn + 1}, WalError),
        ({"segment_id": end.segment_id}, WalError),
        ({"end": drop.end - 1}, WalCorruptError),
        ({"last_lsn": drop.last_lsn - 1}, WalCorruptError),
        ({"first_lsn": drop.first_lsn + 1}, WalCorruptError),
        ({"segment_id": 3}, WalCorruptError),
    ]:
        with pytest.raises(kind):
            drop_segment(node.log, msgspec.structs.replace(drop, **change))
    assert cluster.segment(2).read_bytes() == before
    flip(cluster.segment(2), 30)
    with pytest.raises(WalCorruptError):
        drop_segment(node.log, drop)


def test_segment_as_short_as_a_stub_stays(cluster, node):
    """Nothing would be gained, and a reader could not tell them apart by their sizes."""
    drop = msgspec.structs.replace(decide(node, 2), end=STUB_BYTES_MAX)
    assert not drop_segment(node.log, drop)
    assert stub_ids(cluster) == []


def test_damaged_segment_is_dropped_all_the_same(cluster, node):
    """Damage to what is not needed any more does not matter."""
    drop = decide(node, 2)
    flip(cluster.segment(2), 60_000)
    expected = list_keys(node)
    assert drop_segment(node.log, drop)
    assert list_keys(node) == expected


def test_mending_leaves_a_stub_that_is_whole_alone(cluster, node):
    """Nothing is to be mended where the segment is not needed, even if a replica has it still."""
    compact(node, 2)
    before = stamp_of(cluster.segment(2).stat())
    assert not mend(node, 2)
    assert stamp_of(cluster.segment(2).stat()) == before  # but that it was read
    assert not (cluster.wal / "damaged").exists()


# Readers


def test_reader_whose_bytes_were_moved_looks_again(cluster, node):
    """Between asking the index and reading, the segment was dropped: the file is read whole."""
    expected = list_keys(node)
    damage: list[object] = []
    node.files._damage.note_segment = lambda *seen: damage.append(seen)
    node.files._damage.note_rescue = damage.append
    downloads = {file_id: lookup(node, file_id) for file_id in expected}
    compact(node, 1, 2, 3)
    node.log.open_segments.clear()
    for file_id, download in downloads.items():
        data = b"".join(download.read(0, download.file.size))
        assert hashlib.sha256(data).hexdigest() == expected[file_id]
        whole = download.read_all()
        assert whole is None or whole == data
        download.close()
    assert damage == []


def test_reader_whose_bytes_were_moved_twice_looks_twice(cluster, node):
    """What was looked up again may be moved again meanwhile."""
    file_id = store_small(node)[0]
    download = lookup(node, file_id)
    place = node.files._index.find_blob(download.file.digest)
    store_small(node, 5, prefix="fill")
    looked: list[int] = []

    def find_late(digest: bytes):
        found = node.files._index.find_blob(digest)
        if not looked:
            store_small(node, 5, prefix="more")
            compact(node, found.segment_id)
            node.log.open_segments.clear()
        looked.append(found.segment_id)
        return found

    download._find_blob = find_late
    compact(node, place.segment_id)
    node.log.open_segments.clear()
    assert download.read_all() is not None
    assert len(looked) == 2
    assert looked[0] != looked[1]


def test_reader_of_a_file_that_is_gone_for_good_is_told_so(cluster, node):
    """The index has no other place: it is an error, but no damage that anybody has to mend."""
    file_id = store_small(node)[0]
    segment_id = node.log.position.segment_id
    download = lookup(node, file_id)
    download._find_blob = lambda digest: None
    store_small(node, 5, prefix="fill")
    compact(node, segment_id)
    node.log.open_segments.clear()
    with pytest.raises(BlobMissingError):
        download.read_all()
    summary = node.replication._index.summarize_debts()
    assert not any(owed.kind is DebtKind.SEGMENT for owed in summary)


def test_bytes_that_a_replica_has_still_are_read_there(cluster, node):
    """Even of a file that is gone: whoever had opened it gets it, as long as anybody has it."""
    file_id = store_small(node)[0]
    segment_id = node.log.position.segment_id
    store_small(node, 5, prefix="fill")
    replicate(node)
    download = lookup(node, file_id)
    download._find_blob = lambda digest: None
    compact(node, segment_id)
    node.log.open_segments.clear()
    assert hashlib.sha256(download.read_all()).digest() == download.file.digest


def test_readers_never_notice_that_segments_are_dropped(cluster, node):
    """Files are read all the while, here and in another process, and every byte is right."""
    other = cluster.open()
    expected = list_keys(node)
    is_over = threading.Event()

    def read_on(services: Services) -> int:
        rounds = 0
        while not is_over.is_set() or not rounds:
            assert list_keys(services) == expected
            rounds += 1
            services.log.open_segments.clear()
        return rounds

    with ThreadPoolExecutor(4) as threads:
        rounds = [threads.submit(read_on, services) for services in (node, other) * 2]
        segment_id = 1
        while segment_id < 12:
            if segment_id < node.log.position.segment_id:
                compact(node, segment_id)
            segment_id += 1
        is_over.set()
        assert all(done.result() for done in rounds)
    assert len(stub_ids(cluster)) > 5


# Replicas


def position(node: Services, name: str):
    """Return up to where a replica has the log."""
    return position_of(node.replication._index.store_states()[name])


def test_copy_is_dropped_when_the_replica_has_what_was_moved(cluster, node):
    """Before that, the replica alone could not bring back what the segment held."""
    store = node.stores.replicas["replica1"]
    full = cluster.segment(2, "replica1").read_bytes()
    drop = decide(node, 2)
    replicate(node, "replica1")
    assert not drop_copy(node.log, store, 2, position(node, "replica1"))  # the node has it itself
    assert drop_segment(node.log, drop)
    for lsn in (0, drop.moved_lsn - 1):
        early = msgspec.structs.replace(position(node, "replica1"), lsn=lsn)
        assert not drop_copy(node.log, store, 2, early)
    assert cluster.segment(2, "replica1").read_bytes() == full
    assert drop_copy(node.log, store, 2, position(node, "replica1"))
    assert cluster.segment(2, "replica1").read_bytes() == cluster.segment(2).read_bytes()
    assert drop_copy(node.log, store, 2, position(node, "replica1"))


def test_replica_that_does_not_give_the_stub_back_has_failed(cluster, node):
    """A stub counts when it was read from the disk again."""

    class Forgetful(MemoryStore):
        def put_segment(self, segment_id: int, pieces) -> None:
            super().put_segment(segment_id, [b"".join(pieces)[:-1]])

    compact(node, 2)
    with pytest.raises(StoreUnavailableError, match="does not give back"):
        drop_copy(node.log, Forgetful(), 2, node.log.position)


def test_replica_is_shipped_stubs_in_the_place_of_what_was_dropped(cluster, node):
    """A new replica, one that was away, and one that is as far as the log: each ends with the
    node's log, and the one that has the segments keeps them until its debt is paid."""
    store_small(node, 12, prefix="more")
    replicate(node, "replica1")
    full = {n: cluster.segment(n, "replica2").read_bytes() for n in (1, 2)}
    active = node.log.position.segment_id
    compact(node, 2, 5, 6)
    replicate(node)
    assert stub_ids(cluster, "replica1") == []
    assert stub_ids(cluster, "replica2") == [5, 6]
    assert {n: cluster.segment(n, "replica2").read_bytes() for n in (1, 2)} == full
    for name in ("replica1", "replica2"):
        assert drop_copy(node.log, node.stores.replicas[name], 2, position(node, name))
    for number in range(1, active):
        copies = [cluster.segment(number, name).read_bytes() for name in ("wal", "replica2")]
        end = min(map(len, copies))
        assert copies[0][:end] == copies[1][:end]
    cluster.close()
    cluster.lose("replica1")
    (cluster.directory / "replica1").mkdir()
    node = cluster.open()
    replicate(node, "replica1")
    assert stub_ids(cluster, "replica1") == [2, 5, 6]


def test_segment_that_a_replica_has_in_part_becomes_a_stub_on_it(cluster, node):
    """A position inside a segment that was dropped meanwhile goes on behind it."""
    store_small(node, 1, prefix="part")
    replicate(node)
    assert position(node, "replica1").segment_id == 4
    store_small(node, 5, prefix="more")
    compact(node, 4)
    replicate(node)
    for name in ("replica1", "replica2"):
        assert cluster.segment(4, name).read_bytes() == cluster.segment(4).read_bytes()
    assert stub_ids(cluster, "replica1") == [4]


def test_find_segment_of_a_dropped_one_keeps_its_header(cluster, node):
    """The stub has the header that the segment had, so the chain of headers is whole."""
    before = find_segment(node, 2).header
    compact(node, 2)
    assert find_segment(node, 2).header == before


# Operators


def test_inspection_tells_of_dropped_segments(cluster, node):
    """The list says which are dropped and what they take; reading one finds its record."""
    drop = compact(node, 2)[0]
    listed = {segment.id: segment for segment in node.wal_inspection.segments()}
    active = node.log.position.segment_id
    assert [s.state for s in listed.values()] == [
        "dropped" if number == 2 else "active" if number == active else "sealed"
        for number in range(1, active + 1)
    ]
    assert listed[2].size_bytes == cluster.segment(2).stat().st_size
    assert (listed[2].first_lsn, listed[2].last_lsn) == (drop.first_lsn, drop.last_lsn)
    report = node.wal_inspection.inspect(2)
    assert (report.outcome, report.records) == ("clean", {"DropSegment": 1})
    assert report.segment == listed[2]
    entries = node.wal_inspection.entries(after=drop.first_lsn - 1, limit=2)
    assert [entry.lsn for entry in entries] == [drop.first_lsn, drop.last_lsn + 1]
    assert entries[0].meta["moved_lsn"] == drop.moved_lsn


def test_inspection_of_a_damaged_stub_says_so(cluster, node):
    """A stub is read and checked like any segment."""
    compact(node, 2)
    flip(cluster.segment(2), 150)
    report = node.wal_inspection.inspect(2)
    assert (report.outcome, report.records) == ("corrupt", {})


def test_segment_dropped_while_it_is_shipped_is_shipped_as_it_was(cluster, node):
    """The file that was begun is read to its end, and no byte of the stub gets between."""
    store_small(node, 5, prefix="more")
    full = cluster.segment(4).read_bytes()[: find_segment(node, 4).end]
    drop = decide(node, 4)

    class Slow(MemoryStore):
        def append_segment(self, segment_id: int, offset: int, data) -> None:
            if segment_id == 4 and not offset:
                assert drop_segment(node.log, drop)
            super().append_segment(segment_id, offset, data)

    store = Slow()
    shipper = LogShipper(log=node.log)
    position = NOWHERE
    while position != node.log.position:
        position = shipper.ship(store, position, bytes_max=1).position
    assert store.read_segment(4, 0, 1 << 20) == full
    assert drop_copy(node.log, store, 4, position)
    assert store.read_segment(4, 0, 1 << 20) == cluster.segment(4).read_bytes()
