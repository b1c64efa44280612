"""What is synced before which answer is what docs/durability.md says, as strace sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.docs.clone import free_port
from tests.docs.pages import Page
from torture.node import END_TIMEOUT_S, ROOT, program_environ

pytestmark = pytest.mark.xdist_group("traced")  # one node for all
PAGE = Page.read(Path("docs/durability.md"))
CALLS = "fdatasync,fsync,sync_file_range,syncfs,rename,renameat2,sendto,sendmsg"
LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\((.*)| resumed>(.*))$")
STORES = ("wal/", "primary/", "replica1/")
LARGE, LARGER = b"l" * 100_000, b"L" * 100_001
SEGMENT_BYTES = 1 << 16
FILLING = b"f" * 50_000


@dataclass
class TracedNode:
    """A node under strace, asked one request at a time."""

    url: str
    trace: Path
    directory: Path
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(maxsize=1))
    file_id: str = ""
    key: dict[str, Any] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Return the JSON of an answer, None if it has no body."""
        is_json = isinstance(body, dict)
        data = json.dumps(body).encode() if is_json else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if is_json:
            named["Content-Type"] = "application/json"
        if self.key:
            named["Authorization"] = f"Bearer {self.key['token']}"
        answer = self.pool.request(method, self.url + path, body=data, headers=named, retries=False)
        return answer.json() if answer.data else None

    def calls_of_answers(self) -> list[list[str]]:
        """Return the calls before each answer, in the order in which they returned."""
        answers: list[list[str]] = [[]]
        begun: dict[str, str] = {}
        for line in self.trace.read_text().splitlines():
            match = LINE.match(line)
            if match is None:
                continue
            thread, name, arguments, _ = match.groups()
            if arguments is not None and arguments.endswith("<unfinished ...>"):
                begun[thread] = arguments
                if not name.startswith("send"):
                    continue
            arguments = begun.pop(thread, "") if arguments is None else arguments
            if name.startswith("send"):
                if '"HTTP/1.1 ' in arguments:
                    answers.append([])
            elif place := self._place(arguments):
                answers[-1].append(f"{name} {place}")
        return answers

    def _place(self, arguments: str) -> str | None:
        """Return the last path of a call, below the data of the node; None if it is elsewhere."""
        paths = re.findall(rf'[<"]{re.escape(str(self.directory))}/data/([^>"]*)[>"]', arguments)
        if not paths or not f"{paths[-1]}/".startswith(STORES):
            return None
        path = re.sub(r"/tmp/[^/]+$", "/tmp/TMP", paths[-1])
        path = re.sub(r"(/blobs/)[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{64}$", r"\1ab/cd/SHA256", path)
        path = re.sub(r"(/blobs/)[0-9a-f]{2}/[0-9a-f]{2}$", r"\1ab/cd", path)
        return re.sub(r"(/blobs/)[0-9a-f]{2}$", r"\1ab", path)


@contextmanager
def running_traced_node(directory: Path) -> Iterator[TracedNode]:
    """Run the web server of a node with one replica under strace."""
    port, trace = free_port(), directory / "trace"
    settings = {"REDIS_URL": "redis://127.0.0.1:1", "REPLICA2_PATH": "", "WEB_CONCURRENCY": "1"}
    settings |= {"PORT": str(port), "DFS_WAL_SEGMENT_BYTES": str(SEGMENT_BYTES)}
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), "wsgi:app"]
    strace = ["strace", "-f", "-y", "--seccomp-bpf", "-s", "12", "-o", str(trace), "-e"]
    with subprocess.Popen(
        [*strace, f"trace={CALLS}", *gunicorn],
        cwd=directory,
        env=program_environ(directory, settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        node = TracedNode(f"http://127.0.0.1:{port}", trace, directory)
        try:
            waiting = urllib3.Retry(total=400, backoff_factor=0.1, backoff_max=0.1)
            node.pool.request("GET", f"{node.url}/ready", retries=waiting)
            yield node
        finally:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            for child in children.split():  # strace itself waits for what it traces
                os.kill(int(child), signal.SIGTERM)
            process.wait(END_TIMEOUT_S)


def upload(node: TracedNode, body: bytes, **headers: str) -> Any:
    """Store a file; return what is answered."""
    return node.ask("POST", "/upload?name=a", body, **headers)


def upload_twice(node: TracedNode) -> Any:
    """Store a file synchronously, behind one with which the replica is caught up."""
    upload(node, b"first", **SYNC)
    return upload(node, b"second", **SYNC)


def upload_form(node: TracedNode) -> Any:
    """Store two files by one form."""
    fields = [("file", ("x", b"x")), ("file", ("y", b"y"))]
    body, content_type = urllib3.encode_multipart_formdata(fields)
    return node.ask("POST", "/upload", body, Content_Type=content_type)


def begin(node: TracedNode) -> None:
    """Store the file that others work on."""
    node.file_id = upload(node, b"a")["id"]


def make_key(node: TracedNode) -> None:
    """Make the key that is shown from then on, and another one to be revoked."""
    node.key = node.ask("POST", "/admin/keys", {"name": "me", "scopes": ["read", "write", "admin"]})


def revoke_key(node: TracedNode) -> None:
    """Revoke a key: the last one, by that which only refuses it, would be no use."""
    other = node.ask("POST", "/admin/keys", {"name": "other", "scopes": ["read"]})
    node.ask("DELETE", f"/admin/keys/{other['id']}")


def read_only(node: TracedNode) -> None:
    """Ask for what changes nothing."""
    node.ask("GET", "/files")
    node.ask("POST", "/signed-urls", {"file_id": node.file_id})


def fill(node: TracedNode) -> None:
    """Store what fits into the segment no more."""
    upload(node, FILLING)
    upload(node, FILLING + b"2")


SYNC = {"DFS_Replication": "sync"}
REQUESTS: dict[str, Callable[[TracedNode], Any]] = {
    "upload of up to `DFS_INLINE_BLOB_BYTES_MAX` (64 KiB)": begin,
    "larger upload": lambda node: upload(node, LARGE),
    "larger upload of bytes that are there": lambda node: upload(node, LARGE),
    "form with several small files": upload_form,
    "change of a file": lambda node: node.ask("PATCH", f"/files/{node.file_id}", {"name": "b"}),
    "delete": lambda node: node.ask("DELETE", f"/files/{node.file_id}"),
    "restore": lambda node: node.ask("POST", f"/files/{node.file_id}/restore"),
    "upload of up to 64 KiB, `DFS-Replication: sync`": upload_twice,
    "larger upload, `DFS-Replication: sync`": lambda node: upload(node, LARGER, **SYNC),
    "new API key": make_key,
    "revoked API key": revoke_key,
    "download, listing, signed URL": read_only,
    "request that is refused": lambda node: upload(node, b"", Content_MD5="no"),
    "upload that finds the segment full": fill,
}


def rows() -> dict[str, list[str]]:
    """Return the calls that the page names for each request."""
    table = PAGE.text.partition("<!-- synced -->")[2].partition("<!-- /synced -->")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()[3:]]
    return {request: re.findall(r"`([^`]+)`", calls) for request, calls in cells}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The calls before the last answer to each request, by its name in the table."""
    directory = tmp_path_factory.mktemp("traced")
    counts = {}
    with running_traced_node(directory) as node:
        for name, request in REQUESTS.items():
            request(node)
            counts[name] = len(node.calls_of_answers())
    answers = node.calls_of_answers()
    return {name: answers[count - 2] for name, count in counts.items()}


def by_store(calls: list[str]) -> dict[str, list[str]]:
    """Return the calls of each store, in order: stores work at the same time."""
    stores = sorted(calls, key=lambda call: call.split()[1].split("/")[0])
    return {
        store: list(group)
        for store, group in groupby(stores, key=lambda call: call.split()[1].split("/")[0])
    }


@pytest.mark.integration
@pytest.mark.parametrize("request_name", rows())
def test_synced_before_the_answer_is_what_the_page_says(
    seen: dict[str, list[str]], request_name: str
) -> None:
    """Each call of the table is made, in its order, before the answer leaves; and no other one."""
    assert by_store(seen[request_name]) == by_store(rows()[request_name])


def test_tests_of_this_module_share_a_process(request: pytest.FixtureRequest) -> None:
    """Under xdist they are of one group, so that one node serves them all."""
    is_parallel = hasattr(request.config, "workerinput")
    assert request.node.nodeid.endswith("@traced") is is_parallel


def test_page_names_every_kind_of_request() -> None:
    """A row of the table that nobody tries, or a request without a row, cannot exist."""
    assert list(rows()) == list(REQUESTS)
