"""Bytes and requests in flight, by route: counted once each, whatever becomes of a request."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.api.conftest import MakeApp
from tests.api.test_files import store
from tests.api.test_parking import Parking

LARGE = bytes(3_000_000)
DOWNLOAD = "/download/<file_id>"


def told(app: Flask, name: str, **labels: str) -> float | None:
    """Return the value of one sample of the metrics, or None."""
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    for line in app.test_client().get("/metrics").text.splitlines():
        match = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        if match and set((match[1] or "").split(",")) - {""} == wanted:
            return float(match[2])
    return None


def received(app: Flask, method: str, route: str) -> float | None:
    """Return the bytes of bodies that came to a route."""
    return told(app, "dfs_http_received_bytes_total", method=method, url_rule=route)


def sent(app: Flask, method: str, route: str) -> float | None:
    """Return the bytes of bodies that a route sent."""
    return told(app, "dfs_http_sent_bytes_total", method=method, url_rule=route)


def in_flight(app: Flask, route: str) -> float | None:
    """Return how many requests of a route have not ended."""
    return told(app, "dfs_http_requests_in_flight", url_rule=route)


def test_bytes_are_those_of_bodies_in_and_out(client: FlaskClient) -> None:
    """Of what is sent as it is read, too: whole, as a range, and in several parts."""
    app = client.application
    file = store(client, "a", LARGE)
    path = f"/download/{file['id']}"
    assert received(app, "POST", "/upload") == len(LARGE)
    expected = 0
    for headers in ({}, {"Range": "bytes=5-1500004"}, {"Range": "bytes=0-1,1000000-2500000"}):
        expected += len(client.get(path, headers=headers).data)
    assert expected > 6_000_000
    assert sent(app, "GET", DOWNLOAD) == expected
    assert sent(app, "POST", "/upload") > 200
    assert received(app, "GET", DOWNLOAD) == 0


def test_bytes_of_a_head_and_of_small_files(client: FlaskClient) -> None:
    """HEAD says how long an answer would be, and sends none of it."""
    app = client.application
    file = store(client, "a", b"small")
    client.head(f"/download/{file['id']}")
    client.head("/files")
    client.get(f"/download/{file['id']}")
    assert sent(app, "HEAD", DOWNLOAD) == 0
    assert sent(app, "HEAD", "/files") == 0
    assert sent(app, "GET", DOWNLOAD) == 5


def test_bytes_of_a_body_that_is_refused_are_those_that_were_read(client: FlaskClient) -> None:
    """What is not worth reading has not come in."""
    client.post("/upload?name=%07", data=LARGE)
    assert received(client.application, "POST", "/upload") == 0


def test_download_is_in_flight_until_its_last_byte(client: FlaskClient) -> None:
    """That its view has returned long before, says nothing of how busy the node is."""
    app = client.application
    file = store(client, "a", LARGE)
    response = client.get(f"/download/{file['id']}")
    assert in_flight(app, DOWNLOAD) == 1
    assert sent(app, "GET", DOWNLOAD) == 0
    assert len(response.data) == len(LARGE)
    response.close()
    assert in_flight(app, DOWNLOAD) == 0


def test_download_that_is_broken_off_has_ended(client: FlaskClient) -> None:
    """The client is gone; what it got until then has been sent."""
    app = client.application
    response = client.get(f"/download/{store(client, 'a', LARGE)['id']}")
    piece = next(iter(response.response))
    response.close()
    response.close()
    assert in_flight(app, DOWNLOAD) == 0
    assert sent(app, "GET", DOWNLOAD) == len(piece) < len(LARGE)


def test_request_that_waits_for_its_commit_is_in_flight(make_app: MakeApp) -> None:
    """It has no thread meanwhile, and is not forgotten."""
    app = make_app()
    server = Parking(app)
    parked = [server.upload(b"body", name) for name in ("a", "b")]
    assert in_flight(app, "/upload") == 2
    server.crew.do_chore()
    assert [b"".join(request.go_on())[:1] for request in parked] == [b"{", b"{"]
    assert in_flight(app, "/upload") == 0
    assert received(app, "POST", "/upload") == 8


@pytest.mark.parametrize(
    ("path", "route"),
    [("/nowhere", ""), ("/files?limit=x", "/files"), ("/broken", "/broken")],
)
def test_request_that_fails_has_ended(make_app: MakeApp, path: str, route: str) -> None:
    """Refused or broken, it is answered once."""
    app = make_app()
    app.add_url_rule("/broken", "broken", lambda: 1 // 0)
    for _ in range(2):
        app.test_client().get(path)
    assert in_flight(app, route) == 0


def test_scrape_is_not_in_flight(client: FlaskClient) -> None:
    """Whoever watches does not see himself."""
    assert in_flight(client.application, "/metrics") is None


def test_request_that_is_in_its_view_is_in_flight(make_app: MakeApp) -> None:
    """Seen from inside of one."""
    app = make_app(DFS_AUTH="off")
    seen: list[float | None] = []

    def look() -> str:
        seen.append(in_flight(app, "/look"))
        return ""

    app.add_url_rule("/look", "look", look)
    app.test_client().get("/look")
    assert seen == [1]
