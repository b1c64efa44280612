"""The metrics of the stores, from the services to `GET /metrics`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.services.replicas import Replicas
from dfs.wiring import Services
from tests.api.conftest import MakeApp

LARGE = bytes(100_000)


def start(make_app: MakeApp, tmp_path: Path) -> tuple[FlaskClient, Services, str]:
    """Return a client of a node with a replica, its services, and the id of a file in both."""
    client = make_app(REPLICA1_PATH=str(tmp_path / "replica1")).test_client()
    services: Services = client.application.extensions["dfs"].services
    file: Any = client.post("/upload?name=a", data=LARGE, headers={"DFS-Replication": "sync"}).json
    return client, services, file["id"]


def damage_blobs(store: Path) -> None:
    """Change a byte in each blob file of a store."""
    paths = [path for path in (store / "blobs").rglob("*") if path.is_file()]
    assert paths
    for path in paths:
        data = bytearray(path.read_bytes())
        data[5] ^= 1
        path.write_bytes(data)


def metrics(client: FlaskClient) -> str:
    """Return the metrics, with what is known of the stores looked up anew."""
    client.application.extensions["dfs"].services.replicas._looked_s = 0
    return client.get("/metrics").text


def test_metrics_tell_what_a_replica_owes(make_app: MakeApp, tmp_path: Path) -> None:
    """Debts, bytes and lag of a replica that nobody has worked on."""
    client, _, _ = start(make_app, tmp_path)
    client.post("/upload?name=b", data=b"b" * 70_000)
    text = metrics(client)
    assert 'dfs_replication_debts{kind="blob",store="replica1"} 1.0' in text
    assert 'dfs_replication_owed_bytes{kind="blob",store="replica1"} 70000.0' in text
    assert 'dfs_replication_lag_records{store="replica1"} 2.0' in text
    assert 'dfs_replication_lag_seconds{store="primary"} 0.0' in text
    assert 'dfs_store_breaker_open{store="replica1"} 0.0' in text


def test_metrics_count_reads_that_a_replica_answered(make_app: MakeApp, tmp_path: Path) -> None:
    """And the damage that was met, by store and kind; inline blobs as well as blob files."""
    client, services, file_id = start(make_app, tmp_path)
    damage_blobs(tmp_path / "primary")
    for _ in range(2):
        assert client.get(f"/download/{file_id}").data == LARGE
    text = metrics(client)
    assert "dfs_reads_from_replica_total 2.0" in text
    assert "dfs_reads_lost_total 0.0" in text
    assert 'dfs_damage_found_total{kind="blob",store="primary"} 1.0' in text
    small: Any = client.post("/upload?name=b", data=b"small").json
    services.replication.work("replica1", budget_s=30)
    place = services.log.path / "wal.active"
    place.write_bytes(place.read_bytes().replace(b"small", b"smell"))
    assert client.get(f"/download/{small['id']}").data == b"small"
    text = metrics(client)
    assert "dfs_reads_from_replica_total 3.0" in text
    assert 'dfs_damage_found_total{kind="segment",store="primary"} 1.0' in text


def test_metrics_count_reads_that_no_store_could_answer(make_app: MakeApp, tmp_path: Path) -> None:
    """Those are what an operator has to know of."""
    client, _, file_id = start(make_app, tmp_path)
    for store in ("primary", "replica1"):
        damage_blobs(tmp_path / store)
    assert client.get(f"/download/{file_id}").status_code == 500
    text = metrics(client)
    assert "dfs_reads_lost_total 1.0" in text
    assert "dfs_reads_from_replica_total 0.0" in text


def test_metrics_of_a_node_that_cannot_be_opened_are_answered(make_app: MakeApp) -> None:
    """The requests that fail are counted, whatever is wrong."""
    client = make_app(STORAGE_PATH="/dev/null/nowhere", DFS_AUTH="off").test_client()
    client.get("/files")
    response = client.get("/metrics")
    assert response.status_code == 200
    assert "flask_http_request_total" in response.text


def test_metrics_look_the_stores_up_not_at_every_scrape(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many debts that costs; scrapes and readiness share what was found lately."""
    client, _, _ = start(make_app, tmp_path)
    looks: list[int] = []
    look = Replicas.look
    monkeypatch.setattr(Replicas, "look", lambda self: looks.append(1) or look(self))
    for _ in range(3):
        metrics_text = client.get("/metrics").text
        assert client.get("/ready").status_code == 200
        assert "dfs_replication_debts" in metrics_text
    assert len(looks) == 1
