"""Ids of requests: in the answer, in problems, in the log."""

from __future__ import annotations

import re
from typing import Any

import pytest
import structlog
from flask.testing import FlaskClient
from structlog.contextvars import merge_contextvars

from dfs.core.ulid import UlidFactory

GENERATED = re.compile("[0-9A-HJKMNP-TV-Z]{26}")


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/files?limit=0"])
def test_request_id_sane_is_taken(client: FlaskClient, path: str) -> None:
    """The id that the client gave is in the answer and in the problem."""
    response: Any = client.get(path, headers={"X-Request-ID": "a.B_c-9"})
    assert response.headers.getlist("X-Request-ID") == ["a.B_c-9"]
    assert response.json.get("request_id", "a.B_c-9") == "a.B_c-9"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a;b"])
def test_request_id_insane_is_replaced(client: FlaskClient, given: str) -> None:
    """What could break a log is not taken."""
    response: Any = client.get("/nowhere", headers={"X-Request-ID": given})
    assert GENERATED.fullmatch(response.headers["X-Request-ID"])
    assert response.json["request_id"] == response.headers["X-Request-ID"]


def test_request_id_is_in_the_log(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is logged while a request is handled carries its id."""
    logged: list[Any] = []

    def keep(_logger: object, _method: str, event: Any) -> Any:
        logged.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[merge_contextvars, keep])
    monkeypatch.setattr("dfs.services.files.FileService.find", lambda *_: 1 // 0)
    try:
        response = client.get("/files/" + UlidFactory().make(), headers={"X-Request-ID": "my-id"})
    finally:
        structlog.reset_defaults()
    assert response.status_code == 500
    assert logged[0]["request_id"] == "my-id"
