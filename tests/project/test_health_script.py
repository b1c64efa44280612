"""Whoever runs the processes of a node in containers must learn from the script which ones live."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.nodes import program_environ, running_node, running_program
from torture.node import ROOT

CERTIFICATE = ROOT / "tests/data/tls/cert.pem"
PROCESSES = ("web", "worker", "scheduler")

pytestmark = pytest.mark.integration


def look(directory: Path, **settings: str) -> list[int]:
    """Return the exit status of the script for each process of a node in `directory`."""
    return [
        subprocess.run(
            [sys.executable, "-m", "scripts.health", process],
            cwd=directory,
            env=program_environ(directory, settings),
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        ).returncode
        for process in PROCESSES
    ]


def test_health_tells_which_processes_live(tmp_path: Path) -> None:
    """Over TLS, without a key; and what was killed lives no more, whatever it left behind."""
    key = CERTIFICATE.with_name("key.pem")
    settings = {"DFS_TLS_CERT_PATH": str(CERTIFICATE), "DFS_TLS_KEY_PATH": str(key)}
    settings |= {"REPLICA1_PATH": "", "REPLICA2_PATH": "", "REDIS_URL": "redis://127.0.0.1:1"}
    assert look(tmp_path, PORT="1", **settings) == [1, 1, 1]
    with running_node(tmp_path, **settings) as node:
        port = node.url.rpartition(":")[2]
        node.read_until("redis_awaited")  # the worker has opened the node
        assert look(tmp_path, PORT=port, **settings) == [0, 0, 1]
        with running_program("workers.scheduler", tmp_path, **settings) as scheduler:
            scheduler.read_until("scheduler_started")
            assert look(tmp_path, PORT=port, **settings) == [0, 0, 0]
            scheduler.end(signal.SIGKILL)
        assert look(tmp_path, PORT=port, **settings) == [0, 0, 1]
    assert look(tmp_path, PORT=port, **settings) == [1, 1, 1]


def test_health_without_good_settings_is_not_told_apart_from_none(tmp_path: Path) -> None:
    """A setting that is wrong is said, with a status of its own."""
    assert look(tmp_path, PORT="x") == [2, 2, 2]
