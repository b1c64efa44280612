"""The least that an application can do, with Flask and without, as references for dfs's routes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

from flask import Flask, Response, request


def create_app() -> Flask:
    """Return an application with a route that answers nothing, and one that reads a body."""
    app = Flask(__name__)

    @app.get("/")
    def empty() -> Response:
        return Response(b"")

    @app.post("/read")
    def read() -> Response:
        request.stream.read()
        return Response(b"", 201)

    return app


def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer nothing to whatever is asked, as a bare WSGI application."""
    start_response("200 OK", [("Content-Length", "0")])
    return (b"",)
