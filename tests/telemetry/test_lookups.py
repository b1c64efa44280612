"""What is looked up at a scrape: the node, its log, its queue, its processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dfs.telemetry.catalog import describe_metrics
from dfs.telemetry.lookup import AllLookups, LookupCollector
from dfs.telemetry.node import LogGauges, NodeGauges, StartGauges, collect_node
from dfs.telemetry.processes import Processes, collect_processes, read_processes
from dfs.telemetry.queue import JobCounters, QueueGauges, collect_queue

BUILD = {"version": "1.2", "python": "3.11.7"}
NODE = NodeGauges(
    BUILD,
    is_ready=True,
    parts={"log": True, "queue": False},
    start=StartGauges(at_s=1_000.5, recovery_s=2.5, replayed=7),
    log=LogGauges(lsn=9, segment_id=3, offset=4096),
    scrub_interval_s=60,
)


def register(*collectors: LookupCollector[Any]) -> CollectorRegistry:
    """Return a registry of these."""
    registry = CollectorRegistry()
    registry.register(AllLookups(collectors))
    return registry


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("dfs_build_info", BUILD, 1),
        ("dfs_ready", {}, 1),
        ("dfs_part_up", {"part": "log"}, 1),
        ("dfs_part_up", {"part": "queue"}, 0),
        ("dfs_start_time_seconds", {}, 1_000.5),
        ("dfs_recovery_seconds", {}, 2.5),
        ("dfs_recovery_replayed_records", {}, 7),
        ("dfs_log_durable_lsn", {}, 9),
        ("dfs_log_active_segment", {}, 3),
        ("dfs_log_active_segment_bytes", {}, 4096),
        ("dfs_scrub_interval_seconds", {}, 60),
    ],
)
def test_node_tells_how_it_is(name: str, labels: dict[str, str], value: float) -> None:
    """One value each, under its name."""
    registry = register(collect_node(lambda: NODE))
    assert registry.get_sample_value(name, labels) == value


def test_node_that_cannot_be_opened_says_so_and_guesses_nothing() -> None:
    """It is not ready; where its log ends it does not know."""
    closed = NodeGauges(BUILD, is_ready=False, parts={"recovery": False})
    registry = register(collect_node(lambda: closed))
    assert registry.get_sample_value("dfs_ready") == 0
    for name in ("dfs_log_durable_lsn", "dfs_recovery_seconds", "dfs_scrub_interval_seconds"):
        assert registry.get_sample_value(name) is None


@pytest.mark.parametrize(
    ("jobs", "up", "queued"), [({"queued": 3, "failed": 1}, 1, 3), (None, 0, None)]
)
def test_queue_that_is_away_is_told_as_such(
    jobs: dict[str, int] | None, up: float, queued: float | None
) -> None:
    """That Redis does not answer is a value, not an error."""
    registry = register(collect_queue(lambda: QueueGauges(jobs)))
    assert registry.get_sample_value("dfs_queue_up") == up
    assert registry.get_sample_value("dfs_queue_jobs", {"state": "queued"}) == queued
    assert registry.get_sample_value("dfs_lookup_up", {"lookup": "queue"}) == 1


def test_queue_that_is_none_is_not_told() -> None:
    """An alert for a queue that is down must not fire where there is none."""
    assert register(collect_queue(lambda: None)).get_sample_value("dfs_queue_up") is None


def test_jobs_stand_at_zero_until_they_are_run() -> None:
    """Of a count that appears with the first failure nobody could see that it grew."""
    registry = CollectorRegistry()
    counters = JobCounters(registry=registry, jobs=("scrub", "compact"))
    counters.observe_job("scrub", duration_s=2.5, has_failed=True)
    counters.observe_job("scrub", duration_s=0.5, has_failed=False)

    def runs(job: str, result: str) -> float | None:
        return registry.get_sample_value("dfs_jobs_total", {"task": job, "result": result})

    assert [runs("scrub", "failed"), runs("scrub", "finished")] == [1, 1]
    assert [runs("compact", "failed"), runs("compact", "finished")] == [0, 0]
    assert registry.get_sample_value("dfs_job_duration_seconds_sum", {"task": "scrub"}) == 3


def test_processes_are_told_with_what_they_take() -> None:
    """This one serves, by its own word; numbers of processes that are none of a node are not."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    rows = read_processes((1, ended.pid, os.getpid()), own_pid=os.getpid())
    assert [(row.pid, row.role) for row in rows] == [(os.getpid(), "web")]
    own = rows[0]
    assert own.cpu_s > 0
    assert 10 << 20 < own.resident_bytes < 4 << 30
    assert own.threads >= 1
    assert own.open_fds > 2
    registry = register(collect_processes(lambda: Processes(rows, workers_elsewhere=2)))
    labels = {"role": "web", "pid": str(own.pid)}
    assert registry.get_sample_value("dfs_process_cpu_seconds_total", labels) == own.cpu_s
    counts: Sequence[float | None] = [
        registry.get_sample_value("dfs_processes", {"role": role})
        for role in ("master", "web", "worker")
    ]
    assert counts == [0, 1, 2]


def test_process_started_when_it_did() -> None:
    """In Unix time, to the second in which the kernel counts."""
    before_s = time.time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        (row,) = read_processes((), own_pid=child.pid)
        assert before_s - 2 <= row.started_at_s <= time.time() + 2
        child.communicate(b"\n")


def test_metrics_are_described_once_each() -> None:
    """With a meaning that can be read, and labels that say what is counted apart."""
    described = {metric.name: metric for metric in describe_metrics()}
    assert len(described) == len(describe_metrics()) > 60
    assert all(metric.text[0].isupper() or metric.text[0] == "1" for metric in described.values())
    assert described["dfs_jobs_total"].labels == ("task", "result")
    assert described["dfs_http_requests_in_flight"].labels == ("url_rule", "pid")
    assert described["dfs_store_state"].labels == ("store", "state")
