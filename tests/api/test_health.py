"""What watchers of the node see."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from dfs.api.answers import HealthSchema, ReadySchema
from dfs.services.readiness import NodeHealth
from tests.api.conftest import MakeApp


def test_health_opens_nothing(make_app: MakeApp) -> None:
    """Whether the process lives does not depend on any part of the node."""
    app = make_app(STORAGE_PATH="/dev/null/nowhere")
    response: Any = app.test_client().get("/health")
    assert (response.status_code, HealthSchema().validate(response.json)) == (200, {})


def test_ready_is_200_when_all_parts_work(client: FlaskClient) -> None:
    """Each part is listed, with no reason against it."""
    response: Any = client.get("/ready")
    assert response.status_code == 200
    assert ReadySchema().validate(response.json) == {}
    assert response.json["status"] == "ready"
    assert set(response.json["reasons"]) >= {
        "recovery",
        "log",
        "index",
        "disk",
        "queue",
        "replicas",
    }


@pytest.mark.parametrize(
    ("part", "status", "code"),
    [("queue", "degraded", 200), ("replicas", "degraded", 200), ("disk", "unready", 503)],
)
def test_ready_tells_why_not(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, part: str, status: str, code: int
) -> None:
    """Only the queue and replicas may be down without the node being unready."""
    monkeypatch.setattr(NodeHealth, "reasons", lambda _: {"log": None, part: "broken"})
    response: Any = client.get("/ready")
    assert (response.status_code, response.json["status"]) == (code, status)
    assert response.json["reasons"] == {"log": None, part: "broken"}
    assert ("Retry-After" in response.headers) == (code == 503)


def test_ready_is_503_when_the_node_cannot_be_opened(make_app: MakeApp) -> None:
    """A node that cannot recover says so instead of crashing, and so does every other route.

    Only the log says why: nobody can tell whether whoever asks has a key.
    """
    client = make_app(STORAGE_PATH="/dev/null/nowhere").test_client()
    with capture_logs() as logs:
        response: Any = client.get("/ready")
        listing: Any = client.get("/files")
    assert (response.status_code, response.json["status"]) == (503, "unready")
    assert set(response.json) == {"status"}
    assert logs[0]["event"] == "services_unopened"
    assert (listing.status_code, listing.json["code"]) == (503, "keys_unavailable")
    assert listing.json["detail"] == "The API keys cannot be looked up at the moment."
    assert "/dev/null/nowhere" in logs[-1]["error"]
    assert logs[0]["log_level"] == "error"
