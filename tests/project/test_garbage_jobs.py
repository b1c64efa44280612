"""A whole node gives space back by itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.project.chaos_clients import wait_until
from tests.project.nodes import running_node

pytestmark = pytest.mark.integration


def test_node_without_a_trash_frees_what_was_deleted(tmp_path: Path) -> None:
    """Its worker purges the file, drops the blob and removes it from the primary, unasked.

    It is started again, since a worker looks for garbage at its start, and then every ten seconds.
    """
    data = bytes(range(256)) * 1000
    name = hashlib.sha256(data).hexdigest()
    path = tmp_path / "data/primary/blobs" / name[:2] / name[2:4] / name
    with running_node(tmp_path, DFS_DELETE_GRACE_S="0") as node:
        file = json.loads(node.request("POST", "/upload?name=a&ttl_s=3600", data)[1])
        assert path.exists()
        assert node.request("DELETE", f"/files/{file['id']}")[0] == 204
    with running_node(tmp_path, DFS_DELETE_GRACE_S="0") as node:
        assert wait_until(lambda: not path.exists(), timeout_s=60)
        usage = json.loads(node.request("GET", "/admin/usage")[1])
        blobs = usage["blobs"]
        assert (usage["files"], usage["deleted_files"], blobs["files"]) == (0, 0, 0)
        assert usage["owed_removal_bytes"] == 2 * len(data)  # by the replicas, an hour later
