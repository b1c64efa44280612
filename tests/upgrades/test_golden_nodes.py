"""The data of every program that was in use is opened by this one, and nothing of it is lost."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dfs.core.config import Config, load_config
from dfs.db.migrations import find_applied, list_migrations
from dfs.wiring import open_services
from tests.services.conftest import list_keys
from tests.upgrades.golden_nodes import EXPECTED_NAME, NODES_PATH, SETTINGS, OldNode, extract
from tests.upgrades.restart_node import running_web

pytestmark = pytest.mark.integration
NAMES = sorted(path.name.removesuffix(".tar.xz") for path in NODES_PATH.glob("*.tar.xz"))
WITH_REPLICA = [name for name in NAMES if name != "schema-1"]
PLACES = {name: SETTINGS[name] for name in ("DATABASE_URL", "WAL_PATH", "DFS_WAL_SEGMENT_BYTES")}


def unpack(name: str, directory: Path) -> dict[str, Any]:
    """Put the data of a node into a directory. Returns what it had answered."""
    with tarfile.open(NODES_PATH / f"{name}.tar.xz") as archive:
        extract(archive, directory)
    expected: dict[str, Any] = json.loads((directory / EXPECTED_NAME).read_text())
    return expected


def config_of(directory: Path) -> Config:
    """Return the settings of such a node."""
    data = directory / "data"
    places = {
        "DATABASE_URL": f"sqlite:///{data}/dfs.db",
        "WAL_PATH": str(data / "wal"),
        "STORAGE_PATH": str(data / "primary"),
        "REPLICA1_PATH": str(data / "replica1"),
        "REPLICA2_PATH": "",
        "DFS_RUN_PATH": str(data / "run"),
    }
    return load_config(SETTINGS | places, env_file="/nonexistent")


def digests_of(expected: dict[str, Any]) -> dict[str, str]:
    """Return the digest of each file that a node had, by its id."""
    return {file["id"]: file["sha256"] for file in expected["files"]}


def require_all_of(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Fail unless the same things are there, and all that was said of them is said of them now."""
    assert [thing["id"] for thing in found] == [thing["id"] for thing in expected]
    for thing, before in zip(found, expected, strict=True):
        assert {name: thing[name] for name in before} == before


@pytest.mark.parametrize("name", NAMES)
def test_data_of_an_older_program_is_served_and_written_on(name: str, tmp_path: Path) -> None:
    """Files, trash, keys and the log are as they were; changes of the index were announced."""
    expected = unpack(name, tmp_path)
    before = find_applied(config_of(tmp_path).database_url)
    with running_web(tmp_path, WEB_CONCURRENCY="1", REPLICA1_PATH="data/replica1", **PLACES) as web:
        node = OldNode(web.process, f"http://127.0.0.1:{web.port}", expected["token"])
        require_all_of(node.ask("GET", "/files?limit=1000")["files"], expected["files"])
        trash = node.ask("GET", "/files?limit=1000&deleted=true")["files"]
        if expected["trash"] is not None:
            require_all_of(trash, expected["trash"])
        if expected["keys"] is not None:
            found = [
                {**key, "last_used_at": None} for key in node.ask("GET", "/admin/keys")["keys"]
            ]
            require_all_of(found, [{**key, "last_used_at": None} for key in expected["keys"]])
        usage = node.ask("GET", "/admin/usage")
        assert usage["files"] == len(expected["files"])
        assert usage["bytes"] == sum(file["size"] for file in expected["files"])
        assert usage["deleted_files"] == len(trash)
        segments = node.ask("GET", "/admin/wal/segments")["segments"]
        assert segments[-1]["last_lsn"] == expected["last_lsn"]
        for file_id, digest in digests_of(expected).items():
            content = node.ask("GET", f"/download/{file_id}")
            assert hashlib.sha256(content).hexdigest() == digest
        deleted = expected["files"][0]["id"]
        node.ask("DELETE", f"/files/{deleted}")
        stored = node.ask("POST", "/upload?name=new", b"by this program")
    for migration in list_migrations():
        assert (f'"{migration}"' in web.log) == (migration not in before)
    services = open_services(config_of(tmp_path))
    try:
        digests = digests_of(expected) | {stored["id"]: stored["sha256"]}
        del digests[deleted]
        assert list_keys(services) == digests
    finally:
        services.close()


@pytest.mark.parametrize("name", NAMES)
def test_index_of_an_older_program_is_rebuilt_from_its_log(name: str, tmp_path: Path) -> None:
    """The log alone tells what the index told."""
    expected = unpack(name, tmp_path)
    for path in (tmp_path / "data").glob("dfs.db*"):
        path.unlink()
    services = open_services(config_of(tmp_path))
    try:
        assert list_keys(services) == digests_of(expected)
        assert len(services.keys.list()) == len(expected["keys"] or [])
    finally:
        services.close()


@pytest.mark.parametrize("name", WITH_REPLICA)
def test_replica_of_an_older_program_is_enough(name: str, tmp_path: Path) -> None:
    """Log, primary and index come back from it."""
    expected = unpack(name, tmp_path)
    for path in (tmp_path / "data").iterdir():
        if path.name != "replica1":
            path.unlink() if path.is_file() else shutil.rmtree(path)
    services = open_services(config_of(tmp_path))
    try:
        assert list_keys(services) == digests_of(expected)
    finally:
        services.close()


def test_there_is_data_of_every_schema() -> None:
    """A migration comes with the data of a node that has it."""
    assert [f"schema-{number + 1}" for number in range(len(list_migrations()))] == NAMES
