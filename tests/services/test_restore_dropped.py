"""Restoring logs of which segments were dropped, on some stores or on all."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.core.errors import DfsError, WalGapError
from dfs.wal.record import DropSegment
from dfs.wal.segment import read_header
from dfs.wal.stub import decode_stub, encode_stub
from tests.services.dropped import decide
from tests.services.replicated import ReplicatedNode, facts, fill, replicate, store_small
from tests.services.test_restore_any_harm import HARMS, STORES, do_harm
from torture.independent import StoredLog, read_log

DROPPED = (1, 2, 3)
COPIES = st.dictionaries(st.sampled_from(STORES), st.sets(st.sampled_from(DROPPED)))


@dataclass(frozen=True)
class Sound:
    """A node whose log says of three segments that they may go, and which all stores have whole.

    Attributes:
        drops: by segment, what dropped it; what was needed of them lies in the segments behind.
        newest: the last segment.
    """

    cluster: ReplicatedNode
    drops: Mapping[int, DropSegment]
    newest: int
    lsn: int

    def path(self, cluster: ReplicatedNode, store: str, number: int) -> Path:
        """Return the file of a segment, the active one included."""
        if (store, number) == ("wal", self.newest):
            return cluster.wal / "wal.active"
        return cluster.segment(number, store)

    def full(self, number: int) -> bytes:
        """Return a segment as it was."""
        return self.cluster.segment(number, "replica1").read_bytes()

    def stub(self, number: int) -> bytes:
        """Return the stub of a segment."""
        header = read_header(self.cluster.segment(number, "replica1"))
        return encode_stub(header, self.drops[number])

    def copy(self, directory: Path, stubs: Mapping[str, set[int]]) -> ReplicatedNode:
        """Return a copy in which these stores have dropped these segments."""
        cluster = ReplicatedNode(directory, f"sqlite:///{directory}/index/index.db")
        shutil.copytree(self.cluster.directory, directory, dirs_exist_ok=True)
        (cluster.wal / "control").unlink()
        for store, numbers in stubs.items():
            for number in numbers:
                self.path(cluster, store, number).write_bytes(self.stub(number))
        return cluster

    def replay(self, directory: Path, end_segment: int, end_offset: int) -> StoredLog:
        """Return what the log says up to a place, read from whole segments alone."""
        segments = directory / "expected"
        segments.mkdir()
        for number in range(1, end_segment + 1):
            data = self.full(number)
            length = end_offset if number == end_segment else len(data)
            (segments / f"{number:010d}.wal").write_bytes(data[:length])
        return read_log(segments)


@pytest.fixture(scope="module")
def sound() -> Iterator[Sound]:
    """A node that has everything on all three stores, closed."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "sound"
        cluster = ReplicatedNode(directory, f"sqlite:///{directory}/index/index.db")
        node = cluster.open()
        fill(node)
        for file in node.files.list(limit=6).files:
            node.files.delete(file.id)
        store_small(node, 2, prefix="more")
        drops = {number: decide(node, number) for number in DROPPED}
        store_small(node, 3, prefix="last")
        replicate(node)
        end = node.log.position
        assert end.segment_id > drops[3].segment_id + 2
        cluster.close()
        yield Sound(cluster, drops, end.segment_id, end.lsn)


@pytest.fixture
def sound_facts(sound: Sound, tmp_path: Path) -> object:
    """What the sound node holds, by an index that was built from whole segments."""
    cluster = sound.copy(tmp_path / "sound", {})
    cluster.lose("index")
    found = facts(cluster.open())
    cluster.close()
    return found


@pytest.mark.parametrize(
    "stubs",
    [
        dict(zip(STORES, (set(DROPPED) & set(chosen) for chosen in choices), strict=True))
        for choices in itertools.product(((), (2,), DROPPED), repeat=3)
    ],
    ids=lambda stubs: "-".join(
        "".join(map(str, sorted(numbers))) or "0" for numbers in stubs.values()
    ),
)
def test_log_lost_is_restored_whatever_each_replica_has_dropped(
    sound: Sound, tmp_path: Path, stubs: dict[str, set[int]]
) -> None:
    """A stub on any replica is used, since the log reaches what it needs; else the segment is."""
    cluster = sound.copy(tmp_path / "lost", stubs)
    cluster.lose("wal")
    restored = cluster.restore()
    assert restored is not None
    assert restored.position.lsn == sound.lsn
    dropped = stubs["replica1"] | stubs["replica2"]
    for number in DROPPED:
        data = cluster.segment(number).read_bytes()
        assert data == (sound.stub(number) if number in dropped else sound.full(number))


def test_node_restored_from_stubs_alone_has_every_file(
    sound: Sound, tmp_path: Path, sound_facts
) -> None:
    """Log, primary and index gone: names, deletions and bytes come back from one replica."""
    cluster = sound.copy(tmp_path / "lost", {"replica1": set(DROPPED)})
    cluster.lose("wal", "index", "primary", "replica2")
    node = cluster.open()
    node.replication.work("primary", budget_s=10)
    assert facts(node) == sound_facts
    cluster.close()


@pytest.mark.parametrize("has_newest", [True, False])
@pytest.mark.parametrize("harm", ["remove", "flip", "cut"])
def test_own_stub_or_segment_that_is_harmed_is_replaced(
    sound: Sound, tmp_path: Path, harm: str, has_newest: bool, sound_facts
) -> None:
    """By a stub where a replica has one, by the segment where none has."""
    stubs = {"wal": {1, 2}, "replica2": {1}}
    cluster = sound.copy(tmp_path / "harmed", stubs)
    for number in DROPPED:
        path = cluster.segment(number)
        do_harm(path, harm, 0.9, path.stat().st_size)
    if not has_newest:
        (cluster.wal / "wal.active").unlink()
    assert cluster.restore() is not None
    assert [decode_stub(cluster.segment(n).read_bytes()) is not None for n in DROPPED] == [
        True,
        False,
        False,
    ]
    cluster.lose("index")
    assert facts(cluster.open()) == sound_facts
    cluster.close()


def test_own_segment_that_is_whole_stays_while_the_log_is_the_nodes_own(
    sound: Sound, tmp_path: Path
) -> None:
    """It is dropped by the debt for it; restoring is for what is lost."""
    cluster = sound.copy(tmp_path / "own", {"replica1": {2}})
    cluster.segment(4).unlink()
    restored = cluster.restore()
    assert restored is not None
    assert restored.segments == (4,)
    assert cluster.segment(2).read_bytes()[:100] == sound.full(2)[:100]


def test_own_segment_gives_way_to_a_stub_when_the_end_of_the_log_is_anothers(
    sound: Sound, tmp_path: Path
) -> None:
    """What has taken away what it put may have been dropped behind it. It is not kept as damage."""
    cluster = sound.copy(tmp_path / "own", {"replica1": {2}})
    (cluster.wal / "wal.active").unlink()
    restored = cluster.restore()
    assert restored is not None
    assert restored.segments == (2, sound.newest)
    assert cluster.segment(2).read_bytes() == sound.stub(2)
    assert not (cluster.wal / "damaged").exists()


def cut_back(sound: Sound, cluster: ReplicatedNode, *stores: str, behind: int) -> None:
    """Let replicas end with a whole segment."""
    for store in stores:
        for number in range(behind + 1, sound.newest + 1):
            sound.path(cluster, store, number).unlink()


def test_stub_is_no_copy_for_a_log_that_ends_before_what_was_moved(
    sound: Sound, tmp_path: Path
) -> None:
    """The segment itself is needed then, from a store that has it."""
    cluster = sound.copy(tmp_path / "short", {"replica1": {2}})
    cut_back(sound, cluster, "replica1", "replica2", behind=4)
    cluster.lose("wal")
    restored = cluster.restore()
    assert restored is not None
    assert restored.position.lsn < sound.drops[2].moved_lsn
    assert cluster.segment(2).read_bytes() == sound.full(2)


def test_log_whose_only_copies_are_stubs_ahead_of_it_is_refused(
    sound: Sound, tmp_path: Path
) -> None:
    """Neither the segment nor what was moved from it is anywhere: the error says so."""
    cluster = sound.copy(tmp_path / "short", {store: {2} for store in STORES})
    cut_back(sound, cluster, *STORES, behind=4)
    cluster.segment(4).unlink()
    needed = f"holds its stub, which needs the log up to LSN {sound.drops[2].moved_lsn}"
    with pytest.raises(WalGapError, match=needed) as refused:
        cluster.restore()
    for name in ("this node", "replica1", "replica2"):
        assert f"{name}: {needed}" in str(refused.value)
    assert not (cluster.wal / "wal.active").exists()


def test_own_stub_ahead_of_a_log_that_lost_its_end_is_not_enough(
    sound: Sound, tmp_path: Path
) -> None:
    """The replicas are behind what was moved, and so have the segment still: it comes back."""
    cluster = sound.copy(tmp_path / "short", {"wal": {2}})
    cut_back(sound, cluster, "wal", "replica1", "replica2", behind=4)
    (cluster.wal / "segments" / "0000000004.wal").unlink()
    restored = cluster.restore()
    assert restored is not None
    assert cluster.segment(2).read_bytes() == sound.full(2)


def test_replica_that_ends_in_stubs_gives_what_is_before_them(sound: Sound, tmp_path: Path) -> None:
    """One that was being caught up: of what its last stubs stand for it has nothing."""
    cluster = sound.copy(tmp_path / "caught", {"replica1": {2, 3}})
    cut_back(sound, cluster, "replica1", behind=3)
    cluster.lose("wal", "replica2")
    restored = cluster.restore(stores=cluster.stores()[:1])
    assert restored is not None
    assert restored.position.segment_id == 1
    assert (cluster.wal / "wal.active").read_bytes() == sound.full(1)


def test_replica_that_ends_in_stubs_does_not_hinder_the_others(
    sound: Sound, tmp_path: Path
) -> None:
    """The newest segment is that of the store which has most."""
    cluster = sound.copy(tmp_path / "caught", {"replica1": {2, 3}})
    cut_back(sound, cluster, "replica1", behind=3)
    cluster.lose("wal")
    restored = cluster.restore()
    assert restored is not None
    assert restored.position.lsn == sound.lsn
    assert cluster.segment(3).read_bytes() == sound.stub(3)


def test_stub_of_another_life_of_the_log_is_not_believed(sound: Sound, tmp_path: Path) -> None:
    """A replica whose newest segment is none of this log has stubs of another one, too."""
    cluster = sound.copy(tmp_path / "lives", {"replica1": {2}})
    cluster.segment(2).unlink()
    path = cluster.segment(sound.newest, "replica1")
    path.rename(cluster.segment(sound.newest + 1, "replica1"))
    restored = cluster.restore()
    assert restored is not None
    assert restored.segments == (2,)
    assert cluster.segment(2).read_bytes() == sound.full(2)


@settings(max_examples=60, deadline=None)
@given(stubs=COPIES, harms=HARMS, is_end_known=st.booleans())
def test_log_with_stubs_restored_after_any_harm_is_right_or_refused(
    sound: Sound, stubs: dict[str, set[int]], harms, is_end_known: bool
) -> None:
    """Whatever each store has dropped, lost or damaged: the restored log says what the whole one
    said at that place, or dfs refuses; never, while one store is unharmed."""
    with tempfile.TemporaryDirectory() as name:
        cluster = sound.copy(Path(name) / "harmed", stubs)
        for store, number, harm, fraction in harms:
            path = sound.path(cluster, store, sound.newest if number == 4 else number)
            if path.exists():
                do_harm(path, harm, fraction, path.stat().st_size)
        try:
            restored = cluster.restore(durable_lsn=sound.lsn if is_end_known else 0)
        except DfsError:
            assert {store for store, _, _, _ in harms} == set(STORES)
            return
        assert restored is not None
        end = restored.position
        assert end.lsn == sound.lsn or not is_end_known
        for number in range(1, end.segment_id):
            data = cluster.segment(number).read_bytes()
            full = sound.full(number)
            if data[: len(full)] != full:
                assert data == sound.stub(number)
                assert sound.drops[number].moved_lsn <= end.lsn
        active = cluster.wal / "wal.active"
        assert active.read_bytes()[: end.offset] == sound.full(end.segment_id)[: end.offset]
        os.truncate(active, end.offset)
        found = read_log(cluster.wal / "segments", active)
        expected = sound.replay(Path(name), end.segment_id, end.offset)
        assert (found.files, found.deleted, found.lsn) == (
            expected.files,
            expected.deleted,
            expected.lsn,
        )
        assert found.blobs.keys() >= {e[0] for file in found.files.values() for e in file.extents}
