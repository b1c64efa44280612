"""Restoring and mending, killed with -9 at each step and begun again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.services.dropping import drop_copy, drop_segment
from dfs.wal.stub import decode_stub
from tests.forked import run_forked
from tests.services import restore_child
from tests.services.dropped import compact, decide
from tests.services.replicated import (
    ReplicatedNode,
    facts,
    fill,
    flip,
    mend,
    replicate,
)

pytestmark = pytest.mark.crash

STEPS_OF_ALL = [
    ("restore.newest_built", 1),
    ("restore.sealed_built", 1),
    ("restore.sealed_built", 3),
    ("restore.renamed", 1),
    ("restore.placed", 2),
    ("restore.control_reset", 1),
    ("restore.renamed", 4),
    ("restore.placed", 4),
]
STEPS_OF_SOME = [
    ("restore.damaged_kept", 1),
    ("restore.renamed", 1),
    ("restore.control_reset", 1),
    ("restore.damaged_kept", 2),
    ("restore.renamed", 2),
]


STEPS_OF_DROPPED = [
    ("restore.sealed_built", 1),
    ("restore.renamed", 1),
    ("restore.placed", 3),
    ("restore.control_reset", 1),
]


def run_until_killed(cluster: ReplicatedNode, step: str, count: int, *segments: int) -> None:
    """Restore, or mend a segment, in a process that is killed at its `count`th `step`."""
    arguments = (cluster.directory, cluster.config.database_url, step, count, *segments)
    child = run_forked(restore_child.main, *arguments)
    assert child.status == -signal.SIGKILL, child.stderr.decode()


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[ReplicatedNode]:
    """A node with two replicas that hold everything, open."""
    cluster = ReplicatedNode(tmp_path, sqlite_url)
    node = cluster.open()
    fill(node)
    replicate(node)
    yield cluster
    cluster.close()


@pytest.mark.parametrize(("step", "count"), STEPS_OF_ALL)
def test_restoring_all_killed_at_a_step_is_done_by_the_next_start(cluster, step, count):
    """A node that is rebuilt as a whole and killed meanwhile is rebuilt by the next start."""
    expected = facts(cluster.open())
    cluster.close()
    cluster.lose()
    run_until_killed(cluster, step, count)
    assert facts(cluster.open()) == expected
    assert not (cluster.wal / "restore").exists()


@pytest.mark.parametrize(("step", "count"), STEPS_OF_SOME)
def test_restoring_some_killed_at_a_step_loses_no_record(cluster, step, count):
    """Damaged files, with records that no replica has, are there until they are replaced."""
    node = cluster.open()
    node.files.delete(node.files.list(limit=1).files[0].id)
    expected = facts(node)
    cluster.close()
    flip(cluster.segment(2), 60_000)
    flip(cluster.wal / "wal.active", 500)
    (cluster.wal / "control").unlink()
    run_until_killed(cluster, step, count)
    cluster.restore()
    cluster.lose("index")
    assert facts(cluster.open()) == expected
    assert (cluster.wal / "damaged").exists()


@pytest.mark.parametrize(
    ("step", "segment_id"),
    [
        ("mend.built", 2),
        ("mend.kept", 2),
        ("mend.placed", 2),
        ("mend.built", 4),
        ("mend.placed", 4),
    ],
)
def test_mending_killed_at_a_step_is_done_by_the_next(cluster, step, segment_id):
    """Mending that was cut off is begun again and done, whoever reads and writes meanwhile."""
    node = cluster.open()
    expected = facts(node)
    path = cluster.segment(2) if segment_id == 2 else cluster.wal / "wal.active"
    flip(path, 1000)
    run_until_killed(cluster, step, 1, segment_id)
    assert mend(node, segment_id) is (step != "mend.placed")
    assert facts(node) == expected


@pytest.mark.parametrize(("step", "count"), STEPS_OF_DROPPED)
def test_restoring_dropped_segments_killed_at_a_step_is_done_by_the_next(cluster, step, count):
    """Stubs are put in their places one by one, like segments."""
    node = cluster.open()
    compact(node, 1, 2)
    replicate(node)
    for number in (1, 2):
        assert drop_copy(node.log, node.stores.replicas["replica2"], number, node.log.position)
    expected = facts(node)
    cluster.close()
    cluster.lose()
    run_until_killed(cluster, step, count)
    assert facts(cluster.open()) == expected
    assert cluster.segment(2).read_bytes() == cluster.segment(2, "replica2").read_bytes()


@pytest.mark.parametrize("step", ["drop.written", "drop.renamed", "drop.placed"])
def test_dropping_killed_at_a_step_leaves_the_segment_or_its_stub(cluster, step):
    """There is never a moment without one of them, and the next try does what is left."""
    node = cluster.open()
    full = cluster.segment(2).read_bytes()
    drop = decide(node, 2)
    expected = facts(node)
    cluster.close()
    run_until_killed(cluster, step, 1, 2)
    left = cluster.segment(2).read_bytes()
    assert (left == full) is (step == "drop.written")
    assert (decode_stub(left) is not None) is (step != "drop.written")
    node = cluster.open()
    assert facts(node) == expected
    assert not (cluster.wal / "restore").exists()
    assert drop_segment(node.log, drop) is (step == "drop.written")
    cluster.close()
    cluster.lose("index")
    assert facts(cluster.open()) == expected
