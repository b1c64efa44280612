"""Requests that wait for their change without a thread."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.globals import request_ctx

from dfs.api.parking import PARKING_KEY, Parked
from dfs.api.traffic import Slots
from dfs.core.errors import WalReadOnlyError
from dfs.services.crew import Chore, Crew
from tests.api.conftest import MakeApp

LARGE = 100_000


class DoingCrew(Crew):
    """A crew that does its chore when the test does."""

    does_chores = True

    def __init__(self) -> None:
        super().__init__(gather_s=0)
        self.chore: Chore | None = None

    def take_on(self, chore: Chore) -> None:
        """Know the chore."""
        self.chore = chore

    def do_chore(self) -> bool:
        """Do the chore. False: there was nothing to do."""
        if self.chore is None or not self.chore.is_due():
            return False
        self.chore.do()
        return True


class Parking:
    """An application on a server that can leave requests."""

    def __init__(self, app: Flask) -> None:
        self.crew = DoingCrew()
        self._app: Any = app
        app.extensions["dfs"].crew = self.crew
        self.status = ""
        self.headers: dict[str, str] = {}

    def ask(
        self, method: str, path: str, body: bytes = b"", query: str = "", **headers: str
    ) -> Iterable[bytes] | Parked:
        """Send a request."""
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.errors": io.StringIO(),
            PARKING_KEY: True,
            **headers,
        }
        answer: Iterable[bytes] | Parked = self._app(environ, self._begin)
        return answer

    def upload(self, body: bytes, name: str, **headers: str) -> Parked:
        """Upload; the request must have been left."""
        parked = self.ask("POST", "/upload", body, f"name={name}", **headers)
        assert isinstance(parked, Parked)
        return parked

    def _begin(self, status: str, headers: list[tuple[str, str]], exc: Any = None) -> None:
        self.status = status
        self.headers = dict(headers)


def finish(parked: Parked) -> dict[str, Any]:
    """Return the answer to a request whose change is settled."""
    answer: dict[str, Any] = json.loads(b"".join(parked.go_on()))
    return answer


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """The application."""
    return make_app(DFS_UPLOADS_PER_CALLER_MAX="3", DFS_AUTH="off")


@pytest.fixture
def parking(app: Flask) -> Parking:
    """The same on such a server."""
    return Parking(app)


def test_uploads_are_left_and_share_a_commit(parking: Parking, app: Flask) -> None:
    """One thread receives several, commits once, and answers each with what became of it."""
    parked = [parking.upload(b"%d" % number, f"n{number}") for number in range(3)]
    log = app.extensions["dfs"].services.log
    syncs = log.sync_count
    assert parking.crew.do_chore()
    assert log.sync_count == syncs + 1
    answers = [finish(request) for request in parked]
    assert [answer["name"] for answer in answers] == ["n0", "n1", "n2"]
    assert parking.status == "201 CREATED"


def test_nothing_is_told_before_the_change_is_durable(parking: Parking) -> None:
    """The call comes with the commit, and before it there is no answer to be had."""
    parked = parking.upload(b"body", "name")
    told: list[str] = []
    parked.when_ready(lambda: told.append("ready"))
    assert (told, parking.status) == ([], "")
    assert parking.crew.do_chore()
    assert told == ["ready"]
    assert finish(parked)["durability"]["copies"] == 1


def test_commit_is_counted_before_anybody_hears_of_it(
    parking: Parking, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for the metrics after an answer finds his change there."""
    order: list[str] = []
    parked = parking.upload(b"body", "name")
    committer = app.extensions["dfs"].services.committer
    monkeypatch.setattr(committer, "_on_commit", lambda report: order.append("counted"))
    parked.when_ready(lambda: order.append("told"))
    assert parking.crew.do_chore()
    assert order == ["counted", "told"]
    finish(parked)


def test_requests_that_are_left_keep_their_own_context(parking: Parking) -> None:
    """Each is gone on with as the request that it was, though others came in between."""
    first = parking.upload(b"1", "first", HTTP_X_REQUEST_ID="id-1")
    second = parking.upload(b"2", "second", HTTP_X_REQUEST_ID="id-2")
    assert parking.crew.do_chore()
    assert not request_ctx
    assert finish(second)["name"] == "second"
    assert parking.headers["X-Request-ID"] == "id-2"
    assert finish(first)["name"] == "first"
    assert parking.headers["X-Request-ID"] == "id-1"
    assert not request_ctx


def test_request_whose_commit_fails_is_answered_with_a_problem(
    parking: Parking, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a commit belongs to those whose changes it had."""

    def fail(*_: object, **__: object) -> None:
        raise WalReadOnlyError("The disk failed.")

    parked = parking.upload(b"body", "name")
    log = app.extensions["dfs"].services.log
    monkeypatch.setattr(log, "append", fail)
    assert parking.crew.do_chore()
    problem = finish(parked)
    assert (parking.status[:3], problem["code"]) == ("503", "wal_read_only")


def test_upload_holds_its_slot_and_file_until_it_is_settled(
    parking: Parking, app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What belongs to an upload is given back when it ends, not when it is left."""
    slots: Slots = app.extensions["dfs.traffic"]
    parked = [parking.upload(os.urandom(LARGE), f"n{number}") for number in range(3)]
    staged = [path for path in (tmp_path / "primary" / "tmp").rglob("*") if path.is_file()]
    assert len(staged) == 3
    refused = parking.ask("POST", "/upload", b"x", "name=one-more")
    assert not isinstance(refused, Parked)
    assert parking.status.startswith("429")
    assert parking.crew.do_chore()
    assert slots._taken
    for request in parked:
        finish(request)
    assert not slots._taken
    assert not [path for path in (tmp_path / "primary" / "tmp").rglob("*") if path.is_file()]


def test_form_and_delete_are_left_too(parking: Parking) -> None:
    """Whatever waits for a commit on the hot way waits without a thread."""
    boundary = "b"
    form = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n\r\n'
        f"hello\r\n--{boundary}--\r\n"
    ).encode()
    parked = parking.ask(
        "POST", "/upload", form, CONTENT_TYPE=f"multipart/form-data; boundary={boundary}"
    )
    assert isinstance(parked, Parked)
    assert parking.crew.do_chore()
    file_id = finish(parked)["id"]
    removal = parking.ask("DELETE", f"/files/{file_id}")
    assert isinstance(removal, Parked)
    assert parking.crew.do_chore()
    assert b"".join(removal.go_on()) == b""
    assert parking.status == "204 NO CONTENT"
    parking.ask("GET", f"/download/{file_id}")
    assert parking.status.startswith("404")


def test_refused_upload_is_answered_at_once(parking: Parking) -> None:
    """What needs no commit is not left."""
    answer = parking.ask("POST", "/upload", b"x")
    assert not isinstance(answer, Parked)
    assert parking.status.startswith("422")
    assert not parking.crew.do_chore()
