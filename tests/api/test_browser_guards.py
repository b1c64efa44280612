"""What keeps browsers from doing harm with answers of the node."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from dfs.api.headers import CORP, CSP, GUARDS
from dfs.api.permissions import NEEDED
from tests.api.conftest import MakeApp
from tests.api.keys import bearer_of, make_key

PLAIN = dict(GUARDS)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An application with a queue that does not answer."""
    return make_app(REDIS_URL="redis://127.0.0.1:1")


def test_every_answer_has_the_guards(app: Flask) -> None:
    """Of each route, whether it succeeds or not, and of what is no route."""
    client = app.test_client()
    paths = [re.sub("<[^>]+>", "x", rule) for rule in NEEDED]
    for path in [*paths, "/nowhere", "/docs/assets/swagger-ui/swagger-ui.css", "/%00", "//"]:
        for method in ("GET", "POST", "PUT", "OPTIONS"):
            with client.open(path, method=method) as answer:
                assert answer.status_code != 500
                for name, value in GUARDS:
                    found = answer.headers.getlist(name)
                    assert len(found) == 1, (path, method, name)
                    if not path.startswith(("/docs", "/admin/rq")):
                        assert found == [value], (path, method)
                assert "frame-ancestors 'none'" in answer.headers[CSP]


def test_download_never_runs_in_the_origin_of_the_node(app: Flask) -> None:
    """Whatever its type: in a sandbox, without scripts; whole, in part, or unchanged."""
    for content_type in ("text/html", "image/svg+xml", "image/png", "text/plain", "video/mp4"):
        check_sandbox(app.test_client(), content_type)


def check_sandbox(client: FlaskClient, content_type: str) -> None:
    """Store a file of that type and read it in every way."""
    file: Any = client.post("/upload?name=a", data=b"<script>", content_type=content_type).json
    path = f"/download/{file['id']}"
    for headers, status in (
        ({}, 200),
        ({"Range": "bytes=0-1"}, 206),
        ({"Range": "bytes=0-1,3-4"}, 206),
        ({"If-None-Match": "*"}, 304),
    ):
        for method in ("GET", "HEAD"):
            answer = client.open(path, method=method, headers=headers)
            assert answer.status_code in (status, 200)
            policy = answer.headers.getlist(CSP)
            assert len(policy) == 1
            assert re.match(r"sandbox; default-src 'none';", policy[0])
            assert "script" not in policy[0]
            assert answer.headers[CORP] == "same-origin"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_download_by_a_signed_url_may_be_shown_by_other_sites(app: Flask) -> None:
    """Its bytes were given away; it still runs nowhere. Errors are not to be shown."""
    client = app.test_client()
    key = bearer_of(make_key(app.extensions["dfs"].services))
    file: Any = client.post("/upload?name=a", data=b"x", headers=key).json
    signed: Any = client.post("/signed-urls", json={"file_id": file["id"]}, headers=key).json
    answer = client.get(signed["url"])
    assert answer.data == b"x"
    assert CORP not in answer.headers
    assert answer.headers[CSP].startswith("sandbox;")
    assert client.get(f"{signed['url']}x").headers[CORP] == "same-origin"
