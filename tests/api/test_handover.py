"""Which downloads are left to a proxy, and to whom they never are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import MakeApp

PREFIX = "/dfs-blobs/"
ASKED = {"DFS-Accel": PREFIX}
BODY = os.urandom(2_000_000)


@pytest.fixture
def client(make_app: MakeApp) -> FlaskClient:
    """Return a client of a node that has a proxy."""
    return make_app(DFS_ACCEL_PREFIX=PREFIX).test_client()


def store(client: FlaskClient, body: bytes = BODY) -> str:
    """Upload; return the path of the download."""
    response: Any = client.post("/upload", query_string={"name": "a.txt"}, data=body)
    return f"/download/{response.json['id']}"


def place_of(client: FlaskClient, path: str, **options: Any) -> str | None:
    """Return where a proxy is sent for a download; None if the body came."""
    response = client.get(path, buffered=True, **{"headers": ASKED, **options})
    place = response.headers.get("X-Accel-Redirect")
    assert response.status_code == 200
    assert (place is None) == (len(response.data) > 0)
    return place


def test_download_is_handed_over_when_it_was_read_whole(
    client: FlaskClient, tmp_path: Path
) -> None:
    """The proxy is told where, with all headers of the file and no body."""
    path = store(client)
    first, second = (client.get(path, headers=ASKED, buffered=True) for _ in range(2))
    assert (first.data, "X-Accel-Redirect" in first.headers) == (BODY, False)
    assert (second.status_code, second.data) == (200, b"")
    assert second.headers["Content-Length"] == "0"  # else nginx closes the connection to the node
    name = second.headers["X-Accel-Redirect"].removeprefix(PREFIX)
    assert (tmp_path / "primary" / "blobs" / name).read_bytes() == BODY
    for header in ("ETag", "Last-Modified", "Content-Type", "Content-Disposition", "Repr-Digest"):
        assert second.headers[header] == first.headers[header]


@pytest.mark.parametrize("ranges", ["bytes=0-1999998", "bytes=0-9,20-1999999"])
def test_download_in_part_proves_nothing(client: FlaskClient, ranges: str) -> None:
    """A file of which a part was read is not yet sound."""
    path = store(client)
    client.get(path, headers={"Range": ranges}, buffered=True)
    assert place_of(client, path) is None


def test_download_that_breaks_off_proves_nothing(client: FlaskClient) -> None:
    """The last block has to be checked, too."""
    path = store(client)
    with client.get(path, buffered=False) as response:
        assert len(next(iter(response.response))) == 1 << 20
    assert place_of(client, path) is None


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {}},
        {"headers": {"DFS-Accel": "1"}},
        {"headers": {"DFS-Accel": "/other/"}},
        {"headers": {**ASKED, "If-Match": "*"}},
        {"headers": {**ASKED, "Range": "bytes=9-1"}},
        {"environ_overrides": {"REMOTE_ADDR": "192.0.2.1"}},
        {"environ_overrides": {"REMOTE_ADDR": ""}},
    ],
)
def test_download_is_not_handed_over_to_others(
    client: FlaskClient, options: dict[str, Any]
) -> None:
    """Only to a proxy on this machine that names the place, if it will do the same as dfs."""
    path = store(client)
    client.get(path, buffered=True)
    assert place_of(client, path) is not None
    assert place_of(client, path, **options) is None


def test_download_of_an_inline_blob_is_not_handed_over(client: FlaskClient) -> None:
    """It has no file."""
    path = store(client, b"small")
    assert [place_of(client, path) for _ in range(2)] == [None, None]


def test_download_is_not_handed_over_without_the_setting(make_app: MakeApp) -> None:
    """An empty header is not an empty setting."""
    client = make_app().test_client()
    path = store(client)
    client.get(path, buffered=True)
    for word in ("", PREFIX):
        assert place_of(client, path, headers={"DFS-Accel": word}) is None


def test_handovers_are_counted(client: FlaskClient) -> None:
    """By the metrics, each of them."""
    path = store(client)
    client.get(path, buffered=True)
    for _ in range(3):
        place_of(client, path)
    assert b"\ndfs_downloads_handed_over_total 3.0\n" in client.get("/metrics").data
