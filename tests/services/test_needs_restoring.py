"""Telling at a glance whether a log has to be restored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.restoring import restore_if_needed
from dfs.services.restore import needs_restoring
from tests.services.replicated import ReplicatedNode, facts, fill, flip, replicate, store_small


class DeathError(BaseException):
    """Stands for the death of a process."""


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[ReplicatedNode]:
    """A node with one replica and four segments, closed."""
    cluster = ReplicatedNode(tmp_path, sqlite_url, replicas=1)
    node = cluster.open()
    fill(node)
    replicate(node)
    cluster.close()
    yield cluster
    cluster.close()


def test_needs_restoring_of_a_sound_log_is_none(cluster):
    """A log that is whole by its names, sizes and headers is not restored."""
    assert needs_restoring(cluster.wal) is None


def test_needs_restoring_tells_what_is_wrong(cluster):
    """Each kind of loss is told apart."""
    assert "begins" in needs_restoring(cluster.directory / "nowhere")
    size = cluster.segment(2).stat().st_size
    os.truncate(cluster.segment(2), 5000)
    assert "0000000002.wal is shorter" in needs_restoring(cluster.wal)
    os.truncate(cluster.segment(2), size)
    flip(cluster.segment(1), 20)
    assert "header" in needs_restoring(cluster.wal)
    cluster.segment(1).unlink()
    assert "missing: 1" in needs_restoring(cluster.wal)
    (cluster.wal / "wal.active").unlink()
    assert "newest records are lost" in needs_restoring(cluster.wal)


def test_start_of_a_sound_or_new_node_starts_no_process(cluster, tmp_path, monkeypatch):
    """Restoring costs those nothing who need none."""
    monkeypatch.setattr("subprocess.run", None)
    assert not restore_if_needed(cluster.config)
    other = ReplicatedNode(tmp_path / "new", "sqlite:///unused")
    assert restore_if_needed(other.config)
    assert not other.wal.exists()


def test_log_may_begin_only_where_no_replica_has_one(cluster):
    """A process that died before it had begun the first log left its directory, and no more."""
    cluster.lose("wal", "primary")
    assert not restore_if_needed(cluster.config)
    cluster.lose("wal", "replica1")
    (cluster.wal / "segments").mkdir(parents=True)
    assert restore_if_needed(cluster.config)


def test_start_sweeps_what_a_killed_restoring_left(cluster):
    """Half-built files go at the next start, unless somebody builds them right now."""
    (cluster.wal / "restore").mkdir()
    (cluster.wal / "restore" / "half").write_bytes(b"x")
    restore_if_needed(cluster.config)
    assert not (cluster.wal / "restore").exists()


@pytest.mark.parametrize("step", ["log.next_written", "log.sealed", "log.next_activated"])
def test_log_in_the_middle_of_a_rotation_is_whole(cluster, step):
    """What a process left that died in a rotation is for recovery to complete, not to restore."""

    def die(name: str) -> None:
        if name == step:
            raise DeathError

    node = cluster.open(on_step=die)
    expected = facts(node)
    with pytest.raises(DeathError):
        store_small(node, 4, prefix="more")
    stored = facts(node)[1]
    cluster.close()
    assert needs_restoring(cluster.wal) is None
    assert cluster.restore().segments == ()
    node = cluster.open()
    assert facts(node)[1] == stored
    assert expected[1].items() <= stored.items()


def test_active_segment_lost_in_the_middle_of_a_rotation_is_restored(cluster):
    """`wal.next` alone, its predecessor gone, is no end of the log."""

    def die(name: str) -> None:
        if name == "log.next_written":
            raise DeathError

    node = cluster.open(on_step=die)
    with pytest.raises(DeathError):
        store_small(node, 4, prefix="more")
    replicate(node)
    expected = facts(node)
    cluster.close()
    (cluster.wal / "wal.active").unlink()
    assert (cluster.wal / "wal.next").exists()
    assert "missing: 4" in needs_restoring(cluster.wal)
    assert cluster.restore().segments == (4,)
    assert facts(cluster.open()) == expected
