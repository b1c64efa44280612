"""A node of its own for each test, behind Flask's test client."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from dfs.app import create_app
from dfs.core.config import Config, load_config

MakeConfig = Callable[..., Config]
MakeApp = Callable[..., Flask]


@pytest.fixture
def make_config(tmp_path: Path, sqlite_url: str) -> MakeConfig:
    """Return settings of a node below `tmp_path`; keyword arguments replace settings."""

    def make(**settings: str) -> Config:
        environ = {
            "DATABASE_URL": sqlite_url,
            "STORAGE_PATH": str(tmp_path / "primary"),
            "WAL_PATH": str(tmp_path / "wal"),
            "DFS_RUN_PATH": str(tmp_path / "run"),
            "REPLICA1_PATH": "",
            "REPLICA2_PATH": "",
            **settings,
        }
        return load_config(environ, env_file=str(tmp_path / "absent.env"))

    return make


@pytest.fixture
def make_app(make_config: MakeConfig) -> Iterator[MakeApp]:
    """Return a maker of applications, closed at the end; keyword arguments are settings."""
    apps: list[Flask] = []

    def make(**settings: str) -> Flask:
        apps.append(create_app(make_config(**settings)))
        return apps[-1]

    yield make
    for app in apps:
        app.extensions["dfs"].close()


@pytest.fixture
def client(make_app: MakeApp) -> FlaskClient:
    """Return a client of a fresh node."""
    return make_app().test_client()


@pytest.fixture
def stored_count(tmp_path: Path, client: FlaskClient) -> Callable[[], tuple[int, int]]:
    """Return a counter of (files listed, temporary files left)."""

    def count() -> tuple[int, int]:
        listed = client.get("/files", query_string={"limit": 1000}).json
        assert listed is not None
        left = [path for path in (tmp_path / "primary" / "tmp").rglob("*") if path.is_file()]
        return len(listed["files"]), len(left)

    return count


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return a finder of a port that nobody listens on."""

    def find() -> int:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port: int = server.getsockname()[1]
        return port

    return find
