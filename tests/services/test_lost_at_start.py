"""A node whose primary is lost in the very moment in which a process opens it."""

from __future__ import annotations

from pathlib import Path

import pytest

import dfs.wiring
from dfs.core.config import Config
from tests.services.replicated import ReplicatedNode, facts, replicate, store_small


def test_log_that_is_lost_behind_the_first_look_is_restored_and_not_begun_anew(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new, empty log would tell of all files that there are none, and take others in.

    One commit on the replicas, since more of them would be noticed afterwards, too late to help.
    """
    cluster = ReplicatedNode(tmp_path, sqlite_url)
    node = cluster.open()
    store_small(node)
    replicate(node)
    expected = facts(node)
    cluster.close()
    look = dfs.wiring.restore_if_needed
    losses = [cluster.lose]

    def look_then_lose(config: Config) -> bool:
        found = look(config)
        if losses:
            losses.pop()()
        return found

    monkeypatch.setattr(dfs.wiring, "restore_if_needed", look_then_lose)
    assert facts(cluster.open()) == expected
    assert not losses
    cluster.close()
