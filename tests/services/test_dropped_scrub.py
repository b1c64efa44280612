"""Scrub and mending of logs in which segments were dropped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from dfs.core.model import DebtKind
from dfs.services.dropping import drop_copy
from dfs.services.shipping import position_of
from dfs.services.survey import Cursor, Manner
from dfs.services.verification import Fault, drain
from dfs.wal.record import DropSegment
from dfs.wal.stub import encode_stub
from tests.services.conftest import Opener, list_keys
from tests.services.dropped import compact, find_segment
from tests.services.stores_rig import Damage, Rig, build_rig, cut_end, fill, flip_byte

STORES = ("primary", "replica1", "replica2")
UNIT = (1).to_bytes(8, "big")
DAMAGES: dict[str, Damage] = {
    "header": lambda path: flip_byte(path, 20),
    "record": lambda path: flip_byte(path, 150),
    "cut": lambda path: cut_end(path, 1),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture
def index_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.fixture
def rig(open_node: Opener, tmp_path: Path) -> Rig:
    """A node with two replicas that hold two sealed segments."""
    replicas = [(name, str(tmp_path / name)) for name in STORES[1:]]
    rig = build_rig(open_node(replicas=tuple(replicas)))
    fill(rig, blobs=1)
    return rig


@pytest.fixture
def full(rig: Rig) -> bytes:
    """Segment 1, as it was before it was dropped."""
    return rig.segment_path("primary", 1).read_bytes()


@pytest.fixture
def drop(rig: Rig, full: bytes) -> DropSegment:
    """What dropped segment 1 on the primary and replica2; replica1 owes it still."""
    drop = compact(rig.node, 1)[0]
    rig.replicate()
    pay(rig, "replica2")
    return drop


def pay(rig: Rig, name: str) -> None:
    """Have a replica drop segment 1, too."""
    position = position_of(rig.state(name))
    assert drop_copy(rig.node.log, rig.node.stores.replicas[name], 1, position)


def faults(rig: Rig, name: str, *, full: bool = True) -> list[Fault]:
    """Return what a look at a store finds."""
    steps = rig.survey.walk(rig.store(name), Cursor(), Manner(full=full))
    return [step.finding.fault for step in steps if step.finding is not None]


def test_scrub_finds_nothing_wrong_with_stubs_nor_with_who_owes_one(rig: Rig, drop) -> None:
    """The stub is whole, and so is the full segment of a replica that has not dropped it yet."""
    for name in STORES:
        assert faults(rig, name) == faults(rig, name, full=False) == []
        assert rig.scrub_all(name).scrub.last_damaged == 0
        assert rig.owed(name) == set()


def test_scrub_takes_no_time_for_what_was_dropped(rig: Rig, drop) -> None:
    """The scrub is paid by the byte: those of a stub are not counted as its segment's."""
    steps = [list(rig.survey.walk(rig.store(name), Cursor(), Manner())) for name in STORES[1:]]
    read_bytes = [sum(step.read_bytes for step in walked) for walked in steps]
    passed_bytes = [sum(step.passed_bytes for step in walked) for walked in steps]
    assert read_bytes[0] - read_bytes[1] == passed_bytes[1] - passed_bytes[0] == drop.end


@pytest.mark.parametrize("name", ["primary", "replica2"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_scrub_damaged_stub_is_found_and_mended(rig: Rig, drop, name: str, damage: Damage) -> None:
    """A stub is no worse looked after than a segment, on every store."""
    path = rig.segment_path(name, 1)
    stub = path.read_bytes()
    damage(path)
    expected = list_keys(rig.node)
    assert rig.scrub_all(name).scrub.last_damaged == 1
    assert rig.owed(name) == {(DebtKind.SEGMENT, UNIT)}
    rig.replicate()
    assert path.read_bytes() == stub
    assert rig.owed(name) == set()
    assert rig.scrub_all(name).scrub.last_damaged == 0
    assert list_keys(rig.node) == expected


def test_scrub_segment_that_comes_back_whole_is_dropped_again(
    rig: Rig, drop: DropSegment, full: bytes
) -> None:
    """The one replica that answers lags, and has no stub to give: the segment must not stay."""
    path = rig.segment_path("primary", 1)
    stub = path.read_bytes()
    path.unlink()
    shutil.rmtree(rig.store("replica2").path)
    rig.scrub_all("primary")
    rig.node.replication.work("primary", budget_s=0)
    assert path.read_bytes()[: drop.end] == full[: drop.end]
    assert rig.owed("primary") == {(DebtKind.DROP_SEGMENT, UNIT)}
    rig.node.replication.work("primary", budget_s=5)
    assert len(path.read_bytes()) == len(stub)
    assert rig.owed("primary") == set()
    assert faults(rig, "primary") == []


def test_scrub_damage_to_a_segment_that_is_to_be_dropped_is_mended_by_the_stub(
    rig: Rig, drop
) -> None:
    """The node has nothing else to give, and nothing else is needed."""
    path = rig.segment_path("replica1", 1)
    flip_byte(path, 500_000)
    assert rig.scrub_all("replica1").scrub.last_damaged == 1
    rig.replicate()
    assert path.read_bytes() == rig.segment_path("primary", 1).read_bytes()
    assert rig.scrub_all("replica1").scrub.last_damaged == 0


def test_scrub_stub_of_a_replica_whose_log_has_what_was_moved_is_whole(
    rig: Rig, drop, full: bytes
) -> None:
    """Even if the node has the segment itself again, from another copy."""
    rig.segment_path("primary", 1).write_bytes(full)
    for name in STORES:
        assert faults(rig, name) == []


@pytest.mark.parametrize(("name", "turns"), [("primary", 1), ("replica2", 2)])
def test_scrub_stub_that_is_ahead_of_the_log_is_no_copy(
    rig: Rig, drop, full: bytes, name: str, turns: int
) -> None:
    """What it says was moved is not in this log: the segment itself is needed, and fetched.

    To mend the primary takes one turn, and the next one drops the segment anew.
    """
    ahead = msgspec.structs.replace(drop, moved_lsn=rig.node.log.position.lsn + 1)
    header = find_segment(rig.node, 1).header
    for store in STORES:
        rig.segment_path(store, 1).write_bytes(full)
    path = rig.segment_path(name, 1)
    path.write_bytes(encode_stub(header, ahead))
    assert faults(rig, name) == faults(rig, name, full=False) == [Fault.WRONG_SIZE]
    assert rig.scrub_all(name).scrub.last_damaged == 1
    for _ in range(turns):
        rig.node.replication.work(name, budget_s=0)
    assert path.read_bytes()[: drop.end] == full[: drop.end]
    rig.replicate()
    assert faults(rig, name) == []


def test_scrub_stub_of_a_replica_that_is_being_caught_up_is_whole(rig: Rig, drop) -> None:
    """It has the stub that the node has, and lacks what was moved for a while."""
    state = rig.state("replica2")
    behind = replace(state, lsn=drop.moved_lsn - 1)
    with rig.node.ledger.begin() as index:
        index.put_store_state(behind)
    segments = rig.survey.segments
    store = rig.store("replica2")
    span = segments.find_span(store, 1)
    assert span is not None
    assert drain(segments.read(store, span)) is None
    flip_byte(rig.segment_path("primary", 1), 150)
    assert drain(segments.read(store, span)) is not None


def test_scrub_damaged_segment_counts_a_stub_elsewhere_as_whole(rig: Rig, drop) -> None:
    """So the damaged one is put aside: nobody needs it any more."""
    flip_byte(rig.segment_path("replica1", 1), 500_000)
    rig.scrub_all("replica1")
    assert rig.put_aside("replica1") == ["0000000001.wal"]
