"""What we tell Prometheus must be what our alerts, dashboard and documents count on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.telemetry.catalog import describe_metrics
from tests.project.chaos_clients import wait_until
from tests.project.watched import (
    DASHBOARD,
    DEADLINE_S,
    PROMETHEUS,
    ROOT,
    Watched,
    dashboard_expressions,
    find_families,
    find_selectors,
    watching,
)

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("monitoring")]

RUNNING_SCRUB = {"dfs_scrub_progress_ratio", "dfs_scrub_bytes_per_second", "dfs_scrub_eta_seconds"}
"""Have a value only while there is something to tell."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One node and one Prometheus for all tests of this file."""
    with watching(tmp_path_factory.mktemp("watched")) as found:
        yield found


def promtool(*arguments: str, text: str | None = None, cwd: Path = PROMETHEUS) -> str:
    """Run promtool; fail with what it says if it is not content."""
    done = subprocess.run(
        ["promtool", *arguments], input=text, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alert_names() -> list[str]:
    """Return the names of our alerts, in their order."""
    return re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())


def test_exposition_of_a_node_is_as_prometheus_wants_it(watched: Watched) -> None:
    """Its own tool finds nothing to say about a name, a unit or a missing explanation."""
    assert promtool("check", "metrics", text=watched.exposition) == ""


def test_exposition_has_all_documented_metrics_and_no_other(watched: Watched) -> None:
    """A node that did a little of everything tells each of them, as it is described."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", watched.exposition, re.MULTILINE))
    assert kinds == {metric.name: metric.kind for metric in describe_metrics()}
    for metric in describe_metrics():
        found = re.findall(rf"^{metric.name}(?:_bucket)?{{([^}}]*)}} ", watched.exposition, re.M)
        labels = {tuple(re.findall(r'(\w+)="', labels)) for labels in found}
        assert {frozenset(names) - {"le"} for names in labels} <= {frozenset(metric.labels)}


def test_exposition_counts_what_every_process_did(watched: Watched) -> None:
    """The master, a process that serves, and one that runs jobs; each with what it takes."""
    for line in (
        'dfs_processes{role="master"} 1.0',
        'dfs_processes{role="web"} 1.0',
        'dfs_processes{role="worker"} 1.0',
        "dfs_queue_up 1.0",
        "dfs_ready 1.0",
        "dfs_commit_changes_sum 2.0",
        "dfs_log_durable_lsn 5.0",  # a key, and of each file a blob
        "dfs_index_applied_lsn 5.0",
        'dfs_log_segments{state="active"} 1.0',
        'dfs_jobs_total{result="failed",task="replicate"} 0.0',
    ):
        assert f"\n{line}\n" in watched.exposition
    for name in ("dfs_index_bytes", "dfs_recovery_seconds", "dfs_start_time_seconds"):
        (value,) = re.findall(rf"^{name} (\S+)$", watched.exposition, re.MULTILINE)
        assert float(value) > 0, name


def test_jobs_of_the_worker_are_counted(watched: Watched) -> None:
    """By the process that runs them, and told by the one that is asked."""
    assert watched.await_series('dfs_jobs_total{task="replicate", result="finished"} > 0')
    assert watched.await_series('dfs_job_duration_seconds_sum{task="scrub"} > 0')


def test_scrape_with_the_key_succeeds(watched: Watched) -> None:
    """Prometheus reads the node as it is configured to."""
    assert wait_until(
        lambda: [row["value"][1] for row in watched.query('up{job="dfs"}')] == ["1"],
        timeout_s=DEADLINE_S,
    ), watched.ask("targets")


def test_alerts_count_on_metrics_that_there_are(watched: Watched) -> None:
    """Each chooses series that a node has, labels included, and can be evaluated."""
    assert wait_until(
        lambda: all(rule["health"] == "ok" for rule in watched.rules()), timeout_s=DEADLINE_S
    ), watched.rules()
    rules = watched.rules()
    assert sorted(rule["name"] for rule in rules) == sorted(alert_names())
    for rule in rules:
        assert find_families(rule["query"]) <= watched.families, rule["name"]
        for selector in find_selectors(rule["query"]):
            assert watched.await_series(selector), selector


def test_alerts_are_silent_for_a_node_that_is_well(watched: Watched) -> None:
    """One that fires for nothing is soon read by nobody."""
    assert watched.await_series("dfs_ready")
    assert [rule["name"] for rule in watched.rules() if rule["state"] == "firing"] == []


def test_dashboard_shows_what_a_node_tells(watched: Watched) -> None:
    """Every query of every panel finds something."""
    expressions = dashboard_expressions()
    assert len(expressions) > 60
    named = set[str]().union(*map(find_families, expressions.values()))
    assert named <= watched.families
    for panel, expression in expressions.items():
        if not find_families(expression) & RUNNING_SCRUB:
            assert watched.await_series(expression), panel


def test_alerts_do_what_their_own_tests_say() -> None:
    """`promtool test rules`: when each of them fires, and when not."""
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
    tested = re.findall(r"alertname: (\w+)", (PROMETHEUS / "alerts_test.yml").read_text())
    assert set(tested) == set(alert_names())


def test_configuration_of_prometheus_is_valid(tmp_path: Path) -> None:
    """As it stands, beside a file with a key."""
    directory = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, directory)
    (directory / "dfs.key").write_text("dfs_ID_SECRET")
    promtool("check", "config", "prometheus.yml", cwd=directory)


def test_dashboard_can_be_imported_anywhere() -> None:
    """It asks for its data source, names none of ours, and no two panels overlap."""
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    sources = [
        part["datasource"]["uid"]
        for panel in panels
        for part in (panel, *panel.get("targets", ()))
        if panel["type"] != "row"
    ]
    assert set(sources) == {"${datasource}"}
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    for row in ("Traffic", "Latency", "Commit", "Replication", "Disks", "Queue", "Processes"):
        assert row in rows


def test_alerts_are_each_explained() -> None:
    """Whoever is woken finds what it means, and what to do; nothing else is explained."""
    page = (ROOT / "docs/monitoring.md").read_text()
    assert re.findall(r"^\| `(Dfs\w+)` \|", page, re.MULTILINE) == alert_names()
