"""The metrics must count every request once, under names that clients cannot multiply."""

from __future__ import annotations

import pytest
from flask import Flask, abort

from dfs.telemetry.metrics import Metrics, install_metrics


@pytest.fixture
def app() -> Flask:
    """An application with a route that has a variable, and one that fails."""
    made = Flask("test")
    made.add_url_rule("/files/<file_id>", "file", lambda file_id: file_id)
    made.add_url_rule("/gone", "gone", lambda: abort(410))
    made.add_url_rule("/broken", "broken", lambda: 1 // 0)
    return made


@pytest.fixture
def metrics(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """The metrics of that application, for one process."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    return install_metrics(app)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return the value of one sample."""
    return metrics.registry.get_sample_value(name, labels)


def test_request_counts_once_under_its_route(app: Flask, metrics: Metrics) -> None:
    """Two files are one route: one series, not one for each file."""
    app.test_client().get("/files/a")
    app.test_client().get("/files/b")
    labels = {"method": "GET", "url_rule": "/files/<file_id>", "status": "200"}
    assert sample(metrics, "flask_http_request_duration_seconds_count", **labels) == 2
    assert sample(metrics, "flask_http_request_total", **labels) == 2


@pytest.mark.parametrize(
    ("path", "rule", "status"),
    [("/gone", "/gone", "410"), ("/broken", "/broken", "500"), ("/nowhere", "", "404")],
)
def test_request_that_fails_counts(
    app: Flask, metrics: Metrics, path: str, rule: str, status: str
) -> None:
    """An error is a request too, whoever caused it."""
    app.test_client().get(path)
    labels = {"method": "GET", "url_rule": rule, "status": status}
    assert sample(metrics, "flask_http_request_duration_seconds_count", **labels) == 1


def test_request_invented_methods_share_one_series(app: Flask, metrics: Metrics) -> None:
    """A client that invents methods does not grow our memory."""
    for number in range(5):
        app.test_client().open("/gone", method=f"X{number}")
    labels = {"method": "OTHER", "url_rule": "", "status": "405"}
    assert sample(metrics, "flask_http_request_duration_seconds_count", **labels) == 5


def test_endpoint_shows_requests_and_commits_but_not_itself(app: Flask, metrics: Metrics) -> None:
    """What is scraped holds what was counted, and scraping does not change it."""
    metrics.commits.observe_commit(
        changes=3, syncs=1, bytes=512, sync_s=0.002, lock_wait_s=0.25, locked_s=0.5
    )
    app.test_client().get("/metrics")
    text = app.test_client().get("/metrics").text
    for line in (
        "dfs_commit_changes_count 1.0",
        "dfs_commit_changes_sum 3.0",
        "dfs_commit_syncs_total 1.0",
        "dfs_commit_bytes_total 512.0",
        "dfs_commit_sync_seconds_sum 0.002",
        "dfs_commit_lock_wait_seconds_sum 0.25",
        "dfs_commit_locked_seconds_sum 0.5",
    ):
        assert line in text
    assert "/metrics" not in text


def test_install_twice_keeps_applications_apart(app: Flask, metrics: Metrics) -> None:
    """Each application counts for itself: no state is global."""
    other = Flask("other")
    other_metrics = install_metrics(other)
    app.test_client().get("/gone")
    labels = {"method": "GET", "url_rule": "/gone", "status": "410"}
    assert sample(metrics, "flask_http_request_total", **labels) == 1
    assert sample(other_metrics, "flask_http_request_total", **labels) is None
