"""The processes of a node are replaced and stopped under load, and no request is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.hostile.target import read_answer
from tests.hostile.test_parked import is_received, node_lock, send_half, send_upload
from tests.project.chaos_clients import wait_until
from tests.upgrades.restart_clients import is_refused, running_load
from tests.upgrades.restart_node import WAIT_S, WebNode, children_of, running_web
from torture.node import ROOT

pytestmark = pytest.mark.integration
REQUESTS = 60
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
FILES = 100
FORMS = 6


def connect(node: WebNode, *, receive_bytes: int | None = None) -> socket.socket:
    """Return a connection; `receive_bytes`: with so small a buffer."""
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(WAIT_S)
    connection.connect(("127.0.0.1", node.port))
    return connection


def form() -> bytes:
    """Return an upload of many files, whose answer is long."""
    part = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n'
    body = f"{part * FILES}--b--\r\n"
    return (
        "POST /upload HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
        f"DFS-Metadata: {json.dumps({'m': 'x' * 8000})}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the end of the connection, which must be one in good order."""
    received = b""
    while data := connection.recv(1 << 20):
        received += data
    return received


def test_processes_replaced_under_load_lose_no_request(tmp_path: Path) -> None:
    """By SIGHUP, and by SIGUSR2 and the end of the old master, who goes on until then."""
    with running_web(tmp_path) as node, running_load(node.port) as load:
        load.wait_for(REQUESTS)
        node.hang_up()
        load.wait_for(REQUESTS)
        node.upgrade()
        load.wait_for(REQUESTS)
        node.end(node.masters[0])
        node.wait_for_log("Master has been promoted")
        load.wait_for(REQUESTS)
        load.stop()
        load.check()
    assert "Traceback" not in node.log


def test_workers_that_end_after_so_many_requests_lose_none(tmp_path: Path) -> None:
    """Gunicorn's max_requests."""
    options = {"GUNICORN_CMD_ARGS": "--max-requests 40 --max-requests-jitter 20"}
    with running_web(tmp_path, **options) as node:
        first = node.workers()
        with running_load(node.port) as load:
            assert wait_until(lambda: load.lost or first - node.workers(), timeout_s=WAIT_S)
            load.stop()
            load.check()
    assert "Traceback" not in node.log


def test_new_settings_or_code_that_do_not_start_leave_the_old_ones_serving(tmp_path: Path) -> None:
    """Neither SIGHUP nor SIGUSR2 ends a node whose settings are wrong."""
    with running_web(tmp_path, WEB_CONCURRENCY="1") as node:
        before = node.workers()
        (tmp_path / ".env").write_text("DFS_THREADS=many\n")
        master = node.masters[0]
        os.kill(master, signal.SIGHUP)
        node.wait_for_log("reload_refused")
        os.kill(master, signal.SIGUSR2)
        assert wait_until(lambda: node.log.count("Failed to read") == 2, timeout_s=WAIT_S)
        assert wait_until(lambda: children_of(master) == before, timeout_s=WAIT_S)
        with connect(node) as client:
            client.sendall(HEALTH)
            assert read_answer(client).status == 200
        (tmp_path / ".env").write_text("DFS_THREADS=2\n")
        node.hang_up()
        with connect(node) as client:
            client.sendall(HEALTH)
            assert read_answer(client).status == 200


def test_requests_that_wait_for_their_commit_are_answered_by_the_worker_they_came_to(
    tmp_path: Path,
) -> None:
    """A new worker comes meanwhile; so does what was sent behind them on the same connection."""
    with running_web(tmp_path, WEB_CONCURRENCY="1") as node:
        connections = [connect(node) for _ in range(5)]
        with node_lock(tmp_path):
            for number, connection in enumerate(connections):
                send_upload(connection, "parked", b"x", behind=HEALTH if number % 2 else b"")
            assert wait_until(lambda: is_received(node.port), timeout_s=WAIT_S)
            for connection in connections[::2]:  # what nobody reads before the commit
                connection.sendall(HEALTH)
            os.kill(node.masters[0], signal.SIGHUP)
            node.wait_for_log("Handling signal: hup")
            assert wait_until(lambda: len(node.workers()) == 2, timeout_s=WAIT_S)
        for connection in connections:
            received = read_all(connection)
            assert received.startswith(b"HTTP/1.1 201")
            assert received.count(b"HTTP/1.1 200 OK") == 1
            connection.close()


def test_stopped_node_answers_what_was_under_way_and_nothing_else(tmp_path: Path) -> None:
    """It refuses new connections at once, has slow clients finish, and ends with 0."""
    patience = {"DFS_HEAD_TIMEOUT_S": "60", "DFS_CLIENT_GRACE_S": "60"}
    with (
        running_web(tmp_path, WEB_CONCURRENCY="1", DFS_THREADS="1", **patience) as node,
        connect(node, receive_bytes=1024) as deaf,
        connect(node) as late,
        connect(node) as slow,
        connect(node) as idle,
    ):
        late.sendall(HEALTH[:9])
        for connection in (slow, idle):
            connection.sendall(HEALTH)
            assert read_answer(connection).status == 200
        send_half(slow)
        assert wait_until(lambda: is_received(node.port), timeout_s=WAIT_S)
        deaf.sendall(form() * FORMS)
        wait_until_kept(idle)

        node.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: is_refused(node.port), timeout_s=WAIT_S)
        assert read_all(idle) == b""
        late.sendall(HEALTH[9:])
        answer = read_answer(late)
        assert answer.status == 200
        assert b"\r\nConnection: close\r\n" in answer.head
        slow.sendall(b"x")
        assert read_answer(slow).status == 201
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        received = read_all(deaf)
        assert received.count(b"HTTP/1.1 201") == FORMS
        assert received.count(b'"name":"f"') == FORMS * FILES
        assert node.process.wait(WAIT_S) == 0
    assert "Traceback" not in node.log


def wait_until_kept(connection: socket.socket) -> None:
    """Wait until no more forms are answered, since nobody reads what was answered to the first."""
    counted = [-1]

    def is_stuck() -> bool:
        connection.sendall(b"GET /admin/usage HTTP/1.1\r\nHost: localhost\r\n\r\n")
        counted.append(json.loads(read_answer(connection).body)["files"])
        return counted[-1] == counted[-2] > 0

    assert wait_until(is_stuck, timeout_s=WAIT_S)
    assert counted[-1] < FORMS * FILES


def test_stop_cuts_who_needs_too_long_and_leaves_the_log_sound(tmp_path: Path) -> None:
    """Of an upload that never ends nothing is kept; the next start has nothing to mend."""
    options = {"GUNICORN_CMD_ARGS": "--graceful-timeout 3"}
    with running_web(tmp_path, WEB_CONCURRENCY="1", **options) as node:
        slow = connect(node)
        send_half(slow)
        assert wait_until(lambda: is_received(node.port), timeout_s=WAIT_S)
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(WAIT_S) == 0
        slow.close()
    assert "SIGKILL" not in node.log
    assert "Traceback" not in node.log


def test_code_is_that_which_lies_there_when_the_master_is_replaced(tmp_path: Path) -> None:
    """Releases in directories of their own; a link names the one that is current.

    systemd is told which master is the main process when a worker of it serves.
    """
    link = tmp_path / "current"
    for number in (1, 2):
        release = tmp_path / f"release-{number}"
        for name in ("dfs", "gunicorn.conf.py", "wsgi.py"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, release / name)
        (release / "dfs" / "__init__.py").write_text(f'__version__ = "{number}.0"\n')
    link.symlink_to("release-1")
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.settimeout(WAIT_S)
    systemd.bind(f"\0dfs-test-{os.getpid()}")
    places = {"PYTHONPATH": "", "PWD": str(link), "NOTIFY_SOCKET": f"@dfs-test-{os.getpid()}"}
    with systemd, running_web(tmp_path, code=link, WEB_CONCURRENCY="1", **places) as node:
        assert version_of(node) == "1.0"
        link.unlink()
        link.symlink_to("release-2")
        node.upgrade()
        node.end(node.masters[0])
        assert version_of(node) == "2.0"
        told = [systemd.recv(1000).decode() for _ in range(3)]
    assert told[-1] == f"MAINPID={node.masters[1]}"
    assert all(message.startswith("READY=1") for message in told[:-1])


def version_of(node: WebNode) -> str:
    """Return the version that a node says it is of."""
    with connect(node) as client:
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        version: str = json.loads(read_answer(client).body)["info"]["version"]
        return version
