"""Deleting and restoring over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.api.answers import FilePageSchema, FileSchema, StoredFileSchema
from tests.api.conftest import MakeApp
from tests.api.test_files import store


def list_trash(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    """Return the files in the trash as one page of them has them."""
    response: Any = client.get(f"/files?deleted=true{query}")
    assert FilePageSchema().validate(response.json) == {}
    files: list[dict[str, Any]] = response.json["files"]
    return files


def test_deleted_file_is_in_the_trash_alone(client: FlaskClient) -> None:
    """From the moment it is deleted it is found nowhere but in the listing of the trash."""
    file = store(client, "a")
    other = store(client, "b")
    assert file["deleted_at"] is None
    assert list_trash(client) == []
    assert client.delete(f"/files/{file['id']}").status_code == 204
    for method, path in (("get", "download"), ("head", "download"), ("get", "files")):
        assert getattr(client, method)(f"/{path}/{file['id']}").status_code == 404
    assert client.patch(f"/files/{file['id']}", json={"name": "c"}).status_code == 404
    assert client.delete(f"/files/{file['id']}").status_code == 404
    listed: Any = client.get("/files").json
    assert [each["id"] for each in listed["files"]] == [other["id"]]
    (found,) = list_trash(client)
    assert FileSchema().validate(found) == {}
    assert found["deleted_at"] is not None
    same = {key: value for key, value in file.items() if key not in ("durability", "lsn")}
    assert {**found, "deleted_at": None, "lsn": None} == {**same, "lsn": None}


def test_restored_file_is_as_it_was(client: FlaskClient) -> None:
    """Restoring answers the file with what is guaranteed, and it is read as before."""
    file = store(client, "a", b"the bytes")
    client.delete(f"/files/{file['id']}")
    response: Any = client.post(f"/files/{file['id']}/restore")
    assert response.status_code == 200
    assert StoredFileSchema().validate(response.json) == {}
    assert response.json["deleted_at"] is None
    assert response.headers["DFS-LSN"] == str(response.json["durability"]["lsn"])
    assert int(response.headers["DFS-LSN"]) == response.json["lsn"] > file["lsn"]
    assert response.headers["DFS-Durable-Copies"] == "1"
    assert client.get(f"/download/{file['id']}").data == b"the bytes"
    assert list_trash(client) == []


def test_restore_of_what_is_not_in_the_trash_is_404(client: FlaskClient) -> None:
    """A file that was not deleted, one that was restored, and none at all cannot be restored."""
    file = store(client, "a")
    for file_id in (file["id"], "0" * 26, "nonsense"):
        response: Any = client.post(f"/files/{file_id}/restore")
        assert (response.status_code, response.json["code"]) == (404, "no_such_file")
    client.delete(f"/files/{file['id']}")
    assert client.post(f"/files/{file['id']}/restore").status_code == 200
    assert client.post(f"/files/{file['id']}/restore").status_code == 404


def test_restore_without_grace_is_404(make_app: MakeApp) -> None:
    """Where deleted files are not kept, none is listed and none comes back."""
    client = make_app(DFS_DELETE_GRACE_S="0").test_client()
    file = store(client, "a")
    client.delete(f"/files/{file['id']}")
    assert list_trash(client) == []
    assert client.post(f"/files/{file['id']}/restore").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "*"}, 200),
        ({"DFS-Replication": "sometimes"}, 422),
        ({"DFS-Replication": "async"}, 200),
    ],
)
def test_restore_takes_the_headers_of_other_changes(
    client: FlaskClient, headers: dict[str, str], status: int
) -> None:
    """It depends on `If-Match` and `DFS-Replication` as changing and deleting do."""
    file = store(client, "a")
    client.delete(f"/files/{file['id']}")
    response = client.post(f"/files/{file['id']}/restore", headers=headers)
    assert response.status_code == status
    assert len(list_trash(client)) == (0 if status == 200 else 1)


def test_trash_is_listed_by_name_in_pages(client: FlaskClient) -> None:
    """Following `Link` visits every deleted file once, in order, and no other file."""
    for name in ("b", "a/2", "a/1", "ä"):
        client.delete(f"/files/{store(client, name)['id']}")
        store(client, name)
    path, seen = "/files?deleted=true&limit=2", []
    while path:
        response: Any = client.get(path)
        seen += [file["name"] for file in response.json["files"] if file["deleted_at"]]
        path = response.headers.get("Link", "").partition(">")[0][1:]
    assert seen == ["a/1", "a/2", "b", "ä"]
    assert [file["name"] for file in list_trash(client, "&prefix=a/")] == ["a/1", "a/2"]
    assert [file["name"] for file in list_trash(client, "&name=b")] == ["b"]


def test_files_deleted_takes_no_other_word(client: FlaskClient) -> None:
    """A misspelt value is refused, not taken for one of the two listings."""
    response: Any = client.get("/files?deleted=perhaps")
    assert response.status_code == 422
    assert list(response.json["errors"]) == ["deleted"]


def test_name_of_a_deleted_file_is_free(client: FlaskClient) -> None:
    """`If-None-Match: *` looks at files that can be found."""
    file = store(client, "a")
    client.delete(f"/files/{file['id']}")
    response = client.post("/upload?name=a", data=b"y", headers={"If-None-Match": "*"})
    assert response.status_code == 201
