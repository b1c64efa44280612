"""Traces must join what belongs together, cost nobody who wants none, and hold no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from flask import Flask
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from redis import Redis
from rq.serializers import JSONSerializer
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from dfs.app import create_app
from dfs.core.config import load_config
from dfs.core.signing import make_token
from dfs.core.tracing import TRACEPARENT, Spans, in_context
from dfs.queue.checked import CheckedJob
from dfs.telemetry import recording
from dfs.telemetry.recording import open_recording
from dfs.telemetry.tracing import is_wanted
from tests.api.test_parking import Parking, finish
from tests.otlp import Collector, TakenSpan, running_collector
from tests.redis_server import running_redis

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE_ID, CLIENT_SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT_HEADER = f"00-{TRACE_ID}-{CLIENT_SPAN_ID}-01"
NOTHING = f"00-{'0' * 32}-{'0' * 16}-01"
"""What looks like a span, and is none."""
CLIENT = 3
"""The kind of a span that waits for a server."""
MakeTraced = Callable[..., Flask]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, to which this process sends its spans."""
    with running_collector() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield collector


@pytest.fixture
def make_traced(tmp_path: Path, sqlite_url: str, collector: Collector) -> Iterator[MakeTraced]:
    """Return a maker of applications that are traced."""
    apps: list[Flask] = []

    def make(**settings: str) -> Flask:
        environ = {
            "DATABASE_URL": sqlite_url,
            "STORAGE_PATH": str(tmp_path / "primary"),
            "WAL_PATH": str(tmp_path / "wal"),
            "DFS_RUN_PATH": str(tmp_path / "run"),
            "REPLICA1_PATH": str(tmp_path / "replica1"),
            "REPLICA2_PATH": "",
            "DFS_AUTH": "off",
            **settings,
        }
        apps.append(create_app(load_config(environ, env_file="")))
        return apps[-1]

    yield make
    for app in apps:
        app.extensions["dfs"].close()
        app.extensions["dfs.tracing"].close()


@pytest.fixture
def spans(collector: Collector) -> Iterator[Spans]:
    """The spans of this process."""
    opened = open_recording(node_id="node-7", uses_postgres=False)
    yield opened.spans
    opened.close()


def is_child(child: TakenSpan, parent: TakenSpan) -> bool:
    """Tell whether a span is a part of another one."""
    return (child.trace_id, child.parent_id) == (parent.trace_id, parent.span_id)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({ENDPOINT: "http://x"}, True),
        ({ENDPOINT: " "}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({ENDPOINT: "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: "http://x", "OTEL_TRACES_EXPORTER": "console"}, None),
        ({ENDPOINT: "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({ENDPOINT: "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        ({ENDPOINT: "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None),
    ],
)
def test_tracing_is_wanted_by_the_standard_variables(
    environ: dict[str, str], expected: bool | None
) -> None:
    """Off by default; what is asked for and cannot be had is told, and off."""
    with capture_logs() as events:
        assert is_wanted(environ) is bool(expected)
    assert [event["event"] for event in events] == ["tracing_not_possible"] * (expected is None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_PYTHON_FLASK_EXCLUDED_URLS", "("),
        ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "accept,["),
        ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE", "("),
    ],
)
def test_tracing_with_a_senseless_variable_stops_no_node(
    make_traced: MakeTraced,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    """The node serves without traces, and says why."""
    monkeypatch.setenv(name, value)
    with capture_logs() as events:
        app = make_traced()
    assert [event["event"] for event in events] == ["tracing_not_started"]
    assert app.test_client().post("/upload?name=a", data=b"x").status_code == 201


def test_tracing_that_cannot_be_imported_stops_no_node() -> None:
    """Some variables are looked at by an import, which the master does before it forks."""
    code = (
        "from dfs.telemetry.tracing import Tracing, load_tracing, open_tracing; load_tracing();"
        "print(type(open_tracing(node_id='a', database_url='')) is Tracing)"
    )
    environ = {**os.environ, ENDPOINT: "http://127.0.0.1:9", "OTEL_PROPAGATORS": "unknown"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert "tracing_not_started" in result.stdout
    assert result.stdout.endswith("True\n")


def test_upload_is_one_trace_down_to_the_sync(
    make_traced: MakeTraced, collector: Collector
) -> None:
    """Request, write, commit, publish and sync are one tree, below the client's own span."""
    client = make_traced().test_client()
    headers = {"traceparent": TRACEPARENT_HEADER}
    stored = client.post("/upload?name=private", data=b"x" * 100_000, headers=headers)
    request, write, commit, publish, sync, index = collector.named(
        "POST /upload", "store.write", "commit", "store.publish", "commit.sync", "commit.index"
    )
    assert (request.trace_id, request.parent_id) == (TRACE_ID, CLIENT_SPAN_ID)
    assert is_child(write, request)
    assert is_child(commit, request)
    assert all(is_child(span, commit) for span in (publish, sync, index))
    assert write.ended_ns <= commit.started_ns
    assert write.attributes["dfs.bytes"] == 100_000
    assert write.attributes["dfs.store"] == "primary"
    assert commit.attributes["dfs.lsn"] == stored.json["lsn"]
    assert commit.attributes["dfs.changes"] == 1
    assert commit.attributes["dfs.log_bytes"] > 0
    assert commit.attributes["dfs.lock_wait_ms"] >= 0
    assert request.resource["service.name"] == "dfs"
    assert request.resource["service.instance.id"] == "node-1"


def test_download_is_traced_until_its_last_byte(
    make_traced: MakeTraced, collector: Collector
) -> None:
    """The read of a blob file belongs to its request, and has all of its bytes."""
    client = make_traced().test_client()
    data = b"x" * (3 << 20)
    file_id = client.post("/upload?name=a", data=data).json["id"]
    assert client.get(f"/download/{file_id}").data == data
    request, read = collector.named("GET /download/<file_id>", "store.read")
    assert is_child(read, request)
    assert read.attributes["dfs.bytes"] == len(data)


def test_requests_that_share_a_commit_are_linked_with_it(
    make_traced: MakeTraced, collector: Collector
) -> None:
    """One is its parent; the others, each a trace of its own, know it and are known to it.

    They are left while they wait, in the one thread that serves another request meanwhile: none is
    taken for a part of another.
    """
    parking = Parking(make_traced())
    names = ("a", "b", "c")
    parked = [parking.upload(b"%d" % number, name) for number, name in enumerate(names)]
    b"".join(parking.ask("GET", "/files"))  # type: ignore[arg-type]
    assert parking.crew.do_chore()
    for request in reversed(parked):
        finish(request)
    collector.named("commit", "GET /files")
    spans = collector.wait_for(lambda spans: sum(s.name == "POST /upload" for s in spans) == 3)
    (commit,) = [span for span in spans if span.name == "commit"]
    uploads = [span for span in spans if span.name == "POST /upload"]
    parent = next(span for span in uploads if is_child(commit, span))
    others = [span for span in uploads if span is not parent]
    assert sorted(commit.links) == sorted(span.span_id for span in others)
    assert [span.links for span in others] == [(commit.span_id,)] * 2
    assert commit.attributes["dfs.changes"] == 3
    roots = [span for span in spans if span.name in ("POST /upload", "GET /files")]
    assert len({span.trace_id for span in roots}) == 4
    assert {span.parent_id for span in roots} == {""}


def test_request_after_a_parked_one_logs_its_own_ids(
    make_traced: MakeTraced, collector: Collector
) -> None:
    """Each line of the log, and each problem, has the trace of its own request."""
    app = make_traced()
    parking = Parking(app)
    first = parking.upload(b"x", "a", HTTP_TRACEPARENT=TRACEPARENT_HEADER)
    app.extensions["dfs"].services.log.control.mark_read_only("for a test")
    tell_trace = structlog.get_config()["processors"][0]
    with capture_logs(processors=[merge_contextvars, tell_trace]) as events:
        second = parking.upload(b"y", "b")
        parking.crew.do_chore()
        problems = [finish(second), finish(first)]
    failed = [event for event in events if event["event"] == "request_failed"]
    for event, problem in zip(failed, problems, strict=True):
        assert event["trace_id"] == problem["trace_id"]
        assert event["request_id"] == problem["request_id"]
        assert len(event["span_id"]) == 16
    assert problems[0]["trace_id"] != problems[1]["trace_id"] == TRACE_ID


def test_spans_hold_no_name_signature_or_credential(
    make_traced: MakeTraced, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in a query or in `Authorization` reaches no collector, by old names or new."""
    for mode in ("", "http/dup"):
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", mode)
        monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
        client = make_traced().test_client()
        client.get(
            "/download/x?sig_key=K&sig=hush-signature", headers={"Authorization": "Bearer hush-key"}
        )
        client.post(
            "/upload?name=hush-name", data=b"hush-data", headers={"DFS-Metadata": '{"hush-m": "1"}'}
        )
    spans = collector.wait_for(lambda spans: sum(s.name == "POST /upload" for s in spans) == 2)
    assert "hush" not in repr(spans)
    names = {name for span in spans for name in span.attributes}
    assert {"http.target", "url.query", "url.path"} <= names


def test_spans_hold_no_key_that_stands_where_it_does_not_belong(
    make_traced: MakeTraced, collector: Collector
) -> None:
    """In a path, or in what was said of an error."""
    app = make_traced()
    token = make_token()
    key_id, secret = token[:16], token[17:]
    assert app.test_client().get(f"/download/{token}").status_code == 404
    with pytest.raises(ValueError, match="x"), app.extensions["dfs.tracing"].spans.span("fails"):
        raise ValueError(f"x {token}")
    asked, failed = collector.named("GET /download/<file_id>", "fails")
    assert asked.attributes["http.target"] == f"/download/{key_id}_***"
    assert secret not in repr(collector.spans)
    assert (failed.events[0]["exception.message"], failed.is_error) == (f"x {key_id}_***", True)
    assert failed.error.endswith("***")


def test_hostile_headers_are_no_error(make_traced: MakeTraced) -> None:
    """A trace or a host that is none is ignored."""
    parking = Parking(make_traced())
    for host in ("a b", "\xff", "[::1", "x:port", "a/b?c#d", "", "<x>"):
        for junk in ("junk", NOTHING, "\xff" * 600):
            names = ("HTTP_TRACEPARENT", "HTTP_TRACESTATE", "HTTP_BAGGAGE")
            headers = {"HTTP_HOST": host, **dict.fromkeys(names, junk)}
            answer = parking.ask("GET", "/nowhere", **headers)
            problem = json.loads(b"".join(answer))  # type: ignore[arg-type]
            assert (problem["status"], len(problem["trace_id"])) == (404, 32)


def test_probes_and_idle_work_make_no_trace(
    make_traced: MakeTraced, collector: Collector, spans: Spans
) -> None:
    """What a node is asked every few seconds, and asks by itself, is no trace."""
    app = make_traced()
    client = app.test_client()
    for path in ("/health", "/ready", "/metrics"):
        assert client.get(path).status_code == 200
    app.extensions["dfs"].services.stores.primary.has(bytes(32), 1)
    app.extensions["dfs"].services.stores.primary.confirm(bytes(32), 1)
    client.get("/files")
    collector.named("GET /files")
    assert {span.name for span in collector.spans} == {"GET /files"}


def test_replication_is_traced_in_its_threads(
    make_traced: MakeTraced, collector: Collector
) -> None:
    """Ship, copy and verify, with what they do to the stores, belong to who asked for them."""
    app = make_traced()
    app.test_client().post("/upload?name=a", data=b"x" * 100_000)
    services = app.extensions["dfs"].services
    spans = app.extensions["dfs.tracing"].spans
    with spans.span("job replicate", carried=TRACEPARENT_HEADER):
        assert services.replication.work("replica1", budget_s=30).blobs == 1
    job, ship, copy, verify = collector.named(
        "job replicate", "replication.ship", "replication.copy", "replication.verify"
    )
    assert (job.trace_id, job.parent_id) == (TRACE_ID, CLIENT_SPAN_ID)
    assert is_child(ship, job)
    assert is_child(copy, job)
    assert is_child(verify, copy)
    below = [span for span in collector.spans if span.trace_id == TRACE_ID and span.kind == CLIENT]
    parents = {(span.name, span.parent_id) for span in below}
    assert ("store.append", ship.span_id) in parents
    assert ("store.write", copy.span_id) in parents
    assert ("store.publish", copy.span_id) in parents
    assert ("store.read", verify.span_id) in parents
    assert ship.attributes["dfs.lsn"] == services.log.position.lsn


def test_synchronous_write_is_traced_on_the_replica(
    make_traced: MakeTraced, collector: Collector
) -> None:
    """What a request waits for on a replica belongs to its trace."""
    client = make_traced().test_client()
    headers = {"traceparent": TRACEPARENT_HEADER, "DFS-Replication": "sync"}
    assert client.post("/upload?name=a", data=b"x" * 100_000, headers=headers).status_code == 201
    collector.named("POST /upload", "commit.quorum", "replication.copy")
    on_replica = {
        span.name
        for span in collector.spans
        if span.trace_id == TRACE_ID and span.attributes.get("dfs.store") == "replica1"
    }
    assert {"store.append", "store.write", "store.publish", "store.read"} <= on_replica


def test_scrub_and_failures_are_traced(make_traced: MakeTraced, collector: Collector) -> None:
    """A scrub is a trace of its own; what fails is marked."""
    app = make_traced()
    app.test_client().post("/upload?name=a", data=b"x" * 100_000)
    services = app.extensions["dfs"].services
    services.scrub.work("primary", budget_s=30)
    (scrub,) = collector.named("replication.scrub")
    assert (scrub.parent_id, scrub.is_error) == ("", False)
    with pytest.raises(ValueError, match="no"), app.extensions["dfs.tracing"].spans.span("fails"):
        raise ValueError("no")
    assert collector.named("fails")[0].is_error


def test_carried_span_is_found_again_and_junk_is_not(collector: Collector, spans: Spans) -> None:
    """What `carry` returns joins another process to the trace; anything else begins a new one."""
    assert (spans.here(), spans.carry()) == (None, None)
    with spans.span("first"):
        carried = spans.carry()
        assert carried is not None
        assert TRACEPARENT.fullmatch(carried)
    for name, text in (("joined", carried), ("lost", "junk"), ("lost, too", NOTHING)):
        with spans.span(name, carried=text):
            pass
    first, joined, *lost = collector.named("first", "joined", "lost", "lost, too")
    assert is_child(joined, first)
    assert [span.parent_id for span in lost] == ["", ""]
    assert joined.resource["service.instance.id"] == "node-7"


def test_in_context_gives_each_call_the_callers_span(collector: Collector, spans: Spans) -> None:
    """A function run by another thread is a part of what it was made in, not of that thread."""
    with spans.span("outer"):
        carry = in_context(spans.carry)
        expected = spans.carry()
        meet = in_context(threading.Barrier(2, timeout=30).wait)
    with spans.span("other"):
        assert carry() == expected
        with ThreadPoolExecutor(2) as threads:  # several at a time, too
            met = [threads.submit(meet) for _ in range(2)]
            assert sorted(each.result() for each in met) == [0, 1]


@pytest.mark.parametrize("fault", ["away", "hanging", "rubbish", "refusing"])
def test_collector_that_fails_delays_nobody(
    make_traced: MakeTraced, collector: Collector, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Requests go on, the log says so once, and the end waits a bounded moment only."""
    monkeypatch.setattr(recording, "CLOSE_S", 0.3)
    if fault == "away":
        monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    elif fault == "hanging":
        collector.is_hanging.set()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    else:
        collector.answer = (200, b"\xff" * 100) if fault == "rubbish" else (400, b"no")
    app = make_traced()
    client = app.test_client()
    with capture_logs() as events:
        for number in range(20):
            assert client.post(f"/upload?name={number}", data=b"x").status_code == 201
        if fault in ("rubbish", "refusing"):
            collector.wait_for_requests(2)
        started_s = time.monotonic()
        app.extensions["dfs.tracing"].close()
        took_s = time.monotonic() - started_s
    assert took_s < 5
    told = [event["event"] for event in events if event["event"].startswith("spans_")]
    assert len(told) <= 1
    if fault == "refusing":
        assert told == ["spans_not_sent"]


def test_collector_that_comes_back_is_told_of_once(
    make_traced: MakeTraced, collector: Collector
) -> None:
    """The begin and the end of an outage are logged, each once."""
    collector.answer = (400, b"")
    client = make_traced().test_client()
    with capture_logs() as events:
        for count in (1, 2, 3):
            client.get("/files")
            collector.wait_for_requests(count)
        collector.answer = None
        client.get("/usage")
        collector.wait_for(lambda spans: spans)
        client.get("/files")
        collector.wait_for(lambda spans: len(spans) > 1)
    told = [event["event"] for event in events if event["event"].startswith("spans_")]
    assert told == ["spans_not_sent", "spans_sent_again"]


def test_end_of_a_process_loses_no_span(
    make_traced: MakeTraced, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits to be sent is sent by `close`."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    app = make_traced()
    app.test_client().get("/files")
    assert collector.spans == []
    app.extensions["dfs.tracing"].close()
    assert [span.name for span in collector.spans] == ["GET /files"]


def test_sampled_out_requests_are_not_sent(
    make_traced: MakeTraced, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard sampler is obeyed by all of a request; its id is told all the same."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    app = make_traced()
    client = app.test_client()
    client.post("/upload?name=a", data=b"x" * 100_000)
    assert len(client.get("/nowhere").json["trace_id"]) == 32
    client.get("/files", headers={"traceparent": TRACEPARENT_HEADER})
    app.extensions["dfs.tracing"].close()
    assert [span.name for span in collector.spans] == ["GET /files"]


def test_job_asked_for_by_a_request_carries_its_trace(
    make_traced: MakeTraced, collector: Collector, tmp_path: Path
) -> None:
    """A worker that runs it goes on with the trace; the commands to Redis are a part of it."""
    with running_redis(tmp_path / "redis") as server, Redis.from_url(server.url) as redis:
        client = make_traced(REDIS_URL=server.url).test_client()
        headers = {"traceparent": TRACEPARENT_HEADER}
        for path in ("/admin/replicas/sync", "/admin/replicas/scrub"):
            assert client.post(path, headers=headers).status_code == 202
        keys = redis.keys("rq:job:*")
        jobs = [
            CheckedJob.fetch(key.decode()[7:], connection=redis, serializer=JSONSerializer)
            for key in keys
        ]
        collector.named("POST /admin/replicas/sync", "POST /admin/replicas/scrub")
    assert {job.func_name for job in jobs} == {"workers.jobs.replicate", "workers.jobs.scrub"}
    assert {str(job.carried)[:36] for job in jobs} == {TRACEPARENT_HEADER[:36]}
    commands = [span for span in collector.spans if "redis" in str(span.attributes)]
    assert {span.trace_id for span in commands} == {TRACE_ID}


def test_statements_to_postgres_belong_to_requests(
    make_traced: MakeTraced, collector: Collector, postgres_url: str
) -> None:
    """SQL of a request is in its trace, without values; any other is in none."""
    client = make_traced(DATABASE_URL=postgres_url).test_client()
    stored = client.post("/upload?name=hush", data=b"x")
    assert stored.status_code == 201
    collector.named("commit", "POST /upload")
    statements = [span for span in collector.spans if "postgresql" in str(span.attributes)]
    commit = next(span for span in collector.spans if span.name == "commit")
    assert any(is_child(span, commit) for span in statements)
    assert all(span.parent_id for span in statements)
    assert "hush" not in repr(collector.spans)
