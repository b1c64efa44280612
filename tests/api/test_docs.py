"""The interface described: OpenAPI and Swagger UI."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dfs.api import attempts
from dfs.api.permissions import PUBLIC, find_needed
from dfs.core.access import scope_names
from dfs.queue.inline_queue import InlineQueue
from dfs.services.hints import REPLICATE, SCRUB
from tests.api.conftest import MakeApp
from tests.api.keys import bearer_of, make_key

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


def ignore_job(store: str) -> None:
    """Do nothing: a node without replicas owes nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_document_is_truthful(
    make_app: MakeApp, mode: GenerationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is sent after the document, or against it, is answered as the document says."""
    monkeypatch.setattr(attempts, "BURST", 1 << 30)  # every operation is tried with wrong keys
    app = make_app()
    app.extensions["dfs"].services.replicas._queue = InlineQueue(
        jobs={REPLICATE.name: ignore_job, SCRUB.name: ignore_job}
    )
    headers = bearer_of(make_key(app.extensions["dfs"].services))
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, headers=headers)
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        def check(case: schemathesis.Case) -> None:
            # An upload's body decides whether it needs a name, its checksums depend on its bytes,
            # and a cursor comes from a page: no schema can say that.
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

        with suppress(Unsatisfiable):  # nothing of this operation can be wrong
            check()
