"""Files: listing, describing, changing, deleting."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.api.answers import FilePageSchema, FileSchema, StoredFileSchema

REQUEST_LINE_BYTES_MAX = 8190  # as `limit_request_line` of gunicorn.conf.py


def store(client: FlaskClient, name: str, body: bytes = b"x") -> dict[str, Any]:
    """Upload a file and return its JSON."""
    file: dict[str, Any] = client.post("/upload", query_string={"name": name}, data=body).json  # type: ignore[assignment]
    return file


def test_files_are_listed_by_name_in_pages(client: FlaskClient) -> None:
    """Following `Link` visits every file once, in order."""
    names = ["b", "a/2", "a/1", "ä", "a/1"]
    for name in names:
        store(client, name)
    path, seen, pages = "/files?limit=2", [], 0
    while path:
        response: Any = client.get(path)
        assert FilePageSchema().validate(response.json) == {}
        seen += [file["name"] for file in response.json["files"]]
        link = response.headers.get("Link", "")
        assert bool(link) == (response.json["next"] is not None)
        path = link.partition(">")[0][1:]
        pages += 1
    assert seen == sorted(names)
    assert pages == 3


def test_files_link_keeps_the_filter(client: FlaskClient) -> None:
    """The next page is one of the same listing."""
    for name in ("a&b/1", "a&b/2", "c"):
        store(client, name)
    response: Any = client.get("/files", query_string={"prefix": "a&b/", "limit": 1})
    following: Any = client.get(response.headers["Link"].partition(">")[0][1:])
    assert [file["name"] for file in following.json["files"]] == ["a&b/2"]
    assert following.json["next"] is None


@pytest.mark.parametrize("name", ["%" * 1024, "é" * 512, "💩" * 256])
def test_files_link_is_short_enough_to_be_followed(client: FlaskClient, name: str) -> None:
    """However long the name, and whatever of it is asked for."""
    for _ in range(2):
        store(client, name)
    for asked in ({"prefix": name}, {"name": name}, {"prefix": name, "name": name}):
        response: Any = client.get("/files", query_string={**asked, "limit": 1})
        link = response.headers["Link"].partition(">")[0][1:]
        assert len(f"GET {link} HTTP/1.1") < REQUEST_LINE_BYTES_MAX
        following: Any = client.get(link)
        assert len(following.json["files"]) == 1


def test_files_by_name_are_all_of_that_name(client: FlaskClient) -> None:
    """A name may be held by several files; another that begins so is not one of them."""
    ids = {store(client, "a")["id"], store(client, "a")["id"]}
    store(client, "ab")
    response: Any = client.get("/files?name=a")
    assert {file["id"] for file in response.json["files"]} == ids


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=nonsense!", "after"),
        ("after=AAAA", "after"),
        ("page=2", "page"),
        ("name=", "name"),
        ("prefix=%00", "prefix"),
    ],
)
def test_files_query_that_is_invalid_names_the_field(
    client: FlaskClient, query: str, field: str
) -> None:
    """Each fault is 422 and names its parameter."""
    response: Any = client.get(f"/files?{query}")
    assert (response.status_code, list(response.json["errors"])) == (422, [field])


def test_file_is_described(client: FlaskClient) -> None:
    """What the upload answered is what is told later."""
    file = store(client, "a")
    del file["durability"]
    response: Any = client.get(f"/files/{file['id']}")
    assert FileSchema().validate(response.json) == {}
    assert response.json == file


def test_file_change_is_answered_and_kept(client: FlaskClient) -> None:
    """What is named is changed, the rest stays, and the bytes and their tag stay."""
    file = store(client, "a")
    patch = {
        "name": "b/ü",
        "content_type": "text/csv",
        "metadata": {"k": "v"},
        "expires_at": "2100-01-01T00:00:00.000Z",
    }
    response: Any = client.patch(f"/files/{file['id']}", json=patch)
    assert response.status_code == 200
    assert StoredFileSchema().validate(response.json) == {}
    assert response.headers["DFS-LSN"] == str(response.json["lsn"])
    assert response.headers["DFS-Durable-Copies"] == "1"
    changed: Any = client.get(f"/files/{file['id']}").json
    assert {name: changed[name] for name in patch} == patch
    assert (changed["etag"], changed["created_at"]) == (file["etag"], file["created_at"])
    cleared: Any = client.patch(f"/files/{file['id']}", json={"expires_at": None}).json
    assert (cleared["expires_at"], cleared["name"]) == (None, "b/ü")


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({}, ""),
        ({"size": 5}, "size"),
        ({"content_type": "x"}, "content_type"),
        ({"metadata": {"a": 1}}, "metadata.a.value"),
        ({"metadata": None}, "metadata"),
        ({"expires_at": "2000-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:30:00-00:30"}, "expires_at"),
        ({"name": ""}, "name"),
    ],
)
def test_file_change_that_is_invalid_names_the_field(
    client: FlaskClient, patch: dict[str, Any], field: str
) -> None:
    """Each fault is 422 and names its field."""
    file = store(client, "a")
    response: Any = client.patch(f"/files/{file['id']}", json=patch)
    assert (response.status_code, list(response.json["errors"])) == (422, [field])


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"name": "\\ud800"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"5", "application/json", 422),
        (b'{"name": "b"}', "text/plain", 415),
        (b'{"name": "b"}', None, 415),
        (b'{"name": "' + b"x" * (1 << 20) + b'"}', "application/json", 413),
        (b'{"name": "a\\u0000b"}', "application/json", 422),
    ],
)
def test_file_change_that_is_no_json_object_is_refused(
    client: FlaskClient, body: bytes, content_type: str | None, status: int
) -> None:
    """Malformed is 400, of another type 415, too long 413, of another shape 422."""
    file = store(client, "a")
    response: Any = client.patch(f"/files/{file['id']}", data=body, content_type=content_type)
    assert response.status_code == status
    assert response.json["code"]


def test_file_delete_is_final(client: FlaskClient) -> None:
    """204, and then nobody finds it."""
    file = store(client, "a")
    response = client.delete(f"/files/{file['id']}")
    assert (response.status_code, response.data) == (204, b"")
    assert response.headers["DFS-LSN"] == str(file["lsn"] + 1)
    assert response.headers["DFS-Durable-Copies"] == "1"
    for method, path in (("get", "files"), ("get", "download"), ("delete", "files")):
        assert getattr(client, method)(f"/{path}/{file['id']}").status_code == 404
    assert client.get("/files").json == {"files": [], "next": None}


@pytest.mark.parametrize(("header", "status"), [('"other"', 412), ("W/%s", 412), ("*", 2)])
def test_file_change_and_delete_on_condition(client: FlaskClient, header: str, status: int) -> None:
    """If-Match guards against changing another file than the one known."""
    file = store(client, "a")
    path = f"/files/{file['id']}"
    headers = {"If-Match": header.replace("%s", f'"{file["etag"]}"')}
    changed = client.patch(path, json={"name": "b"}, headers=headers)
    deleted = client.delete(path, headers=headers)
    assert {str(response.status_code)[: len(str(status))] for response in (changed, deleted)} == {
        str(status)
    }


def test_file_condition_that_holds_passes(client: FlaskClient) -> None:
    """The tag that the file has lets the change through."""
    file = store(client, "a")
    headers = {"If-Match": f'"{file["etag"]}"'}
    assert client.delete(f"/files/{file['id']}", headers=headers).status_code == 204


def test_paths_are_matched_exactly(client: FlaskClient) -> None:
    """No redirects: a path with another slash is another path."""
    for path in ("/files/", "//files", "/nothing"):
        response: Any = client.get(path)
        assert response.status_code == 404, path
        assert response.content_type == "application/problem+json"
