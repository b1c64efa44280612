"""Uploads of raw bodies."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.api.answers import StoredFileSchema
from dfs.core.clock import now_ms
from dfs.storage.local_writer import CACHED_BYTES, FileWriter
from tests.api.conftest import MakeApp

LARGE = bytes(range(256)) * 10_000
YEAR_10000 = "9999-12-31T23:30:00-00:30"
"""RFC 3339 can write it, but not in UTC, as dfs does."""
Count = Callable[[], tuple[int, int]]


def post(client: FlaskClient, body: bytes = b"hello", name: str = "a.txt", **headers: str) -> Any:
    """Upload a raw body; underscores in the names of headers stand for dashes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/upload", query_string={"name": name}, data=body, headers=given)


@pytest.mark.parametrize("body", [b"", b"hello", LARGE], ids=["empty", "inline", "large"])
def test_upload_raw_is_answered_with_the_file(client: FlaskClient, body: bytes) -> None:
    """201 tells everything about the file, and what is guaranteed."""
    response = post(client, body, "dir/ä b.txt", Content_Type="text/plain; charset=utf-8")
    assert response.status_code == 201
    file = response.json
    assert StoredFileSchema().validate(file) == {}
    assert (file["name"], file["size"]) == ("dir/ä b.txt", len(body))
    assert file["sha256"] == hashlib.sha256(body).hexdigest()
    assert file["content_type"] == "text/plain; charset=utf-8"
    assert response.headers["Location"] == f"/files/{file['id']}"
    assert response.headers["ETag"] == f'"{file["sha256"]}"'
    assert file["durability"] == {"lsn": file["lsn"], "copies": 1, "stores": ["primary"]}
    assert response.headers["DFS-LSN"] == str(file["lsn"])
    assert response.headers["DFS-Durable-Copies"] == "1"
    assert client.get(f"/download/{file['id']}").data == body


@pytest.mark.parametrize("more", [0, 1])
def test_upload_asks_for_no_memory_after_its_last_byte(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """Others may need it: of files cut at a round number there are many."""
    rooms: list[int] = []
    find_room = FileWriter.room

    def watched(writer: FileWriter) -> memoryview | None:
        room = find_room(writer)
        if room is not None:
            rooms.append(len(room))
        return room

    monkeypatch.setattr(FileWriter, "room", watched)
    assert post(client, bytes(CACHED_BYTES + more)).status_code == 201
    assert len(rooms) == more


@pytest.mark.parametrize("sent", [None, "application/x-www-form-urlencoded"])
def test_upload_without_a_type_is_bytes(client: FlaskClient, sent: str | None) -> None:
    """No type, and the one that curl adds by itself, say nothing about the file."""
    headers = {} if sent is None else {"Content_Type": sent}
    assert post(client, **headers).json["content_type"] == "application/octet-stream"


def test_upload_metadata_and_expiry_are_kept(client: FlaskClient) -> None:
    """The client's own names and values, and the time given, come back."""
    at = "2100-01-01T00:00:00.000Z"
    response = client.post(
        "/upload",
        query_string={"name": "a", "expires_at": at},
        headers={"DFS-Metadata": '{"größe": "5"}'.encode().decode("latin-1")},
        data=b"x",
    )
    assert response.json["metadata"] == {"größe": "5"}  # type: ignore[index]
    assert response.json["expires_at"] == at  # type: ignore[index]


def test_upload_expiry_at_the_end_of_the_year_9999_is_kept(client: FlaskClient) -> None:
    """The last moment that RFC 3339 can write in UTC is as good as any."""
    at = "9999-12-31T23:59:59.999Z"
    response = client.post("/upload", query_string={"name": "a", "expires_at": at}, data=b"x")
    assert response.json["expires_at"] == at  # type: ignore[index]


def test_upload_ttl_counts_from_now(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a time to live is gone when it has passed."""
    response = client.post("/upload?name=a&ttl_s=60", data=b"x")
    path = f"/download/{response.json['id']}"  # type: ignore[index]
    assert client.get(path).status_code == 200
    monkeypatch.setattr("dfs.services.files.now_ms", lambda: now_ms() + 61_000)
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "headers", "fault"),
    [
        ("/upload", {}, ("invalid_request", "name")),
        ("/upload?name=", {}, ("invalid_name", None)),
        ("/upload?name=a%00b", {}, ("invalid_name", None)),
        ("/upload?name=a%0Ab", {}, ("invalid_name", None)),
        ("/upload?name=%FF", {}, ("invalid_name", None)),
        ("/upload?name=" + "x" * 1025, {}, ("invalid_name", None)),
        ("/upload?name=a&nmae=b", {}, ("invalid_request", "nmae")),
        ("/upload?name=a&metadata={}", {}, ("invalid_request", "metadata")),
        ("/upload?name=a&ttl_s=x", {}, ("invalid_request", "ttl_s")),
        (
            "/upload?name=a&ttl_s=9&expires_at=2100-01-01T00:00:00Z",
            {},
            ("invalid_request", "ttl_s"),
        ),
        ("/upload?name=a&expires_at=1999-01-01T00:00:00Z", {}, ("invalid_request", "expires_at")),
        (f"/upload?name=a&expires_at={YEAR_10000}", {}, ("invalid_request", "expires_at")),
        ("/upload?name=a", {"DFS-Metadata": "{"}, ("invalid_request", "metadata")),
        ("/upload?name=a", {"DFS-Metadata": "\xff"}, ("invalid_request", "metadata")),
        ("/upload?name=a", {"Content-Type": "text"}, ("invalid_request", "Content-Type")),
        ("/upload?name=a", {"If-None-Match": '"x"'}, ("invalid_request", "If-None-Match")),
        ("/upload?name=a", {"Repr-Digest": "x"}, ("invalid_request", "Repr-Digest")),
    ],
)
def test_upload_invalid_is_refused_and_stores_nothing(
    client: FlaskClient,
    stored_count: Count,
    path: str,
    headers: dict[str, str],
    fault: tuple[str, str | None],
) -> None:
    """What is wrong is named, and nothing is left."""
    code, field = fault
    for body in (b"x", LARGE):
        response = client.post(path, data=body, headers=headers)
        problem: Any = response.json
        assert (response.status_code, problem["code"]) == (422, code)
        assert field is None or list(problem["errors"]) == [field]
    assert stored_count() == (0, 0)


def test_upload_if_absent_refuses_a_name_that_is_taken(client: FlaskClient) -> None:
    """If-None-Match: * stores once; without it two files may share a name."""
    assert post(client, If_None_Match="*").status_code == 201
    second = post(client, If_None_Match="*")
    assert (second.status_code, second.json["code"]) == (412, "already_exists")
    assert post(client).status_code == 201


@pytest.mark.parametrize("body", [b"hello", LARGE], ids=["inline", "large"])
def test_upload_with_right_checksums_is_stored(client: FlaskClient, body: bytes) -> None:
    """All three headers together hold."""
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()  # noqa: S324
    sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
    sha512 = base64.b64encode(hashlib.sha512(body).digest()).decode()
    response = post(
        client,
        body,
        Content_MD5=md5,
        Content_Digest=f"sha-256=:{sha256}:",
        Repr_Digest=f"sha-512=:{sha512}:",
    )
    assert response.status_code == 201


@pytest.mark.parametrize("body", [b"hello", LARGE], ids=["inline", "large"])
def test_upload_with_wrong_checksum_stores_nothing(
    client: FlaskClient, stored_count: Count, body: bytes
) -> None:
    """A body that was damaged on its way is 422."""
    sha256 = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    response = post(client, body, Repr_Digest=f"sha-256=:{sha256}:")
    assert (response.status_code, response.json["code"]) == (422, "digest_mismatch")
    assert stored_count() == (0, 0)


def test_upload_declared_too_large_is_refused_unread(make_app: MakeApp) -> None:
    """A length over the limit is refused at once, and the connection is given up."""
    client = make_app(DFS_UPLOAD_BYTES_MAX="1000").test_client()
    assert post(client, b"x" * 1000).status_code == 201
    response = post(client, b"x" * 100_000)
    assert (response.status_code, response.json["code"]) == (413, "too_large")
    assert response.headers["Connection"] == "close"


def test_upload_compressed_body_is_refused(client: FlaskClient) -> None:
    """A content coding would make the bytes stored others than those meant."""
    response = post(client, Content_Encoding="gzip")
    assert (response.status_code, response.json["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, chunked", "identity", ""])
def test_upload_with_another_transfer_coding_is_refused(
    client: FlaskClient, stored_count: Count, coding: str
) -> None:
    """Whoever does not undo a coding that was named would store other bytes than those meant."""
    environ = {"HTTP_TRANSFER_ENCODING": coding}
    response: Any = client.post("/upload?name=a", data=b"hello", environ_overrides=environ)
    assert (response.status_code, response.json["code"]) == (415, "unsupported_media_type")
    assert stored_count() == (0, 0)


def test_upload_by_put_is_not_allowed(client: FlaskClient) -> None:
    """Only POST stores; the answer says so."""
    response = client.put("/upload?name=a", data=b"x")
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


def test_upload_survives_a_restart(make_app: MakeApp) -> None:
    """What was acknowledged is there for the next process."""
    first = make_app()
    path = f"/download/{post(first.test_client()).json['id']}"
    first.extensions["dfs"].close()
    assert make_app().test_client().get(path).data == b"hello"


def test_upload_answer_is_plain_json(client: FlaskClient) -> None:
    """The body is JSON in UTF-8 with its length."""
    response = post(client)
    assert response.content_type == "application/json"
    assert json.loads(response.data)["name"] == "a.txt"
    assert int(response.headers["Content-Length"]) == len(response.data)
