"""What the node holds, over HTTP."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

from dfs.api.answers import UsageSchema
from tests.api.conftest import MakeApp
from tests.api.test_files import store


def test_usage_tells_files_trash_blobs_and_log(client: FlaskClient) -> None:
    """The answer has each figure under its name, as the documentation says."""
    for name, body in (("a", b"12345"), ("b", b"12345"), ("c", bytes(100_000))):
        file = store(client, name, body)
    client.delete(f"/files/{file['id']}")
    usage: Any = client.get("/admin/usage").json
    assert UsageSchema().validate(usage) == {}
    assert usage.pop("log_bytes") > 80
    assert usage.pop("dead_bytes") > 0
    figures = {"files": 2, "bytes": 10, "deleted_files": 1, "deleted_bytes": 100_000}
    blobs = {"files": 1, "file_bytes": 100_000, "unused_files": 0, "unused_bytes": 0}
    assert usage == {
        **figures,
        "quota_bytes": None,
        "buckets": {"default": figures},
        "blobs": {**blobs, "inline": 1, "inline_bytes": 5},
        "deduplicated_bytes": 5,
        "owed_copy_bytes": 0,
        "owed_removal_bytes": 0,
    }


def test_upload_over_the_quota_is_507(make_app: MakeApp) -> None:
    """It has a code of its own: the disk is not full, and deleting helps only after the grace."""
    client = make_app(DFS_QUOTA_BYTES="7").test_client()
    store(client, "a", b"12345")
    refused: Any = client.post("/upload?name=b", data=b"123")
    assert (refused.status_code, refused.json["code"]) == (507, "quota_exceeded")
    assert client.post("/upload?name=b", data=b"12").status_code == 201
    usage: Any = client.get("/admin/usage").json
    assert (usage["bytes"], usage["quota_bytes"]) == (7, 7)


def test_metrics_tell_usage(client: FlaskClient) -> None:
    """A scrape finds what the node holds, as it is at the moment."""
    store(client, "a", b"12345")
    client.delete(f"/files/{store(client, 'b', bytes(70_000))['id']}")
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'dfs_files{state="live"} 1.0',
        'dfs_files{state="deleted"} 1.0',
        'dfs_logical_bytes{state="live"} 5.0',
        'dfs_logical_bytes{state="deleted"} 70000.0',
        "dfs_blob_files 1.0",
        "dfs_blob_file_bytes 70000.0",
        "dfs_inline_blobs 1.0",
        "dfs_inline_bytes 5.0",
        "dfs_unused_blob_file_bytes 0.0",
    ):
        assert line in lines
    dead = next(line for line in lines if line.startswith("dfs_log_dead_bytes "))
    assert float(dead.split()[1]) > 0
