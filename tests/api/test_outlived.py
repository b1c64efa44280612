"""A process whose log was removed or replaced under it."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

import dfs.node


def test_process_that_outlived_its_log_reads_nothing_from_the_old_index(
    client: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have written since to the log in its place: it says 503 and wants to end."""
    monkeypatch.setattr(dfs.node, "LOOK_INTERVAL_S", 0)
    ended: list[bool] = []
    client.application.extensions["dfs"].on_outlived = lambda: ended.append(True)
    file = client.post("/upload?name=a", data=b"a").json
    assert client.get(f"/download/{file['id']}").data == b"a"
    assert not ended
    (tmp_path / "wal").rename(tmp_path / "gone")
    for path in (f"/download/{file['id']}", f"/files/{file['id']}", "/files"):
        answer = client.get(path)
        assert (answer.status_code, answer.json["code"]) == (503, "keys_unavailable"), path
    assert client.get("/health").status_code == 200
    assert ended
    (tmp_path / "gone").rename(tmp_path / "wal")
    assert client.get(f"/download/{file['id']}").data == b"a"
