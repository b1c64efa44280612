"""A whole node, traced: its processes make one trace, and lose no span at their end."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3

from tests.otlp import TakenSpan, running_collector
from tests.project.nodes import RunningNode, running_node

pytestmark = pytest.mark.integration

BEFORE_ANY_EXPORT = "600000"
"""Milliseconds between exports: so only the end of a process sends what it has."""
UPLOADS = 6
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


def upload(node: RunningNode, number: int) -> None:
    """Store a blob file as a client that has a trace of its own, and wait until all is replicated.

    Whether its hint or the schedule is first to ask for the job is luck.
    """
    headers = {"Connection": "close", "traceparent": f"00-{number:032x}-{number:016x}-01"}
    body = number.to_bytes(2, "big") * 50_000
    path = f"{node.url}/upload?name=hush-{number}"
    answer = urllib3.request("POST", path, body=body, headers=headers, retries=False, timeout=20)
    assert answer.status == 201
    status, synced = node.request("POST", "/admin/replicas/sync?wait=20")
    assert (status, json.loads(synced)["done"]) == (202, True)


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
        with running_node(tmp_path, **settings) as node:
            for number in range(1, UPLOADS + 1):
                upload(node, number)
            upload_at_once(node, CROWD)
            refusal = refuse_early(node)
            status, output = node.end(signal.SIGTERM)
    assert status == 0
    head, _, problem = refusal.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert f'"trace_id": "{json.loads(problem)["trace_id"]}"' in output
    traces = [spans_of(collector.spans, number) for number in range(1, UPLOADS + 1)]
    whole = [spans for spans in traces if {span.name for span in spans} >= WHOLE]
    assert whole, [sorted({span.name for span in spans}) for spans in traces]
    assert_connected(whole[0])
    assert_told(output, whole[0][0].trace_id)
    for number in CROWD:
        (request,) = [s for s in spans_of(collector.spans, number) if s.name == "POST /upload"]
        assert request.parent_id == f"{number:016x}"
    assert any("redis" in str(span.attributes) for span in whole[0])
    assert {span.resource["service.name"] for span in collector.spans} == {"dfs-test"}
    assert "hush" not in repr(collector.spans) + output


def assert_told(output: str, trace_id: str) -> None:
    """Check that the logs of the request and of its job name the trace."""
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    told = {event["event"] for event in events if event.get("trace_id") == trace_id}
    assert {"request", "job_ended"} <= told


def spans_of(spans: list[TakenSpan], number: int) -> list[TakenSpan]:
    """Return the spans of the trace of a client."""
    return [span for span in spans if span.trace_id == f"{number:032x}"]


def assert_connected(spans: list[TakenSpan]) -> None:
    """Check that each span is a part of another one, and the first of the client's."""
    ids = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_id not in ids]
    assert [span.name for span in roots] == ["POST /upload"]
    by_name = {span.name: span for span in spans}
    job, enqueue = by_name["job replicate"], by_name["enqueue"]
    assert job.parent_id in {span.span_id for span in spans if span.name == "enqueue"}
    assert enqueue.parent_id == by_name["commit"].span_id
