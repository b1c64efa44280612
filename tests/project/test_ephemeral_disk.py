"""A node whose disk is gone at each restart must keep what it acknowledged, with docs/heroku.md."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from dfs.core.settings import SETTINGS
from dfs.core.signing import make_token
from tests.project.nodes import RunningNode, running_node
from tests.s3 import REGION, S3Server
from torture.node import ROOT

PAGE = ROOT / "docs/heroku.md"
SIZES_BYTES = (10, 3_000, 200_000)
CLIENTS = 4
ACKNOWLEDGED_MIN = 24


def page_settings(directory: Path, server: S3Server, bucket: str) -> dict[str, str]:
    """Return the settings of the page, for an S3 server and a disk of ours."""
    commands = re.findall(r"^heroku config:set (.*)$", PAGE.read_text(), re.MULTILINE)
    pairs = dict(pair.split("=", 1) for line in commands for pair in line.split() if "=" in pair)
    assert set(pairs) <= {setting.name for setting in SETTINGS}
    disk = {name: value.replace("/tmp/dfs", str(directory)) for name, value in pairs.items()}
    return {
        **disk,
        "REPLICA1_PATH": pairs["REPLICA1_PATH"].replace("my-bucket", bucket),
        "REPLICA2_PATH": "",
        "DFS_S3_ENDPOINT": server.endpoint,
        "DFS_S3_REGION": REGION,
        "DFS_S3_ACCESS_KEY_ID": server.access_key_id,
        "DFS_S3_SECRET_ACCESS_KEY": server.secret_access_key,
        "DFS_HOST": "0.0.0.0",  # noqa: S104
        "DFS_FIRST_KEY": make_token(),
    }


class Clients:
    """Upload until the node is gone, and remember what was acknowledged.

    Attributes:
        stored: SHA-256 of each file, by id.
    """

    def __init__(self, url: str, key: str, stored: dict[str, str]) -> None:
        self.stored = stored
        self.refused: list[object] = []
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._before = len(stored)
        self._enough = threading.Event()

    def upload(self, number: int) -> None:
        """Upload one file after the other."""
        with urllib3.PoolManager(retries=False, timeout=20) as http:
            for count in range(10_000):
                body = secrets.token_bytes(SIZES_BYTES[count % len(SIZES_BYTES)])
                url = f"{self._url}/upload?name={number}-{count}"
                try:
                    answer = http.request("POST", url, body=body, headers=self._headers)
                except urllib3.exceptions.HTTPError:
                    return
                if answer.status != 201:
                    self.refused.append(answer.data)
                    return
                self.stored[answer.json()["id"]] = hashlib.sha256(body).hexdigest()
                if len(self.stored) >= self._before + ACKNOWLEDGED_MIN:
                    self._enough.set()

    def wait(self) -> None:
        """Wait until enough is acknowledged."""
        assert self._enough.wait(60), self.refused


def read_digest(node: RunningNode, key: str, file_id: str) -> str:
    """Return the SHA-256 of what the node has of a file."""
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    url = f"{node.url}/download/{file_id}"
    answer = urllib3.request("GET", url, headers=headers, retries=False, timeout=20)
    assert answer.status == 200, (answer.status, answer.data)
    return hashlib.sha256(answer.data).hexdigest()


def kill_all(node: RunningNode) -> None:
    """Kill every process of a node, as a machine does that goes away."""
    pids = [node.process.pid, *node.descendants()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.process.wait()


@pytest.mark.integration
@pytest.mark.crash
def test_node_whose_disk_is_gone_at_each_restart_keeps_what_it_acknowledged(
    tmp_path: Path, s3_server: S3Server, s3_bucket: str
) -> None:
    """With the settings of the page, killed twice while it writes; its key stays good."""
    disk = tmp_path / "disk"
    settings = page_settings(disk, s3_server, s3_bucket)
    key, stored = settings["DFS_FIRST_KEY"], dict[str, str]()
    for _ in range(2):
        with running_node(tmp_path, **settings) as node, ThreadPoolExecutor(CLIENTS) as threads:
            assert {file_id: read_digest(node, key, file_id) for file_id in stored} == stored
            clients = Clients(node.url, key, stored)
            done = [threads.submit(clients.upload, number) for number in range(CLIENTS)]
            clients.wait()
            kill_all(node)
            assert [future.result() for future in done] == [None] * CLIENTS
        assert (disk / "wal").is_dir()
        shutil.rmtree(disk)
    with running_node(tmp_path, **settings) as node:
        assert {file_id: read_digest(node, key, file_id) for file_id in stored} == stored
    assert len(stored) >= 2 * ACKNOWLEDGED_MIN
