"""What a node says about its own parts."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from dfs.core.clock import now_ms
from dfs.core.model import Debt
from dfs.services import readiness
from dfs.services.breaker import OPEN_AFTER
from dfs.wiring import Services
from tests.project.chaos_clients import wait_until
from tests.services.conftest import Opener, store_bytes


def test_reasons_of_an_index_behind_the_log_tell_how_far(node: Services) -> None:
    """An index that lost its newest transactions is told with what it lacks, until it is mended."""
    for name in ("a", "b", "c"):
        store_bytes(node, name, name.encode())
    with node.index.begin() as index:
        state = index.node_state
        assert state is not None
        index.set_node_state(structs.replace(state, applied_lsn=node.log.position.lsn - 4))
        index.commit()

    assert node.health.reasons()["index"] == ("the index lacks 4 records; the next write adds them")
    store_bytes(node, "d", b"d")
    assert node.health.reasons()["index"] is None


def change_replica(node: Services, **changes: object) -> None:
    """Change what the index says of the one replica, and forget what was looked up lately."""
    with node.ledger.begin() as index:
        state = index.store_states()["replica1"]
        index.put_store_state(replace(state, **changes))
    node.replicas._looked_s = 0


def test_reasons_name_stores_that_are_out_of_service(open_node: Opener, tmp_path: Path) -> None:
    """Whether the next attempt is due or not; a failure or two are none."""
    node = open_node(replicas=(("replica1", str(tmp_path / "replica1")),))
    assert node.health.reasons()["replicas"] is None
    change_replica(node, failures=OPEN_AFTER - 1, retry_at_ms=now_ms() + 20_000)
    assert node.health.reasons()["replicas"] is None
    for retry_at_ms in (0, now_ms() + 20_000):
        change_replica(node, failures=OPEN_AFTER, retry_at_ms=retry_at_ms)
        assert node.health.reasons()["replicas"] == "replica1 is out of service"


def test_reasons_name_stores_that_owe_for_long(open_node: Opener, tmp_path: Path) -> None:
    """A quarter of an hour is more than being busy; the primary's mends count like copies."""
    node = open_node(replicas=(("replica1", str(tmp_path / "replica1")),))
    node.ledger.owe([Debt.of_blob("replica1", bytes(32), 1, now_ms() - 14 * 60_000)])
    assert node.health.reasons()["replicas"] is None
    node.ledger.owe([Debt.of_blob("primary", bytes(32), 1, now_ms() - 16 * 60_000)])
    change_replica(node)
    reason = node.health.reasons()["replicas"]
    assert reason is not None
    assert re.fullmatch(r"primary is 96\d s behind", reason)


def test_reasons_tell_of_changes_that_wait_for_long(
    node: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a quorum may take; until they are made."""
    change = threading.Thread(target=store_bytes, args=(node, "a", b"a"))
    with node.log.lock():
        change.start()
        assert wait_until(lambda: node.committer.tickets.led_s() > 0, timeout_s=10, pause_s=0.001)
        assert node.health.reasons()["log"] is None
        monkeypatch.setattr(readiness, "COMMIT_S_MAX", -node.config.quorum_timeout_s)
        assert "have waited" in str(node.health.reasons()["log"])
    change.join(timeout=10)
    assert node.committer.tickets.led_s() == 0
    assert node.health.reasons()["log"] is None
