"""A master does what signals ask for, or goes on as it was; it never ends the node by that."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from scripts.processes import read_web_pid
from tests.hostile.target import read_answer
from tests.hostile.test_parked import is_received, send_half
from tests.project.chaos_clients import wait_until
from tests.project.nodes import wait_for_end
from tests.upgrades.restart_node import WAIT_S, WebNode, children_of, running_web
from tests.upgrades.test_upgrade_script import run_upgrade

pytestmark = pytest.mark.integration
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SOON_S = 15
"""Half of the time that a worker gives those who take theirs."""


def connect(node: WebNode) -> socket.socket:
    """Return a connection."""
    return socket.create_connection(("127.0.0.1", node.port), timeout=WAIT_S)


def serves(node: WebNode) -> bool:
    """Tell whether a request is answered."""
    with connect(node) as client:
        client.sendall(HEALTH)
        return read_answer(client).status == 200


def kill_worker(node: WebNode) -> None:
    """Kill the one worker, and wait for another."""
    before = node.workers()
    os.kill(*before, signal.SIGKILL)
    assert wait_until(lambda: node.workers() - before, timeout_s=WAIT_S, pause_s=0.05)


@pytest.mark.parametrize(
    "line",
    ["DFS_THREADS=many", "DFS_HOST=127.0.0.2", "DFS_TLS_CERT_PATH=no\nDFS_TLS_KEY_PATH=no"],
)
def test_settings_that_cannot_be_used_harm_no_node_that_runs(tmp_path: Path, line: str) -> None:
    """Neither when SIGHUP brings them, nor when a worker is started in the place of another."""
    with running_web(tmp_path, WEB_CONCURRENCY="1") as node:
        (tmp_path / ".env").write_text(f"{line}\n")
        kill_worker(node)
        assert serves(node)
        os.kill(node.process.pid, signal.SIGHUP)
        node.wait_for_log("reload_refused")
        kill_worker(node)
        assert serves(node)
        assert node.process.poll() is None


def test_new_master_that_cannot_begin_leaves_the_workers_alone(tmp_path: Path) -> None:
    """The directory that it was to start in is gone."""
    link = tmp_path / "current"
    link.symlink_to(tmp_path)
    with running_web(tmp_path, WEB_CONCURRENCY="1", PWD=str(link)) as node:
        before = node.workers()
        link.unlink()
        for count in (1, 2):
            os.kill(node.process.pid, signal.SIGUSR2)
            assert wait_until(
                lambda count=count: node.log.count("successor_not_started") == count,
                timeout_s=WAIT_S,
            )
            assert wait_until(lambda: children_of(node.process.pid) == before, timeout_s=WAIT_S)
        assert serves(node)


def test_stop_takes_one_drain_although_another_one_was_under_way(tmp_path: Path) -> None:
    """A SIGTERM after a SIGHUP is not put off until the old workers have ended."""
    with (
        running_web(tmp_path, WEB_CONCURRENCY="1", DFS_CLIENT_GRACE_S="60") as node,
        connect(node) as slow,
    ):
        send_half(slow)
        assert wait_until(lambda: is_received(node.port), timeout_s=WAIT_S)
        old = node.workers()
        os.kill(node.process.pid, signal.SIGHUP)
        assert wait_until(lambda: node.workers() - old, timeout_s=WAIT_S)
        node.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: "Handling signal: term" in node.log, timeout_s=SOON_S)
        slow.sendall(b"x")
        assert read_answer(slow).status == 201
        assert node.process.wait(WAIT_S) == 0
    assert "Traceback" not in node.log


def test_worker_that_was_just_started_is_told_to_end(tmp_path: Path) -> None:
    """A SIGTERM that comes before it can see to signals does not leave it serving until a kill."""
    with running_web(tmp_path, WEB_CONCURRENCY="4") as node:
        os.kill(node.process.pid, signal.SIGHUP)
        os.kill(node.process.pid, signal.SIGTERM)
        assert node.process.wait(SOON_S) == 0
    assert "SIGKILL" not in node.log


def test_upgrade_that_was_taken_back_or_broken_off_can_be_made_again(tmp_path: Path) -> None:
    """The old master is named again when the new one has ended; two that serve become one."""
    run_path = tmp_path / "data" / "run"
    with running_web(tmp_path, WEB_CONCURRENCY="1") as node:
        old = node.process.pid
        for number in (signal.SIGTERM, signal.SIGKILL):
            node.upgrade()
            new = node.masters.pop()
            assert wait_until(lambda new=new: read_web_pid(run_path) == new, timeout_s=WAIT_S)
            os.kill(new, number)
            wait_for_end(new)
            assert wait_until(lambda: read_web_pid(run_path) == old, timeout_s=WAIT_S)
            assert serves(node)
        node.upgrade()
        second = node.masters[-1]
        assert wait_until(lambda: read_web_pid(run_path) == second, timeout_s=WAIT_S)
        status, output = run_upgrade(tmp_path, "apply", WAL_PATH="wal")
        third = read_web_pid(run_path)
        assert third is not None
        node.masters.append(third)
        assert f"process {old} is ended first" in output
        assert status == 0
        assert third not in (old, second)
        assert serves(node)
