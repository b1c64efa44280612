"""A whole node, traced: its processes make one trace, and lose no span at their end."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3

from dfs.core.filelock import FileLock
from dfs.core.signs import SCHEDULER_NAME
from tests.otlp import TakenSpan, running_collector
from tests.project.nodes import RunningNode, running_node

pytestmark = pytest.mark.integration

BEFORE_ANY_EXPORT = "600000"
"""Milliseconds between exports: so only the end of a process sends what it has."""
TRACE_ID, CLIENT_SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
REPLICAS = ("replica1", "replica2")
CROWD = range(100, 116)
WHOLE = {
    "POST /upload",
    "store.write",
    "commit",
    "commit.sync",
    "store.publish",
    "enqueue",
    "job replicate",
    "replication.ship",
    "store.append",
    "replication.copy",
    "replication.verify",
}


@contextmanager
def only_hints(run_path: Path) -> Iterator[None]:
    """Stand for a scheduler process that asks for no jobs, so that the first is that of a hint."""
    run_path.mkdir(parents=True)
    lock = FileLock(run_path / SCHEDULER_NAME)
    with lock.hold(timeout_s=0) as is_held:
        assert is_held
        yield
    lock.close()


def upload_large(node: RunningNode, data: Path) -> None:
    """Store a blob file as a client that has a trace, and wait until the replicas have it."""
    headers = {"Connection": "close", "traceparent": f"00-{TRACE_ID}-{CLIENT_SPAN_ID}-01"}
    path = f"{node.url}/upload?name=hush"
    answer = urllib3.request(
        "POST", path, body=b"x" * 100_000, headers=headers, retries=False, timeout=20
    )
    assert answer.status == 201
    digest = answer.json()["sha256"]
    copies = [data / name / "blobs" / digest[:2] / digest[2:4] / digest for name in REPLICAS]
    deadline_s = time.monotonic() + 60
    while not all(copy.exists() for copy in copies):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def upload_at_once(node: RunningNode, numbers: Sequence[int]) -> None:
    """Store small files from as many clients at the same time, each with a trace of its own."""

    def store(number: int) -> int:
        headers = {"traceparent": f"00-{number:032x}-{number:016x}-01"}
        path = f"{node.url}/upload?name=hush-{number}"
        status: int = clients.request("POST", path, body=b"x" * number, headers=headers).status
        return status

    with (
        urllib3.PoolManager(maxsize=len(numbers), retries=False, timeout=20) as clients,
        ThreadPoolExecutor(len(numbers)) as threads,
    ):
        assert set(threads.map(store, numbers)) == {201}


def refuse_early(node: RunningNode) -> bytes:
    """Return the answer to an upload whose body, still to come, is not worth receiving."""
    address = urlsplit(node.url)
    with socket.create_connection((address.hostname, address.port or 80), timeout=20) as sock:
        sock.sendall(
            b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        )
        received = b""
        while data := sock.recv(65536):
            received += data
    return received


def test_node_makes_one_trace_from_upload_to_replica(tmp_path: Path) -> None:
    """What a request causes in another process is in its trace; the end of both sends it."""
    with running_collector() as collector:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": BEFORE_ANY_EXPORT,
            "OTEL_SERVICE_NAME": "dfs-test",
            "DFS_ACCESS_LOG": "on",
            "DFS_LOG_LEVEL": "debug",
        }
        with only_hints(tmp_path / "data" / "run"), running_node(tmp_path, **settings) as node:
            upload_large(node, tmp_path / "data")
            upload_at_once(node, CROWD)
            refusal = refuse_early(node)
            status, output = node.end(signal.SIGTERM)
    assert status == 0
    head, _, problem = refusal.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert f'"trace_id": "{json.loads(problem)["trace_id"]}"' in output
    whole = spans_of(collector.spans, TRACE_ID)
    assert {span.name for span in whole} >= WHOLE
    assert_connected(whole)
    assert_told(output, TRACE_ID)
    for number in CROWD:
        (request,) = [
            s for s in spans_of(collector.spans, f"{number:032x}") if s.name == "POST /upload"
        ]
        assert request.parent_id == f"{number:016x}"
    assert any("redis" in str(span.attributes) for span in whole)
    assert {span.resource["service.name"] for span in collector.spans} == {"dfs-test"}
    assert "hush" not in repr(collector.spans) + output


def assert_told(output: str, trace_id: str) -> None:
    """Check that the logs of the request and of its job name the trace."""
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    told = {event["event"] for event in events if event.get("trace_id") == trace_id}
    assert {"request", "job_ended"} <= told


def spans_of(spans: list[TakenSpan], trace_id: str) -> list[TakenSpan]:
    """Return the spans of a trace."""
    return [span for span in spans if span.trace_id == trace_id]


def assert_connected(spans: list[TakenSpan]) -> None:
    """Check that each span is a part of another one, and the first of the client's."""
    ids = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_id not in ids]
    assert [span.name for span in roots] == ["POST /upload"]
    by_name = {span.name: span for span in spans}
    job, enqueue = by_name["job replicate"], by_name["enqueue"]
    assert job.parent_id in {span.span_id for span in spans if span.name == "enqueue"}
    assert enqueue.parent_id == by_name["commit"].span_id
