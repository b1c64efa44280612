"""The interface described: OpenAPI and Swagger UI."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.api import docs
from dfs.api.docs import make_document
from dfs.api.permissions import PUBLIC, find_needed
from dfs.core.access import scope_names
from tests.api.conftest import MakeApp

UNDOCUMENTED = {"/openapi.json", "/docs", "/docs/assets/<path:name>", "/metrics"}


def test_document_has_every_route(make_app: MakeApp) -> None:
    """A route that is added must be described, with each of its methods."""
    app = make_app()
    document: Any = app.test_client().get("/openapi.json").json
    documented = {
        (path, method.upper())
        for path, operations in document["paths"].items()
        for method in operations
        if method != "parameters"
    }
    routes = {
        (re.sub("<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if rule.rule not in UNDOCUMENTED
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
    }
    assert documented - {("/download/{file_id}", "HEAD")} == routes


def test_document_is_openapi_3_with_problems(client: FlaskClient) -> None:
    """Every operation says what it answers when it fails."""
    document: Any = client.get("/openapi.json").json
    assert document["openapi"].startswith("3.")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method != "parameters":
                content = operation["responses"]["default"]["content"]
                assert "application/problem+json" in content, (path, method)
                assert operation["summary"], (path, method)


def test_document_is_made_when_it_is_asked_for_and_once(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than all else that an application does at its start."""
    made: list[bytes] = []

    def make() -> bytes:
        made.append(make_document())
        return made[-1]

    monkeypatch.setattr(docs, "make_document", make)
    client = make_app().test_client()
    assert not made
    assert client.get("/openapi.json").data == client.get("/openapi.json").data == made[0]
    assert len(made) == 1


def test_docs_page_asks_nothing_of_other_hosts(client: FlaskClient) -> None:
    """All that the page loads is served here, and its policy allows nothing else."""
    with client.get("/docs") as page:
        assert page.status_code == 200
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loaded
    for path in loaded:
        with client.get(path) as asset:
            assert (path[0], asset.status_code) == ("/", 200)


def test_docs_assets_are_only_those_of_the_page(client: FlaskClient) -> None:
    """No path leads out of the folder."""
    for name in ("../app.py", "..%2f..%2fapp.py", "nothing.js", "%00"):
        assert client.get(f"/docs/assets/{name}").status_code == 404


def test_document_says_which_scope_each_operation_needs(client: FlaskClient) -> None:
    """After the one table; what is public can be asked without a key."""
    document: Any = client.get("/openapi.json").json
    assert set(document["components"]["securitySchemes"]) >= {"bearer", "basic"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method != "parameters":
                needed = find_needed(re.sub(r"{(\w+)}", r"<\1>", path), method.upper())
                assert ({} in operation["security"]) == (needed == PUBLIC), (path, method)
                assert {"401", "403", "429"} <= set(operation["responses"])
                for name in scope_names(max(needed, 0)):
                    assert f"`{name}`" in operation["description"], (path, method)
