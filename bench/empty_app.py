"""The least that a Flask application can do, as the reference for dfs's routes."""

from __future__ import annotations

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
