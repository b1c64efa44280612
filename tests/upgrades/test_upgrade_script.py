"""`python -m scripts.upgrade` says what a start would change, and replaces a node that runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dfs.core.parent import adopt_orphans
from scripts.processes import read_web_pid
from scripts.supervisor import start_child, stop_children
from tests.forked import run_forked
from tests.project.chaos_clients import wait_until
from tests.project.nodes import RunningNode, running_node, wait_for_end
from tests.upgrades.restart_clients import running_load
from tests.upgrades.restart_node import running_web
from torture.node import program_environ

pytestmark = pytest.mark.integration
WAIT_S = 60


def run_upgrade(directory: Path, action: str, **settings: str) -> tuple[int, str]:
    """Run the script with the settings of the node there. Returns its status and output."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.upgrade", action],
        cwd=directory,
        env=program_environ(directory, settings),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def web_pid(directory: Path) -> int:
    """Return the process id of the master that serves."""
    pid = read_web_pid(directory / "data" / "run")
    assert pid is not None
    return pid


def pump(node: RunningNode, lines: list[str]) -> threading.Thread:
    """Read on what a node prints, so that it never waits for us."""
    assert node.process.stdout is not None
    thread = threading.Thread(target=lines.extend, args=(node.process.stdout,))
    thread.start()
    return thread


def test_apply_replaces_a_whole_node_under_load_and_loses_no_request(tmp_path: Path) -> None:
    """The supervisor follows: web server and worker are others, and it stops them in the end."""
    lines: list[str] = []
    with running_node(tmp_path) as node:
        printing = pump(node, lines)
        old_web, old_worker = web_pid(tmp_path), node.child("workers.run")
        with running_load(urlsplit(node.url).port or 0) as load:
            load.wait_for(50)
            status, output = run_upgrade(tmp_path, "apply")
            assert status == 0, output
            load.wait_for(50)
            load.stop()
            load.check()
            metrics = node.request("GET", "/metrics")[1].decode()
        counted = re.search(r'_count{[^}]*url_rule="/upload"} (\d+)', metrics)
        assert counted is not None
        assert int(counted[1]) >= len(load.stored)  # those of the old processes, too
        wait_for_end(old_worker)
        assert wait_until(lambda: "workers.run" in commands(node), timeout_s=WAIT_S)
        assert web_pid(tmp_path) != old_web
        below = node.descendants()
        assert web_pid(tmp_path) in below
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(WAIT_S) == 0
        printing.join(WAIT_S)
    assert "dfs: web was replaced.\n" in lines
    assert lines[-1] == "dfs has stopped.\n"
    for pid in below:
        wait_for_end(pid, timeout_s=1)


def commands(node: RunningNode) -> str:
    """Return the command lines of all processes of a node."""
    found = []
    for pid in node.descendants():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue
    return "\n".join(found)


def test_node_that_was_replaced_leaves_no_orphan_when_its_supervisor_is_killed(
    tmp_path: Path,
) -> None:
    """The new web server ends with it, as the old one would have; also that of a second time."""
    with running_node(tmp_path) as node:
        for _ in range(2):
            status, output = run_upgrade(tmp_path, "apply")
            assert status == 0, output
            expected = {"web was replaced", "has been promoted"}  # in any order
            while expected:
                line = node.read_until(*expected)
                expected = {text for text in expected if text not in line}
        below = node.descendants()
        assert web_pid(tmp_path) in below
        node.process.kill()
        for pid in below:
            wait_for_end(pid)


def test_apply_of_a_version_that_does_not_start_leaves_the_old_one(tmp_path: Path) -> None:
    """It says so, and the old processes serve as before."""
    with running_web(tmp_path, WEB_CONCURRENCY="1") as node:
        before = node.workers()
        run_path = tmp_path / "data" / "run"
        assert read_web_pid(run_path) == node.process.pid
        (tmp_path / ".env").write_text("DFS_HOST=192.0.2.1\n")  # a start there needs a key
        status, output = run_upgrade(tmp_path, "apply", WAL_PATH="wal")
        assert status == 1
        assert "did not start; the old one goes on" in output
        assert node.workers() == before
        assert read_web_pid(run_path) == node.process.pid


def test_apply_without_a_node_says_so(tmp_path: Path) -> None:
    """Also if the number of an old process is another's now."""
    assert "No web server runs" in run_upgrade(tmp_path, "apply")[1]
    run_path = tmp_path / "data" / "run"
    run_path.mkdir(parents=True)
    (run_path / "web.pid").write_text(f"{os.getpid()}\n")
    status, output = run_upgrade(tmp_path, "apply")
    assert status == 1
    assert "No web server runs" in output


STEPPING_DOWN = """
new='trap "touch drained; exit" TERM; touch ready; while :; do sleep 0.05; done'
GUNICORN_PID=$$ /bin/sh -c "$new" &
exec sleep 60
"""
"""What has started a process that is to take its place."""


def test_stop_in_the_middle_of_an_upgrade_stops_the_new_process_in_good_order(
    tmp_path: Path,
) -> None:
    """It is told to end, like the old one; the kill that ends what is left comes afterwards."""
    command = ["/bin/sh", "-c", STEPPING_DOWN]
    child = start_child("web", command, environ=dict(os.environ), directory=tmp_path)
    assert wait_until((tmp_path / "ready").exists, timeout_s=WAIT_S, pause_s=0.05)
    assert stop_children([child])
    assert (tmp_path / "drained").exists()


BEGINNING = """
new='trap "touch drained; exit" TERM; touch begun; while :; do sleep 0.05; done'
trap 'GUNICORN_PID=$$ /bin/sh -c "$new" & until test -e begun; do sleep 0.05; done; exit' TERM
touch ready
while :; do sleep 0.05; done
"""
"""What starts a process that is to take its place at the very moment of the stop."""


def stop_at_the_beginning(directory: str) -> None:
    """Start and stop that, as the supervisor of a node does."""
    adopt_orphans()
    command = ["/bin/sh", "-c", BEGINNING]
    child = start_child("web", command, environ=dict(os.environ), directory=Path(directory))
    assert wait_until(Path(directory, "ready").exists, timeout_s=WAIT_S, pause_s=0.05)
    assert stop_children([child])


def test_stop_at_the_beginning_of_an_upgrade_stops_the_new_process_in_good_order(
    tmp_path: Path,
) -> None:
    """SIGUSR2 and SIGTERM at once: the new one is told to end, though nobody knew of it before."""
    ended = run_forked(stop_at_the_beginning, str(tmp_path))
    assert ended.status == 0, ended.stderr
    assert (tmp_path / "drained").exists()
