"""Restoring after any harm to any of the stores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.core.errors import DfsError
from tests.services.replicated import ReplicatedNode, fill, flip, replicate

LSN = 35
STORES = ("wal", "replica1", "replica2")
HARMS = st.lists(
    st.tuples(
        st.sampled_from(STORES),
        st.integers(1, 4),
        st.sampled_from(["remove", "cut", "flip"]),
        st.floats(0, 0.999),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def sound() -> Iterator[ReplicatedNode]:
    """A node whose log of four segments, up to LSN, all three stores have."""
    with tempfile.TemporaryDirectory() as name:
        cluster = ReplicatedNode(Path(name) / "sound", f"sqlite:///{name}/index.db")
        node = cluster.open()
        fill(node)
        replicate(node)
        assert node.log.position.lsn == LSN
        cluster.close()
        yield cluster


def segment_path(cluster: ReplicatedNode, store: str, number: int) -> Path:
    """Return the file of a segment, the active one included."""
    if (store, number) == ("wal", 4):
        return cluster.wal / "wal.active"
    return cluster.segment(number, store)


def do_harm(path: Path, harm: str, fraction: float, size: int) -> None:
    """Harm a file at some place of what is the log in it."""
    if not path.exists():
        return
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, int(fraction * size))
    elif path.stat().st_size > int(fraction * size):
        flip(path, int(fraction * size))


@settings(max_examples=40, deadline=None)
@given(harms=HARMS, is_end_known=st.booleans())
def test_log_restored_after_any_harm_is_right_or_refused(sound, harms, is_end_known):
    """What is restored is what was there, byte for byte, or a beginning of it where nothing says
    how long it was; dfs refuses only where no store is whole."""
    expected = {n: sound.segment(n, "replica1").read_bytes() for n in range(1, 5)}
    harmed_stores = {store for store, _, _, _ in harms}
    with tempfile.TemporaryDirectory() as name:
        cluster = ReplicatedNode(Path(name) / "harmed", f"sqlite:///{name}/index.db")
        shutil.copytree(sound.directory, cluster.directory)
        (cluster.wal / "control").unlink()
        for store, number, harm, fraction in harms:
            path = segment_path(cluster, store, number)
            do_harm(path, harm, fraction, len(expected[number]))
        try:
            restored = cluster.restore(durable_lsn=LSN if is_end_known else 0)
        except DfsError:
            assert harmed_stores == set(STORES)
            return
        assert restored is not None
        end = restored.position
        assert end.lsn == LSN or not is_end_known
        for number in range(1, end.segment_id):
            data = cluster.segment(number).read_bytes()
            assert data[: len(expected[number])] == expected[number]
        active = (cluster.wal / "wal.active").read_bytes()[: end.offset]
        assert active == expected[end.segment_id][: end.offset]
