"""The load test must keep a real node busy, and notice every way in which a node can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from scripts import load_test
from scripts.load_files import PIECE_BYTES, Content, Held, Shelf
from scripts.load_options import parse_sizes
from scripts.load_report import percentile
from tests.project.nodes import running_node
from torture.node import ROOT, program_environ


class FakeNode(ThreadingHTTPServer):
    """Keeps files in memory and does wrong what `fault` names, to the files with odd numbers."""

    daemon_threads = False

    def __init__(self, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.fault = fault
        self.files: dict[str, bytes] = {}
        self.modes: set[str | None] = set()
        self.lock = threading.Lock()


class FakeHandler(BaseHTTPRequestHandler):
    """Answers like a node, as far as the load test looks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeNode

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def answer(self, status: int, body: bytes = b"", *, length: int | None = None) -> None:
        """Send an answer, which may declare another length than it has."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("DFS-Durable-Copies", "1")
        self.send_header("DFS-LSN", "1")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Take a file in."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            file_id = str(len(self.server.files))
            self.server.files[file_id] = data
            self.server.modes.add(self.headers["DFS-Replication"])
        shown = data + b"x" if self.is_faulty("acknowledge other bytes", file_id) else data
        file = {
            "id": file_id,
            "name": parse_qs(urlsplit(self.path).query)["name"][0],
            "size": len(data),
            "sha256": hashlib.sha256(shown).hexdigest(),
        }
        self.answer(503 if self.server.fault == "refuse" else 201, json.dumps(file).encode())

    def do_GET(self) -> None:
        """Give a file out, or list none."""
        if self.path == "/health":
            self.answer(500 if self.server.fault == "vanish" and self.server.files else 200)
            return
        if self.path.startswith("/files"):
            listed = {"id": "1", "name": "", "size": -1, "sha256": ""}
            files = [listed] if self.server.fault == "list other sizes" else []
            self.answer(200, json.dumps({"files": files, "next": None}).encode())
            return
        file_id = self.path.removeprefix("/download/")
        data = self.server.files[file_id]
        if self.is_faulty("flip a bit", file_id):
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.is_faulty("cut off", file_id):
            data = data[:-1]
        if self.is_faulty("break off", file_id) or self.is_faulty("vanish", file_id):
            self.answer(200, data[:-1], length=len(data))
            self.close_connection = True
            return
        status = 404 if self.is_faulty("lose", file_id) else 200
        status = 500 if self.is_faulty("find damaged", file_id) else status
        self.answer(503 if self.is_faulty("be busy", file_id) else status, data)

    def do_DELETE(self) -> None:
        """Say that a file is deleted."""
        self.answer(404 if self.is_faulty("lose", self.path.rpartition("/")[2]) else 204)

    def is_faulty(self, fault: str, file_id: str) -> bool:
        """Return whether this fault is to be shown on that file."""
        return self.server.fault == fault and int(file_id) % 2 == 1


@contextmanager
def fake_node(fault: str) -> Iterator[FakeNode]:
    """Run a fake node."""
    with FakeNode(fault) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def load_fake(server: FakeNode, directory: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Put a short load on a fake node. Returns the exit status and the figures."""
    figures = directory / "load.json"
    url = f"http://127.0.0.1:{server.server_port}"
    common = ["--url", url, "--clients", "2", "--operations", "40", "--sizes", "9:1,3k:1"]
    status = load_test.main([*common, "--seed", "1", "--json", str(figures), *options])
    return status, json.loads(figures.read_text())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the load test of this process go on at once after an error."""
    monkeypatch.setattr(load_test, "ERROR_PAUSE_S", 0)
    monkeypatch.setattr(load_test, "CHECK_PAUSE_S", 0)


def test_load_on_a_sound_node_finds_no_fault(tmp_path: Path) -> None:
    """Every operation is counted and timed, and what is left is checked."""
    with fake_node("none") as server:
        status, figures = load_fake(server, tmp_path)
    assert (status, figures["wrong"], figures["missing"], figures["unchecked"]) == (0, 0, 0, 0)
    assert sum(kind["count"] for kind in figures["operations"].values()) == 40
    assert figures["total"]["count"] == 40
    assert figures["checked"] == figures["stored"] - figures["deleted"] > 0
    assert figures["stored"] == len(server.files) == figures["copies"]["1"]
    assert server.modes == {None}
    upload = figures["operations"]["upload"]
    assert 0 < upload["p50_ms"] <= upload["p90_ms"] <= upload["p99_ms"] <= upload["max_ms"]


@pytest.mark.parametrize(
    ("fault", "options", "count", "status"),
    [
        ("flip a bit", ["--mix", "upload=1,download=1", "--no-final-check"], "wrong", 1),
        ("flip a bit", ["--mix", "upload=1"], "wrong", 1),
        ("cut off", ["--mix", "upload=1"], "wrong", 1),
        ("acknowledge other bytes", ["--mix", "upload=1"], "wrong", 1),
        ("list other sizes", ["--mix", "upload=1,list=1", "--no-final-check"], "wrong", 1),
        ("lose", ["--mix", "upload=1,download=1", "--no-final-check"], "missing", 1),
        ("lose", ["--mix", "upload=1,delete=1", "--no-final-check"], "missing", 1),
        ("lose", ["--mix", "upload=1"], "missing", 1),
        ("find damaged", ["--mix", "upload=1"], "missing", 1),
        ("break off", ["--mix", "upload=1"], "missing", 1),
        ("be busy", ["--mix", "upload=1"], "unchecked", 3),
        ("vanish", ["--mix", "upload=1"], "unchecked", 3),
    ],
)
def test_load_on_a_faulty_node_says_what_is_wrong(
    tmp_path: Path, fault: str, options: list[str], count: str, status: int
) -> None:
    """Each fault is counted as what it is and as nothing else, and the exit status tells it."""
    with fake_node(fault) as server:
        found, figures = load_fake(server, tmp_path, *options)
    counts = {name: figures[name] for name in ("wrong", "missing", "unchecked")}
    assert found == status
    assert counts.pop(count) > 0
    assert set(counts.values()) == {0}
    assert bool(figures["faults"]) == (count != "unchecked")


def test_load_without_final_check_believes_what_it_did_not_look_at(tmp_path: Path) -> None:
    """Files that no client has downloaded are only looked at by the check at the end."""
    with fake_node("lose") as server:
        status, figures = load_fake(server, tmp_path, "--mix", "upload=1", "--no-final-check")
    assert (status, figures["checked"], figures["missing"]) == (0, 0, 0)


def test_load_that_is_refused_tells_the_statuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refusals are errors by status, not wrong bytes, and nothing is expected to be stored."""
    with fake_node("refuse") as server:
        status, figures = load_fake(server, tmp_path, "--sync", "--mix", "upload=1")
    assert (status, figures["stored"], figures["wrong"]) == (0, 0, 0)
    assert figures["operations"]["upload"]["errors"] == {"503": 40}
    assert server.modes == {"sync"}
    assert "upload failed, 503: 40" in capsys.readouterr().out


def test_load_on_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Where no node answers, no load is begun."""
    assert load_test.main(["--url", "http://127.0.0.1:1"]) == 2
    assert "http://127.0.0.1:1 does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--url", "127.0.0.1:8000", "not an address like"),
        ("--url", "http://a:b", "not an address like"),
        ("--mix", "upload=1,dance=2", "'dance' is none of upload"),
        ("--mix", "download=1", "nothing to work on"),
        ("--mix", "upload", "'upload' is not NAME=WEIGHT"),
        ("--mix", "upload=0", "not all of them 0"),
        ("--mix", "upload=-1,list=1", "0 or more"),
        ("--sizes", "4x:1", "'4x' is not a size"),
        ("--sizes", "k:1", "'k' is not a size"),
        ("--clients", "0", "parse_count"),
        ("--seconds", "nan", "parse_duration"),
        ("--json", "/nowhere/load.json", "no directory /nowhere"),
    ],
)
def test_load_option_that_is_wrong_is_named(
    capsys: pytest.CaptureFixture[str], option: str, text: str, message: str
) -> None:
    """A fault in the command line is told before anything is done."""
    with pytest.raises(SystemExit) as caught:
        load_test.main([option, text])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_sizes_are_read_with_their_units() -> None:
    """Units are powers of 1024, and a weight of 0 takes a size out."""
    assert parse_sizes("0:5, 4k:2.5,1M:1,2g:1,7:0") == {
        0: 5,
        4096: 2.5,
        1 << 20: 1,
        2 << 30: 1,
    }


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, PIECE_BYTES, PIECE_BYTES + 1])
def test_content_is_exact_and_the_same_each_time(size: int) -> None:
    """Seed and label alone decide the bytes."""
    data = b"".join(Content(1).pieces("a", size))
    assert len(data) == size
    assert data == b"".join(Content(1).pieces("a", size))
    others = [b"".join(Content(2).pieces("a", size)), b"".join(Content(1).pieces("b", size))]
    assert size < 16 or data not in others


def test_content_of_many_files_is_different() -> None:
    """A node that stores equal bytes once has work with every file."""
    content = Content(1)
    count = 20_000
    assert len({b"".join(content.pieces(str(label), 64)) for label in range(count)}) == count


def test_file_that_is_being_read_is_not_taken_for_deletion() -> None:
    """A download never meets a deletion of the load's own, and a file taken is lent no more."""
    shelf, chance = Shelf(), random.Random(1)
    with shelf.lend(chance) as nothing:
        assert (nothing, shelf.take(chance)) == (None, None)
    file = Held("1", "a", "", 0)
    shelf.put(file)
    with shelf.lend(chance) as lent:
        assert (lent, shelf.take(chance)) == (file, None)
    assert shelf.take(chance) is file
    with shelf.lend(chance) as nothing:
        assert (nothing, shelf.files()) == (None, [])


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(0, 50, 0), (1, 50, 1), (2, 50, 1), (100, 99, 99), (101, 99, 100), (10, 100, 10)],
)
def test_percentile_is_the_nearest_rank(count: int, percent: int, expected: float) -> None:
    """A percentile is one of the values, never something between two."""
    assert percentile(range(1, count + 1), percent) == expected


@pytest.mark.integration
def test_load_on_a_real_node_is_checked_to_the_last_byte(tmp_path: Path) -> None:
    """Uploads, downloads, listings and deletes of all kinds of sizes; nothing is lost or wrong."""
    figures_path = tmp_path / "load.json"
    with running_node(tmp_path, WEB_CONCURRENCY="2") as node:
        command = [sys.executable, "-m", "scripts.load_test", "--url", node.url, "--clients", "4"]
        options = ["--operations", "300", "--sizes", "0:1,1k:6,100k:2,3m:1", "--mix"]
        mix = "upload=4,download=4,list=1,delete=1"
        result = subprocess.run(
            [*command, *options, mix, "--seed", "1", "--json", str(figures_path)],
            env=program_environ(tmp_path, {}),
            capture_output=True,
            text=True,
            check=False,
        )
        listed = json.loads(node.request("GET", "/files?limit=1000")[1])["files"]
    figures = json.loads(figures_path.read_text())
    assert (result.returncode, result.stderr) == (0, "")  # no progress where there is no terminal
    assert figures["total"] == {**figures["total"], "count": 300, "errors": 0}
    assert min(kind["count"] for kind in figures["operations"].values()) > 0
    assert figures["checked"] == len(listed) == figures["stored"] - figures["deleted"]
    assert "0 wrong, 0 missing" in result.stdout


@pytest.mark.integration
def test_load_on_a_terminal_shows_its_progress_and_ends_early_on_ctrl_c(tmp_path: Path) -> None:
    """One line is rewritten; Ctrl-C ends the load, and the check is still made."""
    terminal, side = pty.openpty()
    with (
        running_node(tmp_path) as node,
        subprocess.Popen(
            [sys.executable, "-m", "scripts.load_test", "--url", node.url, "--seconds", "600"],
            cwd=ROOT,
            env=program_environ(tmp_path, {}),
            stdout=subprocess.PIPE,
            stderr=side,
            text=True,
        ) as process,
    ):
        os.close(side)
        seen = b""
        try:
            while b"errors" not in seen:
                seen += os.read(terminal, 1000)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    os.close(terminal)
    assert seen.startswith(b"\r\x1b[K")
    assert process.returncode == 0
    assert "0 wrong, 0 missing" in output
    assert " 0 checked at the end" not in output
