"""A proxy that cannot send the files, and a node that forgets soon which of them are sound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.servers import get
from tests.proxy.rig import proxied_node, wait_until

pytestmark = pytest.mark.integration

BODY = os.urandom(3_000_000)


@pytest.mark.parametrize(
    ("user", "fault"), [("root", "No such file"), ("nobody nogroup", "Permission denied")]
)
def test_files_that_nginx_cannot_read_are_sent_by_dfs(
    tmp_path: Path, user: str, fault: str
) -> None:
    """Neither 404 nor 403 of nginx reaches a client, and no header comes twice."""
    blobs = tmp_path / "absent"
    if fault == "Permission denied":
        blobs = tmp_path / "locked"
        blobs.mkdir(mode=0)  # to root, who may read everything, the user makes the difference
    with proxied_node(tmp_path, blobs=blobs, user=user) as proxied:
        path = proxied.store(BODY)
        first, second = proxied.ask("GET", path), proxied.ask("GET", path)
        part = proxied.ask("GET", path, headers={"Range": "bytes=5-9"})
        log = (proxied.proxy.directory / "error.log").read_text()
    assert (first.sender, second.sender) == ("dfs", "dfs after nginx")
    assert (second.status, second.body) == (200, BODY)
    assert sorted(second.headers) == sorted(first.headers)
    assert (part.status, part.body, part.sender) == (206, BODY[5:10], "dfs after nginx")
    assert fault in log


def test_node_without_keys_answers_nobody_through_nginx(tmp_path: Path) -> None:
    """nginx says that it is a proxy; else everybody would be let in as somebody on this machine."""
    with proxied_node(tmp_path, has_key=False) as proxied:
        assert get(proxied.node, "/files")[0] == 200
        assert get(proxied.proxy.plain, "/files")[0] == 403


def test_files_are_read_again_after_a_while(tmp_path: Path) -> None:
    """What was found sound counts as such for `DFS_ACCEL_VERIFIED_S`, and then is read anew."""
    with proxied_node(tmp_path, DFS_ACCEL_VERIFIED_S="2") as proxied:
        path = proxied.store_verified(BODY)
        wait_until(lambda: proxied.ask("GET", path).sender == "dfs")
        assert proxied.ask("GET", path).sender == "nginx"


def test_node_without_the_setting_sends_everything_itself(tmp_path: Path) -> None:
    """The proxy alone changes nothing."""
    with proxied_node(tmp_path, DFS_ACCEL_PREFIX="") as proxied:
        path = proxied.store(BODY)
        answers = [proxied.ask("GET", path) for _ in range(3)]
    assert {(answer.body, answer.sender) for answer in answers} == {(BODY, "dfs")}
