"""`GET /admin/audit`."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

from dfs.api.audit import AuditSchema
from tests.api.conftest import MakeApp
from tests.api.keys import bearer_of, make_key


def test_requests_are_told_with_the_key_that_made_them(make_app: MakeApp) -> None:
    """By each route that changes something; a signed URL is its key's."""
    app = make_app()
    client: FlaskClient = app.test_client()
    key = make_key(app.extensions["dfs"].services)
    headers = bearer_of(key)
    file: Any = client.post("/upload?name=a", data=b"1", headers=headers).json
    path = f"/files/{file['id']}"
    client.patch(path, json={"name": "b"}, headers=headers)
    client.delete(path, headers=headers)
    client.post(f"{path}/restore", headers=headers)
    asked = {"name": "c", "bytes_max": 1}
    url: Any = client.post("/signed-urls", json=asked, headers=headers).json
    assert client.post(url["url"], data=b"1").status_code == 201
    made: Any = client.post(
        "/admin/keys", json={"name": "k", "scopes": ["read"]}, headers=headers
    ).json
    client.delete(f"/admin/keys/{made['id']}", headers=headers)
    answer: Any = client.get(f"/admin/audit?by={key.key.id}", headers=headers)
    assert AuditSchema().validate(answer.json) == {}
    assert [deed["action"] for deed in answer.json["deeds"]] == [
        "upload",
        "update",
        "delete",
        "restore",
        "upload",
        "create_key",
        "revoke_key",
    ]
    assert answer.json["next"] is None
    assert {deed["by_name"] for deed in answer.json["deeds"]} == {"test"}
    paged: Any = client.get("/admin/audit?limit=2", headers=headers).json
    assert len(paged["deeds"]) == 2
    assert paged["next"] == paged["deeds"][-1]["lsn"]


def test_query_invalid_is_422(client: FlaskClient) -> None:
    """Naming the parameter."""
    for query in ("after=-1", "limit=0", "by=", "by=x y", "file_id=x", "x=1"):
        answer: Any = client.get(f"/admin/audit?{query}")
        assert (answer.status_code, list(answer.json["errors"])) == (422, [query.partition("=")[0]])
