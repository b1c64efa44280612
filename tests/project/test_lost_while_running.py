"""A whole node whose primary is lost while it runs, with nobody there to restart it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.project.chaos_clients import wait_until
from tests.project.nodes import RunningNode, running_node

PATIENCE_S = 60.0


@pytest.mark.integration
@pytest.mark.crash
@pytest.mark.slow
def test_node_that_lost_its_primary_restores_itself_while_it_runs(tmp_path: Path) -> None:
    """Each process that has outlived its log ends; those after it serve what the replicas have."""
    with running_node(tmp_path, DFS_REPLICATION="sync") as node:
        old = _store(node, "old", b"old")
        workers = _web_workers(node)
        for name in ("wal", "primary"):
            shutil.rmtree(tmp_path / "data" / name, ignore_errors=True)
        for path in (tmp_path / "data").glob("dfs.db*"):
            path.unlink()

        def is_reborn() -> bool:
            status, _ = node.request("GET", f"/download/{old}")
            assert status in (200, 503)
            return not workers & _web_workers(node) and node.request("GET", "/ready")[0] == 200

        assert wait_until(is_reborn, timeout_s=PATIENCE_S, pause_s=0.05)
        new = _store(node, "new", b"new")
        for _ in range(40):  # whichever worker answers
            assert node.request("GET", f"/download/{old}") == (200, b"old")
            assert node.request("GET", f"/download/{new}") == (200, b"new")
        assert _is_settled(node)


def _store(node: RunningNode, name: str, data: bytes) -> str:
    status, body = node.request("POST", f"/upload?name={name}", data)
    assert status == 201, body
    file_id: str = json.loads(body)["id"]
    return file_id


def _web_workers(node: RunningNode) -> set[int]:
    """Return the process ids of Gunicorn's workers: the children of its master."""
    master = node.child("gunicorn")
    children = Path(f"/proc/{master}/task/{master}/children").read_text()
    return {int(pid) for pid in children.split()}


def _is_settled(node: RunningNode) -> bool:
    """Have all that is owed paid, by the worker process, which has ended and come back, too."""
    status, body = node.request("POST", "/admin/replicas/sync?wait=15")
    return status in (200, 202) and bool(json.loads(body)["done"])
