"""What a node says about its own parts."""

from __future__ import annotations

from dataclasses import replace

from dfs.wiring import Services
from tests.services.conftest import store_bytes


def test_reasons_of_an_index_behind_the_log_tell_how_far(node: Services) -> None:
    """An index that lost its newest transactions is told with what it lacks, until it is mended."""
    for name in ("a", "b", "c"):
        store_bytes(node, name, name.encode())
    with node.index.begin() as index:
        state = index.node_state
        assert state is not None
        index.set_node_state(replace(state, applied_lsn=node.log.position.lsn - 4))
        index.commit()

    assert node.health.reasons()["index"] == ("the index lacks 4 records; the next write adds them")
    store_bytes(node, "d", b"d")
    assert node.health.reasons()["index"] is None
