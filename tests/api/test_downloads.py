"""Downloads: whole, in ranges, on conditions, and of damaged files."""

from __future__ import annotations

import base64
import email
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from dfs.core.errors import BlobCorruptError

SMALL = bytes(range(200))
LARGE = b"".join(bytes([number]) * 1_000_003 for number in range(4))
MIB = 1 << 20

Store = Callable[..., str]


@pytest.fixture
def store(client: FlaskClient) -> Store:
    """Return a function that uploads and returns the path of the download."""

    def upload(body: bytes, name: str = "a.txt", content_type: str = "text/plain") -> str:
        response: Any = client.post(
            "/upload", query_string={"name": name}, data=body, content_type=content_type
        )
        return f"/download/{response.json['id']}"

    return upload


@pytest.mark.parametrize("body", [b"", SMALL, LARGE], ids=["empty", "inline", "large"])
def test_download_whole_has_all_headers(client: FlaskClient, store: Store, body: bytes) -> None:
    """200 brings the bytes, and everything needed to keep, check and ask again."""
    response = client.get(store(body))
    digest = hashlib.sha256(body)
    assert (response.status_code, response.data) == (200, body)
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["Content-Type"] == "text/plain"
    assert response.headers["ETag"] == f'"{digest.hexdigest()}"'
    encoded = base64.b64encode(digest.digest()).decode()
    assert response.headers["Repr-Digest"] == f"sha-256=:{encoded}:"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Disposition"] == 'inline; filename="a.txt"'
    assert response.headers["Last-Modified"].endswith("GMT")


@pytest.mark.parametrize("body", [b"", SMALL, LARGE], ids=["empty", "inline", "large"])
def test_download_head_is_get_without_bytes(client: FlaskClient, store: Store, body: bytes) -> None:
    """HEAD has the headers of GET, and ignores Range."""
    path = store(body)
    with client.get(path) as got:
        headers = {name: value for name, value in got.headers.items() if name != "X-Request-ID"}
    head = client.head(path, headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.data) == (200, b"")
    assert {name: head.headers[name] for name in headers} == headers


@pytest.mark.parametrize(
    ("content_type", "name", "disposition"),
    [
        ("text/html", "a.html", 'attachment; filename="a.html"'),
        ("image/svg+xml", "ä", "attachment; filename=\"_\"; filename*=UTF-8''%C3%A4"),
    ],
)
def test_download_of_what_a_browser_runs_is_an_attachment(
    client: FlaskClient, store: Store, content_type: str, name: str, disposition: str
) -> None:
    """Nothing uploaded can run in the name of this server."""
    response = client.get(store(SMALL, name, content_type))
    assert response.headers["Content-Disposition"] == disposition
    assert "sandbox" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["inline", "large"])
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (5, 150), (199, 200), (0, MIB), (MIB - 1, MIB + 1), (3 * MIB, None)]
)
def test_download_single_range_is_exactly_that(
    client: FlaskClient, store: Store, body: bytes, start: int, stop: int | None
) -> None:
    """206 with Content-Range, or 416 with the size."""
    last = "" if stop is None else stop - 1
    response = client.get(store(body), headers={"Range": f"bytes={start}-{last}"})
    if start >= len(body):
        assert (response.status_code, response.json["code"]) == (416, "invalid_range")  # type: ignore[index]
        assert response.headers["Content-Range"] == f"bytes */{len(body)}"
        return
    expected = body[start:stop]
    assert (response.status_code, response.data) == (206, expected)
    end = start + len(expected) - 1
    assert response.headers["Content-Range"] == f"bytes {start}-{end}/{len(body)}"
    assert response.headers["Content-Length"] == str(len(expected))


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["inline", "large"])
def test_download_several_ranges_are_parts(client: FlaskClient, store: Store, body: bytes) -> None:
    """Each range is a part with its own Content-Range, in the order asked for."""
    wanted = [(100, 150), (0, 10), (len(body) - 5, len(body))]
    listed = ",".join(f"{start}-{stop - 1}" for start, stop in wanted)
    response = client.get(store(body), headers={"Range": f"bytes={listed}"})
    assert response.status_code == 206
    assert response.headers["Content-Length"] == str(len(response.data))
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    parts: Any = email.message_from_bytes(head + response.data).get_payload()
    for part, (start, stop) in zip(parts, wanted, strict=True):
        assert part.get_payload(decode=True) == body[start:stop]
        assert part["Content-Range"] == f"bytes {start}-{stop - 1}/{len(body)}"
        assert part["Content-Type"] == "text/plain"


def test_download_if_range_of_another_file_is_whole(client: FlaskClient, store: Store) -> None:
    """A range of bytes that are no longer those is not sent."""
    headers = {"Range": "bytes=0-1", "If-Range": '"other"'}
    assert client.get(store(SMALL), headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["get", "head"])
def test_download_known_is_304(client: FlaskClient, store: Store, method: str) -> None:
    """A client that has the file gets no bytes, but what it needs to keep it."""
    path = store(LARGE)
    etag = client.head(path).headers["ETag"]
    response = getattr(client, method)(path, headers={"If-None-Match": etag})
    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == etag
    assert "Content-Length" not in response.headers
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("method", ["get", "head"])
def test_download_of_another_than_demanded_is_412(
    client: FlaskClient, store: Store, method: str
) -> None:
    """If-Match names the only file wanted."""
    response = getattr(client, method)(store(LARGE), headers={"If-Match": '"other"'})
    assert response.status_code == 412


@pytest.mark.parametrize(
    "file_id",
    ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "x", "01arz3ndektsv4rrffq69g5fav", "a%00b", "%FF", "ä" * 26],
)
@pytest.mark.parametrize("path", ["/download/", "/files/"])
def test_download_of_an_unknown_id_is_404(client: FlaskClient, path: str, file_id: str) -> None:
    """Whatever is no id of a file is not found."""
    response = client.get(path + file_id)
    assert (response.status_code, response.json["code"]) == (404, "no_such_file")  # type: ignore[index]


def test_download_with_a_query_is_refused(client: FlaskClient, store: Store) -> None:
    """A parameter that means nothing is named, not ignored."""
    response = client.get(store(SMALL) + "?version=2")
    assert (response.status_code, list(response.json["errors"])) == (422, ["version"])  # type: ignore[index]


def damage(tmp_path: Path, offset: int) -> None:
    """Flip a byte of the only blob file."""
    (path,) = [path for path in (tmp_path / "primary" / "blobs").rglob("*") if path.is_file()]
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("ranges", [None, "bytes=0-9", "bytes=0-9,20-29"])
def test_download_damaged_in_the_first_block_is_a_problem(
    client: FlaskClient, store: Store, tmp_path: Path, ranges: str | None
) -> None:
    """Damage found before the first byte is sent is told as it is."""
    path = store(LARGE)
    damage(tmp_path, 5)
    with capture_logs() as logs:
        response = client.get(path, headers={"Range": ranges} if ranges else {})
    assert (response.status_code, response.json["code"]) == (500, "blob_corrupt")  # type: ignore[index]
    assert logs[0]["log_level"] == "error"


@pytest.mark.parametrize("ranges", [None, "bytes=5-3000000", "bytes=0-9,2000000-2000009"])
def test_download_damaged_further_on_is_cut_before_the_damage(
    client: FlaskClient, store: Store, tmp_path: Path, ranges: str | None
) -> None:
    """No byte of the damaged block is sent, the body is short, and the log says why."""
    path = store(LARGE)
    damage(tmp_path, 2_000_005)
    received: list[bytes] = []
    with capture_logs() as logs:
        response = client.get(path, headers={"Range": ranges} if ranges else {})
        with pytest.raises(BlobCorruptError):
            received.extend(response.response)  # type: ignore[arg-type]
    assert sum(map(len, received)) < int(response.headers["Content-Length"])
    if ranges is None:
        assert b"".join(received) == LARGE[:MIB]
    assert [log["event"] for log in logs] == ["damage_found", "download_cut"]
    assert {log["log_level"] for log in logs} == {"error"}
    assert logs[1]["code"] == "blob_corrupt"


def test_download_of_a_missing_blob_is_a_problem(
    client: FlaskClient, store: Store, tmp_path: Path
) -> None:
    """A blob that is gone is an error of ours with its own code."""
    path = store(LARGE)
    for found in (tmp_path / "primary" / "blobs").rglob("*"):
        if found.is_file():
            found.unlink()
    response = client.get(path)
    assert (response.status_code, response.json["code"]) == (500, "blob_missing")  # type: ignore[index]
