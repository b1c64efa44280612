"""A node must live through what its disk, its index and its queue do, as far as it can."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from dfs.telemetry.files import FILE_BYTES
from tests.project.nodes import RunningNode, running_node
from torture.node import ROOT, program_environ

pytestmark = pytest.mark.integration


def web_worker(node: RunningNode) -> int:
    """Return the process id of the only web worker."""
    arbiter = node.child("gunicorn")
    children = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def test_web_worker_that_cannot_open_answers_503_until_it_can(tmp_path: Path) -> None:
    """A worker born while the index cannot be opened does not end the node.

    Its log says why. The answer does not: whoever asks, no key can be looked up without the index.
    """
    with running_node(tmp_path) as node:
        marker = tmp_path / "data/wal/rebuild-index"
        marker.touch()  # and the queue's worker lives, so nobody may rebuild
        os.kill(web_worker(node), signal.SIGKILL)
        assert "index" in json.loads(node.read_until("services_unopened"))["error"].lower()
        assert node.request("GET", "/health")[0] == 200
        assert node.request("GET", "/ready") == (503, b'{"status":"unready"}')
        assert node.request("GET", "/files")[0] == 503
        marker.unlink()
        patient = urllib3.Retry(total=15)  # asks again when Retry-After says so
        ready = urllib3.request("GET", f"{node.url}/ready", retries=patient, timeout=20)
        assert ready.status == 200
        assert node.request("POST", "/upload?name=a", b"a")[0] == 201


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a node that only looks are taken at."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="module")
def node(place: Path) -> Iterator[RunningNode]:
    """A node that was started with the usual soft limit for open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with running_node(place) as node:
            yield node
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_node_raises_its_limit_of_open_files(node: RunningNode) -> None:
    """A web worker and the queue's worker may open as many files as the machine allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard > 1024
    for pid in (web_worker(node), node.child("workers.run")):
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_node_metrics_have_their_room_beforehand(place: Path, node: RunningNode) -> None:
    """What a web worker counts in is whole on disk from its start: a full disk cannot kill it."""
    for kind, size_bytes in FILE_BYTES.items():
        file = place / f"data/run/metrics/{kind}_{web_worker(node)}.db"
        assert file.stat().st_size == size_bytes


def test_descriptor_limit_that_is_low_is_told(tmp_path: Path) -> None:
    """Where the machine allows few open files, the log says so."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (512, 2048))\n"
        "from dfs.core.descriptors import raise_descriptor_limit; raise_descriptor_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=program_environ(tmp_path, {}),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "descriptors_scarce" in output
    assert "(2048, 2048)" in output
