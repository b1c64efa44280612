"""The access log tells of each request what an operator asks for, and no secret."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.contextvars import clear_contextvars, merge_contextvars
from structlog.testing import capture_logs

from dfs.core.errors import DfsError
from tests.api.conftest import MakeApp
from tests.api.keys import basic, bearer_of, make_key
from tests.api.test_parking import LARGE, Parking, finish

Events = list[Any]


def requests_of(events: Events) -> Events:
    """Return the events of the access log, with what differs each time checked and taken out."""
    found = [event for event in events if event["event"] == "request"]
    for event in found:
        assert event.pop("duration_ms") > 0
        assert len(event.pop("request_id")) == 26
        assert (event.pop("log_level"), event.pop("event")) == ("info", "request")
    return found


def test_access_log_tells_of_uploads_and_downloads(make_app: MakeApp) -> None:
    """Route, path, status, bytes, the LSN of a change; nothing of the query."""
    client = make_app(DFS_ACCESS_LOG="on").test_client()
    with capture_logs() as events:
        stored = client.post("/upload?name=private", data=b"x" * LARGE, buffered=True)
        file_id = stored.json["id"]
        client.get(f"/download/{file_id}", headers={"Range": "bytes=0-9"}, buffered=True)
        client.head(f"/download/{file_id}", buffered=True)
        unknown = client.get("/nowhere?name=private", buffered=True)
    shared = {"remote": "127.0.0.1", "complete": True, "bytes_in": 0}
    path = f"/download/{file_id}"
    download = {**shared, "method": "GET", "route": "/download/<file_id>", "path": path}
    assert requests_of(events) == [
        {
            **shared,
            "method": "POST",
            "route": "/upload",
            "path": "/upload",
            "status": 201,
            "lsn": stored.json["lsn"],
            "bytes_in": LARGE,
            "bytes_out": len(stored.data),
        },
        {**download, "status": 206, "bytes_out": 10},
        {**download, "method": "HEAD", "status": 200, "bytes_out": 0},
        {
            **shared,
            "method": "GET",
            "path": "/nowhere",
            "status": 404,
            "bytes_out": len(unknown.data),
        },
    ]
    assert "private" not in str(events)


def test_access_log_names_the_key_and_no_secret(make_app: MakeApp) -> None:
    """Who asked is told by the id of the key; credentials, right or wrong, never are."""
    app = make_app(DFS_ACCESS_LOG="on")
    made = make_key(app.extensions["dfs"].services)
    client = app.test_client()
    with capture_logs() as events:
        client.get("/files", headers=bearer_of(made), buffered=True)
        client.get("/files", headers=basic(made.key.id, made.secret + "x"), buffered=True)
        client.get("/files?sig_key=a&sig=hushhush", buffered=True)
    right, wrong, signed = requests_of(events)
    assert (right["key_id"], right["status"]) == (made.key.id, 200)
    assert ("key_id" in wrong, wrong["status"], signed["status"]) == (False, 401, 401)
    assert made.secret not in str(events)
    assert "hushhush" not in str(events)


def test_access_log_tells_once_of_a_request_that_was_left(make_app: MakeApp) -> None:
    """An upload that waits for its commit without a thread is told of when it is answered."""
    parking = Parking(make_app(DFS_ACCESS_LOG="on"))
    with capture_logs() as events:
        parked = parking.ask("POST", "/upload", b"x", "name=a")
        assert requests_of(events) == []
        assert parking.crew.do_chore()
        body: Any = parked.go_on()  # type: ignore[union-attr]
        sent = b"".join(body)
        body.close()
        body.close()
    (told,) = requests_of(events)
    assert (told["status"], told["bytes_in"], told["bytes_out"]) == (201, 1, len(sent))


def test_access_log_tells_that_an_answer_was_broken_off(make_app: MakeApp) -> None:
    """A download whose client goes away is not complete."""
    parking = Parking(make_app(DFS_ACCESS_LOG="on"))
    stored = parking.ask("POST", "/upload", b"x" * (3 << 20), "name=a")
    parking.crew.do_chore()
    list(stored.go_on())  # type: ignore[union-attr]
    file_id = parking.headers["Location"].rpartition("/")[2]
    with capture_logs() as events:
        body: Any = parking.ask("GET", f"/download/{file_id}")
        next(iter(body))
        body.close()
    (told,) = requests_of(events)
    assert (told["status"], told["bytes_out"], told["complete"]) == (200, 1 << 20, False)


def test_access_log_leaves_no_answer_to_the_garbage_collector(make_app: MakeApp) -> None:
    """An answer and what it holds go with the end of its request."""
    parking = Parking(make_app(DFS_ACCESS_LOG="on"))
    parked = parking.upload(b"x" * 100_000, "a")
    parking.crew.do_chore()
    finish(parked)
    file_id = parking.headers["Location"].rpartition("/")[2]
    body: Any = parking.ask("GET", f"/download/{file_id}")
    answer = weakref.ref(body._body)
    gc.disable()
    try:
        assert len(b"".join(body)) == 100_000
        body.close()
        del body
        assert answer() is None
    finally:
        gc.enable()


def test_access_log_is_off_by_default(make_app: MakeApp) -> None:
    """Nothing is told, and no body is looked at."""
    app = make_app()
    with capture_logs() as events:
        assert app.test_client().get("/health", buffered=True).status_code == 200
    assert events == []
    assert app.access_log is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(("limit_ms", "expected"), [("1", ["request_slow"]), ("60000", [])])
def test_slow_requests_are_worth_a_warning(
    make_app: MakeApp, limit_ms: str, expected: list[str]
) -> None:
    """Only those that take as long as the setting says, and without the access log, too."""
    client = make_app(DFS_SLOW_REQUEST_MS=limit_ms).test_client()
    with capture_logs() as events:
        client.post("/upload?name=a", data=b"x", buffered=True)  # which opens the node
    assert [event["event"] for event in events if event["event"][:7] == "request"] == expected


def test_events_of_a_request_name_request_and_key(make_app: MakeApp) -> None:
    """Whatever is logged while a request is served can be found by its id, and by its key's."""
    app = make_app()
    services = app.extensions["dfs"].services
    made = make_key(services)
    with capture_logs(processors=[merge_contextvars]) as events:
        services.log.control.mark_read_only("for a test")
        answer = app.test_client().post("/upload?name=a", data=b"x", headers=bearer_of(made))
    assert answer.json["code"] == "wal_read_only"
    failed = next(event for event in events if event["event"] == "request_failed")
    assert (failed["request_id"], failed["key_id"]) == (answer.json["request_id"], made.key.id)


def test_events_of_the_next_request_name_no_key_of_the_last(make_app: MakeApp) -> None:
    """On a server that cannot leave requests, too, a thread forgets who has asked before."""
    app = make_app()
    made = make_key(app.extensions["dfs"].services)
    with capture_logs(processors=[merge_contextvars]) as events:
        assert app.test_client().get("/files", headers=bearer_of(made)).status_code == 200
        structlog.get_logger().info("next")
    (told,) = [event for event in events if event["event"] == "next"]
    assert told.keys() == {"event", "log_level"}


def test_commits_are_told_of_when_all_is_to_be(make_app: MakeApp) -> None:
    """With the level debug each commit says what it did, up to which LSN, and how long it took."""
    app = make_app(DFS_LOG_LEVEL="debug")
    with capture_logs() as events:
        stored = app.test_client().post("/upload?name=a", data=b"x")
    (told,) = [event for event in events if event["event"] == "committed"]
    assert (told["changes"], told["lsn"]) == (1, stored.json["lsn"])
    assert 0 < told["first_lsn"] <= told["lsn"]
    assert told["log_bytes"] > 0
    assert told["sync_ms"] > 0
    assert told["lock_wait_ms"] >= 0


def test_events_of_a_streamed_answer_name_its_request(make_app: MakeApp, tmp_path: Path) -> None:
    """What is logged while a body is sent, long after the view has returned, is of its request."""
    parking = Parking(make_app())
    parked = parking.upload(b"x" * (3 << 20), "a")
    parking.crew.do_chore()
    finish(parked)
    file_id = parking.headers["Location"].rpartition("/")[2]
    (blob,) = [path for path in (tmp_path / "primary" / "blobs").rglob("*") if path.is_file()]
    with blob.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"damage")
    body: Any = parking.ask("GET", f"/download/{file_id}", HTTP_X_REQUEST_ID="mine")
    clear_contextvars()  # as in a thread that serves something else
    with capture_logs(processors=[merge_contextvars]) as events, pytest.raises(DfsError):
        list(body)
    told = {event["event"]: event.get("request_id") for event in events}
    assert (told["damage_found"], told["download_cut"]) == ("mine", "mine")
