"""The stores as operators see them over HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.api.answers import ScrubStartSchema, StoresSchema, SyncSchema
from dfs.api.represent import format_timestamp
from dfs.core.clock import now_ms
from dfs.core.model import Debt
from dfs.queue.inline_queue import InlineQueue
from dfs.services.hints import REPLICATE, SCRUB
from dfs.wiring import Services
from tests.api.conftest import MakeApp

LARGE = bytes(100_000)


@pytest.fixture
def node(make_app: MakeApp, tmp_path: Path) -> FlaskClient:
    """Return a client of a node with two replicas, which only the test works on."""
    paths = {f"REPLICA{n}_PATH": str(tmp_path / f"replica{n}") for n in (1, 2)}
    return make_app(**paths).test_client()


def services_of(client: FlaskClient) -> Services:
    """Return the services behind a client."""
    services: Services = client.application.extensions["dfs"].services
    return services


@pytest.fixture
def asked(node: FlaskClient) -> list[str]:
    """Give the node a queue that pays at once; return the names of the stores it was asked for."""
    services, names = services_of(node), []

    def replicate(store: str) -> None:
        names.append(store)
        services.replication.work(store, budget_s=30)

    def scrub(store: str) -> None:
        names.append(f"scrub {store}")

    services.replicas._queue = InlineQueue(jobs={REPLICATE.name: replicate, SCRUB.name: scrub})
    return names


def test_status_describes_every_store(node: FlaskClient, tmp_path: Path) -> None:
    """The answer is as documented; what is owed, and where a store is, stand in it."""
    node.post("/upload?name=a", data=LARGE)
    services_of(node).replication.work("replica1", budget_s=30)
    response: Any = node.get("/admin/replicas/status")
    assert response.status_code == 200
    assert StoresSchema().validate(response.json) == {}
    primary, first, second = response.json["stores"]
    assert (primary["name"], primary["kind"]) == ("primary", "directory")
    assert primary["location"] == str(tmp_path / "primary")
    assert primary["position"] is None
    assert first["position"]["lsn"] == 2
    for store in (primary, first):
        assert (store["reachable"], store["breaker"]) == (True, "closed")
        assert (store["owed_bytes"], store["oldest_debt_s"], store["lag_records"]) == (0, None, 0)
    assert second["lag_records"] == second["debts"]["log"]["count"] == 2
    assert second["debts"]["blob"]["bytes"] == len(LARGE)
    assert second["owed_bytes"] > len(LARGE)
    assert 0 <= second["oldest_debt_s"] < 60
    assert second["scrub"]["running"] is False


def test_status_of_a_store_that_is_gone_tells_why(node: FlaskClient, tmp_path: Path) -> None:
    """It is not reachable, and once it has been tried the failure stands there with its time."""
    services = services_of(node)
    shutil.rmtree(tmp_path / "replica1")
    services.replication.work("replica1", budget_s=30)
    response: Any = node.get("/admin/replicas/status")
    assert StoresSchema().validate(response.json) == {}
    store = response.json["stores"][1]
    assert (store["reachable"], store["failures"]) == (False, 1)
    assert store["unreachable_reason"]
    assert store["last_error"]
    assert store["last_error_at"]
    assert store["retry_at"]


def test_sync_answers_with_jobs_and_what_is_owed(node: FlaskClient, asked: list[str]) -> None:
    """Without a name all stores are worked on."""
    node.post("/upload?name=a", data=LARGE)
    response: Any = node.post("/admin/replicas/sync?wait=300")
    assert response.status_code == 202
    assert SyncSchema().validate(response.json) == {}
    assert response.json["jobs"] == [
        "replicate-primary",
        "replicate-replica1",
        "replicate-replica2",
    ]
    assert response.json["done"] is True
    assert {name: owed["owed_bytes"] for name, owed in response.json["owed"].items()} == {
        "primary": 0,
        "replica1": 0,
        "replica2": 0,
    }
    assert asked == ["primary", "replica1", "replica2"]


def test_sync_tells_what_has_to_wait_and_until_when(node: FlaskClient, asked: list[str]) -> None:
    """A removal that waits for its hour is neither waited for nor passed over in silence."""
    services = services_of(node)
    soon_ms, late_ms = now_ms() + 1_000_000, now_ms() + 3_600_000
    services.ledger.owe(
        [
            Debt.of_removal("replica1", bytes([number]) * 32, 7, due_ms, lsn=0)
            for number, due_ms in enumerate((soon_ms, late_ms))
        ]
    )
    response: Any = node.post("/admin/replicas/sync?wait=300")
    assert SyncSchema().validate(response.json) == {}
    assert response.json["done"] is True
    removals = {name: owed["debts"]["removal"] for name, owed in response.json["owed"].items()}
    assert (removals["replica1"]["count"], removals["replica2"]["count"]) == (2, 0)
    assert removals["replica1"]["due_at"] == format_timestamp(late_ms)
    assert removals["replica2"]["due_at"] is None
    (due,) = services.files._index.due_debts("replica1", now_ms=soon_ms, limit=9)
    assert due.owed_at_ms == soon_ms


def test_status_of_what_may_be_paid_at_once_has_no_due_time(node: FlaskClient) -> None:
    """What is merely late is not said to be waiting."""
    services_of(node).ledger.owe([Debt.of_removal("replica1", bytes(32), 7, 5, lsn=0)])
    response: Any = node.get("/admin/replicas/status")
    removal = response.json["stores"][1]["debts"]["removal"]
    assert (removal["count"], removal["due_at"]) == (1, None)


def test_scrub_begins_and_is_seen_in_the_status(node: FlaskClient, asked: list[str]) -> None:
    """The jobs are named, and the store named is read from now on."""
    response: Any = node.post("/admin/replicas/scrub", json={"store": "replica1"})
    assert response.status_code == 202
    assert ScrubStartSchema().validate(response.json) == {}
    assert response.json == {"jobs": ["scrub-replica1"], "running": [], "faults": {}}
    assert asked == ["scrub replica1"]
    status: Any = node.get("/admin/replicas/status").json
    assert StoresSchema().validate(status) == {}
    assert [store["scrub"]["running"] for store in status["stores"]] == [False, True, False]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [("store=x", 404, "no_such_store"), ("wait=1", 422, "invalid_request")],
)
def test_scrub_invalid_is_refused(
    node: FlaskClient, asked: list[str], query: str, status: int, code: str
) -> None:
    """Nothing is begun."""
    response: Any = node.post(f"/admin/replicas/scrub?{query}")
    assert (response.status_code, response.json["code"]) == (status, code)
    assert asked == []


def test_scrub_switched_off_is_refused(make_app: MakeApp) -> None:
    """Settings that say never are not overruled."""
    client = make_app(DFS_SCRUB_BYTES_PER_S="0").test_client()
    services_of(client).replicas._queue = InlineQueue(jobs={})
    response: Any = client.post("/admin/replicas/scrub")
    assert (response.status_code, response.json["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "how",
    [{"query_string": "store=replica2"}, {"json": {"store": "replica2"}}],
    ids=["query", "body"],
)
def test_sync_of_one_store_is_named_in_query_or_body(
    node: FlaskClient, asked: list[str], how: dict[str, Any]
) -> None:
    """Only that one is worked on."""
    response: Any = node.post("/admin/replicas/sync", **how)
    assert (response.status_code, response.json["jobs"]) == (202, ["replicate-replica2"])
    assert asked == ["replica2"]


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ({"query_string": "store=replica9"}, 404, "no_such_store"),
        ({"json": {"store": "replica9"}}, 404, "no_such_store"),
        ({"query_string": "wait=301"}, 422, "invalid_request"),
        ({"query_string": "wait=x"}, 422, "invalid_request"),
        ({"query_string": "store="}, 422, "invalid_request"),
        ({"query_string": "shop=a"}, 422, "invalid_request"),
        ({"json": {"wait": 5}}, 422, "invalid_request"),
        ({"json": ["replica1"]}, 422, "invalid_request"),
        ({"data": b"null", "content_type": "application/json"}, 422, "invalid_request"),
        ({"json": {"store": "a"}, "query_string": "store=b"}, 422, "invalid_request"),
        ({"data": b"{", "content_type": "application/json"}, 400, "invalid_request"),
        ({"data": b"store=a"}, 415, "unsupported_media_type"),
    ],
)
def test_sync_invalid_is_refused(
    node: FlaskClient, asked: list[str], how: dict[str, Any], status: int, code: str
) -> None:
    """Nothing is asked for."""
    response: Any = node.post("/admin/replicas/sync", **how)
    assert (response.status_code, response.json["code"]) == (status, code)
    assert asked == []


@pytest.mark.parametrize(
    "path",
    [
        "/admin/replicas/sync",
        "/admin/replicas/sync?store=replica1&wait=300",
        "/admin/replicas/scrub",
    ],
)
def test_work_without_a_queue_is_503(node: FlaskClient, path: str) -> None:
    """Nobody would do the work."""
    response: Any = node.post(path)
    assert (response.status_code, response.json["code"]) == (503, "queue")
    assert response.headers["Retry-After"]


@pytest.mark.parametrize("what", ["sync", "scrub"])
def test_work_while_the_queue_is_down_is_503(
    make_app: MakeApp, free_port: Callable[[], int], what: str
) -> None:
    """So it is when Redis does not answer."""
    client = make_app(REDIS_URL=f"redis://127.0.0.1:{free_port()}").test_client()
    response: Any = client.post(f"/admin/replicas/{what}")
    assert (response.status_code, response.json["code"]) == (503, "queue")
