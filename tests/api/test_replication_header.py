"""The header `DFS-Replication`, on every route that writes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import MakeApp

WRITES = [("POST", "/upload?name=b"), ("PATCH", "/files/{}"), ("DELETE", "/files/{}")]
BODIES: dict[str, Any] = {
    "POST": {"data": b"other"},
    "PATCH": {"json": {"name": "c"}},
    "DELETE": {},
}


@pytest.fixture
def replicated(make_app: MakeApp, tmp_path: Path) -> FlaskClient:
    """Return a client of a node with one replica, whose writes are asynchronous by its settings."""
    return make_app(REPLICA1_PATH=str(tmp_path / "replica1")).test_client()


def write(client: FlaskClient, method: str, path: str, mode: str) -> Any:
    """Upload a file as the node is set, then write as `mode` says."""
    file: Any = client.post("/upload?name=a", data=b"bytes").json
    headers = {"DFS-Replication": mode}
    return client.open(path.format(file["id"]), method=method, headers=headers, **BODIES[method])


@pytest.mark.parametrize(("mode", "copies"), [("sync", "2"), ("async", "1")])
@pytest.mark.parametrize(("method", "path"), WRITES)
def test_replication_header_decides_for_one_write(
    replicated: FlaskClient, method: str, path: str, mode: str, copies: str
) -> None:
    """A synchronous write is on both stores when it is answered, another one on the first."""
    response = write(replicated, method, path, mode)
    assert response.status_code < 300
    assert response.headers["DFS-Durable-Copies"] == copies
    if method != "DELETE":
        stores = ["primary", "replica1"][: int(copies)]
        assert response.json["durability"]["stores"] == stores


def test_replication_header_holds_for_forms(replicated: FlaskClient) -> None:
    """Files of a form are written as the header says, like a raw body."""
    data = {"file": [(BytesIO(b"a" * 100_000), "a"), (BytesIO(b"b"), "b")]}
    response: Any = replicated.post("/upload", data=data, headers={"DFS-Replication": "sync"})
    assert response.json["durability"]["stores"] == ["primary", "replica1"]


@pytest.mark.parametrize("mode", ["", "SYNC", "quorum", "sync, async"])
@pytest.mark.parametrize(("method", "path"), WRITES)
def test_replication_header_of_another_value_is_refused(
    client: FlaskClient, method: str, path: str, mode: str
) -> None:
    """422 names the header, and nothing is changed."""
    response = write(client, method, path, mode)
    assert (response.status_code, list(response.json["errors"])) == (422, ["DFS-Replication"])
    listed: Any = client.get("/files").json
    assert [file["name"] for file in listed["files"]] == ["a"]


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_replication_without_a_quorum_is_503(client: FlaskClient, method: str, path: str) -> None:
    """A node with one store cannot write synchronously to two: it says so and changes nothing."""
    response = write(client, method, path, "sync")
    assert (response.status_code, response.json["code"]) == (503, "quorum_unreachable")
    assert response.headers["Retry-After"]
    listed: Any = client.get("/files").json
    assert [file["name"] for file in listed["files"]] == ["a"]


def test_replication_header_is_documented_for_every_write(client: FlaskClient) -> None:
    """The OpenAPI document lists it with its two values wherever something is written."""
    document: Any = client.get("/openapi.json").json
    found = {
        (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "parameters"
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "DFS-Replication"
        and parameter["schema"]["enum"] == ["sync", "async"]
    }
    assert found == {
        ("post", "/upload"),
        ("patch", "/files/{file_id}"),
        ("delete", "/files/{file_id}"),
        ("post", "/files/{file_id}/restore"),
    }
