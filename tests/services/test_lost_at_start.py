"""A node whose primary is lost in the very moment in which a process opens it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import dfs.restoring
import dfs.wiring
from dfs.core.config import Config
from dfs.core.errors import DfsError
from tests.services.replicated import Facts, ReplicatedNode, facts, replicate, store_small
from workers import restore

PROGRAM = str(Path(dfs.restoring.__file__).parent)
CALLS_BETWEEN = 23
"""Opening a node makes some 1,300 calls and returns; the primary is lost at so many of them."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ReplicatedNode]:
    """A closed node with one file, and so with one commit on the replicas.

    Where there are more of them, a log begun anew is noticed afterwards, too late to help.
    """
    directory = tmp_path / "node"
    cluster = ReplicatedNode(directory, f"sqlite:///{directory}/index/dfs.db")
    node = cluster.open()
    store_small(node)
    replicate(node)
    cluster.close()
    yield cluster
    cluster.close()


def test_log_that_is_lost_behind_the_first_look_is_restored_and_not_begun_anew(
    cluster: ReplicatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new, empty log would tell of all files that there are none, and take others in."""
    expected = _read(cluster)
    look = dfs.wiring.restore_if_needed

    def look_then_lose(config: Config) -> bool:
        found = look(config)
        monkeypatch.undo()
        cluster.lose()
        return found

    monkeypatch.setattr(dfs.wiring, "restore_if_needed", look_then_lose)
    assert _read(cluster) == expected


@pytest.mark.slow
def test_loss_at_any_moment_of_a_start_hides_nothing(
    cluster: ReplicatedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that opens the node has all files, or refuses; the next one has them."""
    monkeypatch.setattr(dfs.restoring, "_run", _restore_here)
    expected = _read(cluster)
    whole = tmp_path / "whole"
    cluster.directory.rename(whole)
    outcomes: list[str] = []
    while True:
        shutil.copytree(whole, cluster.directory)
        with _at_call(1 + CALLS_BETWEEN * len(outcomes), cluster.lose) as happened:
            try:
                node = cluster.open()
            except DfsError as error:
                outcomes.append(error.code)
            else:
                outcomes.append("opened")
        if not happened:
            break
        if outcomes[-1] == "opened":
            assert facts(node) == expected, happened
        cluster.close()
        assert _read(cluster) == expected, happened
        shutil.rmtree(cluster.directory)
    assert {"opened", "wal_read_only"} < set(outcomes)


def _read(cluster: ReplicatedNode) -> Facts:
    """Open the node, and return what it knows."""
    try:
        return facts(cluster.open())
    finally:
        cluster.close()


@contextmanager
def _at_call(number: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Act at a call or a return of a function of dfs, counted from here. Yields where it was."""
    happened: list[str] = []
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if event in ("call", "return") and frame.f_code.co_filename.startswith(PROGRAM):
            count += 1
            if count == number:
                sys.setprofile(None)
                happened.append(f"{event} {frame.f_code.co_qualname}")
                act()

    sys.setprofile(profile)
    try:
        yield happened
    finally:
        sys.setprofile(None)


def _restore_here(
    config: Config, program: str, durable_lsn: int = 0
) -> subprocess.CompletedProcess[str]:
    """Do in this process what the program does that restores a log: it takes half a second less."""
    assert program == dfs.restoring.RESTORE
    restored = restore.restore(config, durable_lsn=durable_lsn)
    status = dfs.restoring.NO_LOG_STATUS if restored is None else 0
    return subprocess.CompletedProcess([], status, stdout=restore.describe(restored), stderr="")
