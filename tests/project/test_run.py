"""`make run` must start everything, say where, and leave nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.project.chaos_clients import wait_until
from tests.project.nodes import (
    program_environ,
    running_node,
    running_program,
    wait_for_end,
)

ESTABLISHED = "01"

pytestmark = pytest.mark.integration


def is_free(url: str) -> bool:
    """Return whether the port of a node can be taken again."""
    address = urlsplit(url)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex((address.hostname, address.port)) != 0


def has_clients(url: str) -> bool:
    """Return whether anybody is connected to the port of a node, from this machine."""
    port = f"{urlsplit(url).port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port}") and row[3] == ESTABLISHED for row in rows)


def refused(directory: Path, *action: str, **settings: str) -> str:
    """Return what a node says that does not start."""
    result = subprocess.run(
        [sys.executable, "-m", "scripts.run", *action],
        cwd=directory,
        env=program_environ(directory, settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_run_stop_signal_leaves_nothing_behind(tmp_path: Path, signal_number: int) -> None:
    """Ctrl-C and SIGTERM end with status 0, no process and no port left, and no complaints."""
    with running_node(tmp_path, WEB_CONCURRENCY="2") as node:
        below = node.descendants()
        assert len(below) >= 5  # Redis, Gunicorn and two workers, the queue's worker
        # For somebody who stays connected the workers would wait.
        assert wait_until(lambda: not has_clients(node.url), timeout_s=10)
        status, output = node.end(signal_number)
    assert status == 0
    assert "dfs has stopped." in output
    assert not {"error", "warning"} & {
        json.loads(line)["level"] for line in output.splitlines() if line.startswith("{")
    }
    for pid in below:
        wait_for_end(pid, timeout_s=1)
    assert is_free(node.url)


def test_run_again_finds_what_was_stored(tmp_path: Path) -> None:
    """A file outlives the node that took it."""
    with running_node(tmp_path) as node:
        status, answer = node.request("POST", "/upload?name=a", b"x" * 100_000)
        assert status == 201
    with running_node(tmp_path) as node:
        assert node.request("GET", f"/download/{json.loads(answer)['id']}") == (200, b"x" * 100_000)


def test_run_two_nodes_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Two nodes of one machine have their own ports, queues and files; one's end is its own."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with running_node(tmp_path / "a") as a:
        with running_node(tmp_path / "b") as b:
            assert a.request("POST", "/upload?name=a", b"a")[0] == 201
            assert b.request("POST", "/upload?name=b", b"b")[0] == 201
            names = [json.loads(node.request("GET", "/files")[1])["files"] for node in (a, b)]
            assert [[file["name"] for file in files] for files in names] == [["a"], ["b"]]
        assert a.request("GET", "/ready")[0] == 200


def test_run_busy_port_is_said_clearly(tmp_path: Path) -> None:
    """A port in use is named, with what to do, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port} of 127.0.0.1 is taken" in refused(tmp_path, PORT=str(port))


def test_run_same_files_twice_is_refused(tmp_path: Path) -> None:
    """A second node on the files of a first is refused and told whose they are."""
    with running_node(tmp_path) as node:
        message = refused(tmp_path, PORT="0")
        assert f"process {node.process.pid}" in message
        log = tmp_path / "data" / "run" / "node.log"
        log.write_text("what a node in the background has logged")
        assert message == refused(tmp_path, "up", PORT="0")
        assert log.read_text() == "what a node in the background has logged"
        assert node.request("GET", "/ready")[0] == 200


@pytest.mark.parametrize("action", [(), ("up",)])
def test_run_without_a_place_for_its_files_is_refused(
    tmp_path: Path, action: tuple[str, ...]
) -> None:
    """The directory that cannot be made is named."""
    (tmp_path / "file").touch()
    assert "/file/run: Not a directory." in refused(tmp_path, *action, DFS_RUN_PATH="file/run")


def test_run_wrong_settings_are_all_named(tmp_path: Path) -> None:
    """Every fault in the settings is reported, and nothing is started."""
    message = refused(tmp_path, PORT="x", DEBUG="y")
    assert "PORT='x'" in message
    assert "DEBUG='y'" in message
    assert not (tmp_path / "data").exists()


def test_run_unreadable_log_is_said_clearly(tmp_path: Path) -> None:
    """A node that cannot recover says why and ends; no worker takes a request."""
    with running_node(tmp_path):
        pass
    identity = tmp_path / "data/primary/dfs.json"
    identity.write_text("not json")
    with running_program("scripts.run", tmp_path, PORT="0") as program:
        output, _ = program.process.communicate(timeout=60)
    assert program.process.returncode == 1
    assert "dfs.json" in output
    assert "Booting worker" not in output


def test_run_death_of_the_web_server_ends_all(tmp_path: Path) -> None:
    """If the web server dies, the rest is stopped, and the status and a line say so."""
    with running_node(tmp_path) as node:
        below = node.descendants()
        os.kill(node.child("gunicorn"), signal.SIGKILL)
        output, _ = node.process.communicate(timeout=60)
    assert node.process.returncode == 1
    assert "dfs: web was killed by signal 9; everything else was stopped." in output
    for pid in below:
        wait_for_end(pid, timeout_s=1)


def test_run_death_of_the_queue_and_its_worker_is_mended(tmp_path: Path) -> None:
    """Without Redis and the worker the node serves, and both come back where they were."""
    with running_node(tmp_path) as node:
        dead = node.child("127.0.0.1:"), node.child("workers.run")
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        node.read_until("redis was killed by signal 9; next try in 1 s.")
        assert node.request("POST", "/upload?name=a", b"a")[0] == 201
        assert node.request("GET", "/ready")[0] == 200
        node.read_until("worker_started")
        assert json.loads(node.request("GET", "/ready")[1])["reasons"]["queue"] is None
        below = node.descendants()
        assert not set(dead) & set(below)
        status, _ = node.end(signal.SIGTERM)
    assert status == 0
    for pid in below:
        wait_for_end(pid, timeout_s=1)


def test_run_killed_itself_leaves_no_orphan(tmp_path: Path) -> None:
    """Even `kill -9` of the one that could clean up leaves no process, and the files are free."""
    with running_node(tmp_path) as node:
        below = node.descendants()
        node.process.kill()
    for pid in below:
        wait_for_end(pid)
    with running_node(tmp_path) as again:
        assert again.request("GET", "/ready")[0] == 200


def test_run_without_redis_on_path_brings_its_own(tmp_path: Path) -> None:
    """On a machine without Redis the queue works all the same."""
    with running_node(tmp_path, PATH=str(tmp_path)) as node:
        assert "valkey-server" in node.descendants().values()
        reasons = json.loads(node.request("GET", "/ready")[1])["reasons"]
        assert reasons["queue"] is None


def test_run_unreadable_queue_files_are_put_aside(tmp_path: Path) -> None:
    """Files of the queue that its server cannot read do not keep a node from starting."""
    files = tmp_path / "data/run/redis/appendonlydir"
    files.mkdir(parents=True)
    (files / "appendonly.aof.manifest").write_text("what is this")
    with running_node(tmp_path) as node:
        assert json.loads(node.request("GET", "/ready")[1])["reasons"]["queue"] is None
    assert list((tmp_path / "data/run").glob("redis.unreadable-*/appendonlydir"))


def test_run_reload_serves_on_without_recovering(tmp_path: Path) -> None:
    """SIGHUP replaces the workers; what was counted stays, and no worker is recovered under."""

    def find_start() -> list[str]:
        lines = node.request("GET", "/metrics")[1].decode().splitlines()
        return [line for line in lines if line.startswith("dfs_start_time_seconds ")]

    with running_node(tmp_path, WEB_CONCURRENCY="2") as node:
        node.request("POST", "/upload?name=a", b"a")
        started = find_start()
        os.kill(node.child("gunicorn"), signal.SIGHUP)
        node.read_until("Booting worker")
        node.read_until("Booting worker")
        assert node.request("POST", "/upload?name=b", b"b")[0] == 201
        metrics = node.request("GET", "/metrics")[1].decode()
        assert 'url_rule="/upload"} 2.0' in metrics
        assert "dfs_commit_changes_sum 2.0" in metrics
        assert find_start() == started != []
