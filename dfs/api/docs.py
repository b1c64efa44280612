"""`/openapi.json` and `/docs`: the interface described for programs and for people.

Swagger UI is served from files of our own (`static/swagger-ui`, from the npm package
swagger-ui-dist 5.35.0): the page asks nothing of any other host, and its policy forbids it to.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from flask import Flask, Response, abort, current_app, send_from_directory
from flask_smorest import Api  # type: ignore[import-untyped]

import dfs
from dfs.api import admin, audit, downloads, files, health, keys, replicas, uploads, usage
from dfs.api.answers import ProblemSchema
from dfs.api.headers import CSP
from dfs.api.key_spec import URL_PURPOSES
from dfs.api.responses import Answer
from dfs.api.security import describe_security

STATIC_PATH = Path(__file__).parent / "static"
OPENAPI_VERSION = "3.1.0"
BLUEPRINTS = tuple(
    module.blueprint
    for module in (uploads, downloads, files, keys, health, admin, audit, replicas, usage)
)
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'"
)
_DOCUMENT_KEY = "dfs.openapi"


class DfsApi(Api):  # type: ignore[misc]
    """Collects the documentation of the blueprints; errors are answered by `api.errors`."""

    ERROR_SCHEMA = ProblemSchema

    def _register_error_handlers(self) -> None:
        """Leave the errors alone."""


def install_api(app: Flask) -> None:
    """Register all routes of dfs with `app`."""
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    app.add_url_rule("/openapi.json", "openapi", get_document)
    app.add_url_rule("/docs", "docs", get_docs)
    app.add_url_rule("/docs/assets/<path:name>", "docs_assets", get_asset)


def make_document() -> bytes:
    """Return the OpenAPI document of this program, as JSON. Opens no node."""
    app = Flask("dfs", static_folder=None)  # of which nothing is left but what it collects
    app.config.update(API_TITLE="dfs", API_VERSION=dfs.__version__, OPENAPI_VERSION=OPENAPI_VERSION)
    api = DfsApi(
        app,
        spec_kwargs={
            "info": {
                "description": "A distributed file store. A write is acknowledged only when it is "
                "on disk.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            }
        },
    )
    for blueprint in BLUEPRINTS:
        api.register_blueprint(blueprint)
    document = api.spec.to_dict()
    document["components"]["schemas"]["FilePatch"]["minProperties"] = 1
    document["components"]["schemas"]["NewUrl"]["oneOf"] = URL_PURPOSES
    describe_security(document)
    return msgspec.json.encode(document)


def get_document() -> Answer:
    """Return the OpenAPI document, made when it is first asked for: no start waits for it."""
    made = current_app.extensions
    document = made.get(_DOCUMENT_KEY) or made.setdefault(_DOCUMENT_KEY, make_document())
    return Answer(200, [("Content-Type", "application/json")], document)


def get_docs() -> Response:
    """Return the page of Swagger UI."""
    return get_asset("docs.html")


def get_asset(name: str) -> Response:
    """Return a file that belongs to the page."""
    response = send_from_directory(STATIC_PATH, name)
    if response.status_code >= 400:  # a condition of the client's does not hold
        abort(response.status_code)
    response.headers[CSP] = _POLICY
    return response
