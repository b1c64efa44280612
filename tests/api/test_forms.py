"""Uploads of forms: several files, parsed straight into the store."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.api.answers import StoredFileSchema, StoredFilesSchema
from dfs.api.forms import FIELD_BYTES_MAX, FILES_MAX, FormReader
from dfs.api.streams import BodyStream
from dfs.core.errors import DfsError
from tests.api.conftest import MakeApp

LARGE = bytes(range(256)) * 10_000 + b"\r\n--boun\r\n--"
Count = Callable[[], tuple[int, int]]


def part(name: str, value: bytes, *, filename: str | None = None, more: str = "") -> bytes:
    """Return one part of a form with the boundary `bound`."""
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = f"--bound\r\nContent-Disposition: {disposition}\r\n{more}\r\n"
    return head.encode() + value + b"\r\n"


def post(client: FlaskClient, body: bytes, path: str = "/upload", **headers: str) -> Any:
    """Upload a form."""
    return client.post(
        path, data=body, content_type="multipart/form-data; boundary=bound", headers=headers
    )


def test_form_with_one_file_is_answered_like_a_raw_body(client: FlaskClient) -> None:
    """One file: its JSON, Location and ETag."""
    body = part("file", b"hello", filename="ä.txt", more="Content-Type: text/plain\r\n")
    response = post(client, body + b"--bound--\r\n")
    assert response.status_code == 201
    assert StoredFileSchema().validate(response.json) == {}
    assert (response.json["name"], response.json["content_type"]) == ("ä.txt", "text/plain")
    assert response.headers["Location"].endswith(response.json["id"])
    assert client.get(f"/download/{response.json['id']}").data == b"hello"


def test_form_with_several_files_stores_all(client: FlaskClient) -> None:
    """Every file of the form, from empty to large, has its own bytes and the common fields."""
    contents = {"empty": b"", "small": b"hello", "large": LARGE, "crlf": b"\r\n\r\n-\r"}
    body = b"".join(
        part("file", value, filename=name, more="Content-Type: x/y\r\n")
        for name, value in contents.items()
    )
    body = part("metadata", b'{"a": "b"}') + body + part("ttl_s", b"60") + b"--bound--\r\n"
    response = post(client, body)
    assert response.status_code == 201, response.json
    assert StoredFilesSchema().validate(response.json) == {}
    for file in response.json["files"]:
        assert client.get(f"/download/{file['id']}").data == contents[file["name"]]
        assert file["metadata"] == {"a": "b"}
        assert file["expires_at"] is not None
    assert response.json["durability"]["lsn"] == int(response.headers["DFS-LSN"])


def test_form_name_in_the_query_replaces_that_of_a_single_file(client: FlaskClient) -> None:
    """For one file ?name= counts, for several it is refused."""
    one = part("file", b"x", filename="a")
    response = post(client, one + b"--bound--", "/upload?name=b")
    assert response.json["name"] == "b"
    response = post(client, one + one + b"--bound--", "/upload?name=b")
    assert (response.status_code, list(response.json["errors"])) == (422, ["name"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"--bound--\r\n", 422, "invalid_request"),
        (part("metadata", b"{}") + b"--bound--", 422, "invalid_request"),
        (part("file", b"x") + b"--bound--", 422, "invalid_request"),
        (part("File", b"x", filename="a") + b"--bound--", 422, "invalid_request"),
        (part("other", b"x") + b"--bound--", 422, "invalid_request"),
        (part("ttl_s", b"1") + part("ttl_s", b"1") + b"--bound--", 422, "invalid_request"),
        (part("file", b"x", filename="a") + part("ttl_s", b"x") + b"--bound--", 422, None),
        (part("file", b"x", filename="a") + part("metadata", b"\xff") + b"--bound--", 422, None),
        (part("file", b"x", filename="") + b"--bound--", 422, "invalid_name"),
        (part("file", b"x", filename="a\tb") + b"--bound--", 422, "invalid_name"),
        (part("file", b"x", filename="a", more="Content-Type: x\r\n") + b"--bound--", 422, None),
        (
            part("file", b"x", filename="a", more="X: \xff\r\n").replace(b"\xc3\xbf", b"\xff")
            + b"--bound--",
            422,
            "invalid_name",
        ),
        (part("file", LARGE, filename="a"), 400, "truncated_body"),
        (part("file", b"x", filename="a") + b"--bound\r\n", 400, "truncated_body"),
        (b"no form at all", 400, "truncated_body"),
        (b"--bound\r\nX: y\r\n\r\nz\r\n--bound--", 400, "invalid_request"),
        (part("metadata", b"x" * (FIELD_BYTES_MAX + 1)) + b"--bound--", 413, "too_large"),
        (b"--bound\r\nX: " + b"y" * 1_000_000, 413, "too_large"),
        (part("file", b"", filename="a") * (FILES_MAX + 1) + b"--bound--", 413, "too_large"),
    ],
)
def test_form_invalid_is_refused_and_stores_nothing(
    client: FlaskClient, stored_count: Count, body: bytes, status: int, code: str | None
) -> None:
    """A form is stored whole or not at all; large files before the fault leave nothing."""
    response = post(client, part("file", LARGE, filename="first") + body if status == 413 else body)
    assert response.status_code == status, response.json
    assert code in (None, response.json["code"])
    assert stored_count() == (0, 0)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=" + "x" * 201]
)
def test_form_without_a_boundary_is_refused(client: FlaskClient, content_type: str) -> None:
    """The parts of a form cannot be told apart without it."""
    response = client.post("/upload", data=b"x", content_type=content_type)
    assert (response.status_code, list(response.json["errors"])) == (422, ["Content-Type"])  # type: ignore[index]


def test_form_field_given_in_the_query_too_is_refused(client: FlaskClient) -> None:
    """Which of two values counts is not for us to guess."""
    body = part("file", b"x", filename="a") + part("ttl_s", b"5") + b"--bound--"
    response = post(client, body, "/upload?ttl_s=6")
    assert (response.status_code, list(response.json["errors"])) == (422, ["ttl_s"])


def test_form_file_over_the_limit_leaves_nothing(make_app: MakeApp) -> None:
    """The limit holds for each file of a form."""
    client = make_app(DFS_UPLOAD_BYTES_MAX="70000").test_client()
    small, large = (part("file", b"x" * size, filename="a") for size in (70_000, 70_001))
    assert post(client, small + small + b"--bound--").status_code == 201
    assert post(client, small + large + b"--bound--").status_code == 413


def test_form_with_a_wrong_checksum_stores_nothing(
    client: FlaskClient, stored_count: Count
) -> None:
    """The checksum of a form covers the whole body."""
    body = part("file", LARGE, filename="a") + b"--bound--"
    response = post(client, body, **{"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="})
    assert response.json["code"] == "digest_mismatch"
    assert stored_count() == (0, 0)


class Sink:
    """Stands for a blob: keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        """Take bytes."""
        self.data += data
        return len(data)


def read_pieces(pieces: list[bytes]) -> FormReader:
    """Return a form read from pieces as a network may cut them."""
    left = iter(pieces)
    body = BodyStream(read=lambda _: next(left, b""), length=None, digests=None)
    form = FormReader(new_blob=Sink)  # type: ignore[arg-type]
    form.read(body, b"bound")
    return form


@pytest.mark.parametrize("content", [b"", b"x", b"\r", b"\n\r\n", b"a\r\n--boun\r\n--\r\r\n\n"])
@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\nepilogue"])
def test_form_cut_anywhere_by_the_network_is_the_same(content: bytes, end: bytes) -> None:
    """Where the network cuts a body makes no difference to any byte of a file."""
    whole = part("file", content, filename="f") + part("metadata", b'{"a":"b"}')
    whole += part("file", content, filename="g") + b"--bound--" + end
    cuts = [[whole[:at], whole[at:]] for at in range(1, len(whole))]
    cuts += [[whole[at : at + step] for at in range(0, len(whole), step)] for step in (1, 2, 3, 7)]
    for pieces in cuts:
        form = read_pieces([piece for piece in pieces if piece])
        assert [file.blob.data for file in form.files] == [content, content]
        assert json.loads(form.fields["metadata"]) == {"a": "b"}


def test_form_cut_at_every_byte_is_refused() -> None:
    """No prefix of a form passes for a form."""
    whole = part("metadata", b"{}") + part("file", b"hello", filename="f") + b"--bound--"
    for length in range(len(whole)):
        source = io.BytesIO(whole[:length])
        body = BodyStream(read=source.read, length=length, digests=None)
        with pytest.raises(DfsError):
            FormReader(new_blob=Sink).read(body, b"bound")  # type: ignore[arg-type]
