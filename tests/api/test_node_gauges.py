"""The metrics of a node as a whole, from the services to `GET /metrics`."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from flask import Flask

from dfs.core.model import DebtKind
from dfs.wiring import Services
from tests.api.conftest import MakeApp
from tests.api.test_files import store
from tests.api.test_request_metrics import told
from tests.project.chaos_clients import wait_until
from tests.redis_server import running_redis

LARGE = bytes(100_000)


def services_of(app: Flask) -> Services:
    """Return the services of a node."""
    services: Services = app.extensions["dfs"].services
    return services


def test_log_and_index_are_told_as_they_are(make_app: MakeApp) -> None:
    """Position, segments and bytes, across the sealing of some segments."""
    app = make_app(DFS_WAL_SEGMENT_BYTES=str(64 << 10))
    for number in range(4):
        store(app.test_client(), f"{number}", bytes([number]) * 40_000)
    services = services_of(app)
    end = services.log.position
    assert end.segment_id == 4
    assert told(app, "dfs_log_durable_lsn") == told(app, "dfs_index_applied_lsn") == end.lsn
    assert told(app, "dfs_log_active_segment") == 4
    assert told(app, "dfs_log_active_segment_bytes") == end.offset
    counts = [
        told(app, "dfs_log_segments", state=state) for state in ("active", "sealed", "dropped")
    ]
    assert counts == [1, 3, 0]
    sealed = sum(segment.end or 0 for segment in services.log.segments())
    assert told(app, "dfs_log_segment_bytes", state="sealed") == sealed > 120_000
    assert told(app, "dfs_log_segment_bytes", state="active") == end.offset
    assert told(app, "dfs_log_bytes") == sealed + end.offset
    assert told(app, "dfs_index_bytes") == services.index.size_bytes()


def test_log_that_turned_read_only_is_told(make_app: MakeApp) -> None:
    """The part, and that the node does not serve; where the log ends it knows still."""
    app = make_app()
    store(app.test_client(), "a", b"a")
    assert told(app, "dfs_part_up", part="log") == told(app, "dfs_ready") == 1
    services_of(app).log.control.mark_read_only("the disk is broken")
    assert told(app, "dfs_part_up", part="log") == told(app, "dfs_ready") == 0
    assert told(app, "dfs_part_up", part="index") == 1
    assert told(app, "dfs_log_durable_lsn") == 2


def test_node_that_cannot_be_opened_is_not_ready(make_app: MakeApp) -> None:
    """And says so, instead of saying nothing."""
    app = make_app(STORAGE_PATH="/dev/null/nowhere", DFS_AUTH="off")
    assert told(app, "dfs_ready") == told(app, "dfs_part_up", part="recovery") == 0
    assert told(app, "dfs_log_durable_lsn") is None
    assert told(app, "dfs_lookup_up", lookup="node") == 1
    assert told(app, "dfs_lookup_up", lookup="store") == 0


def test_start_is_told_with_what_it_recovered(make_app: MakeApp, tmp_path: Path) -> None:
    """A node whose index was lost has all records to replay."""
    before_s = time.time()
    app = make_app()
    for name in ("a", "b", "c"):
        store(app.test_client(), name, name.encode())
    assert told(app, "dfs_recovery_replayed_records") == 0
    app.extensions["dfs"].close()
    for path in (tmp_path / "index").iterdir():
        path.unlink()
    again = make_app()
    again.test_client().get("/ready")
    assert told(again, "dfs_recovery_replayed_records") == 6
    recovery_s = told(again, "dfs_recovery_seconds")
    started_s = told(again, "dfs_start_time_seconds")
    assert recovery_s is not None
    assert started_s is not None
    assert 0 < recovery_s < time.time() - before_s
    assert before_s <= started_s <= time.time()


def test_commit_tells_how_long_it_waited_for_the_lock(make_app: MakeApp) -> None:
    """Another process has it meanwhile; its own time under the lock is told apart."""
    app = make_app()
    services = services_of(app)
    uploads = threading.Thread(target=lambda: store(app.test_client(), "a", b"a"))
    with services.log.lock():
        uploads.start()
        assert wait_until(lambda: services.committer.tickets.led_s() > 0, timeout_s=30)
        time.sleep(0.3)  # that it waits is what is measured
    uploads.join()
    waited_s = told(app, "dfs_commit_lock_wait_seconds_sum")
    assert waited_s is not None
    assert waited_s > 0.1
    locked_s = told(app, "dfs_commit_locked_seconds_sum")
    sync_s = told(app, "dfs_commit_sync_seconds_sum")
    assert locked_s is not None
    assert sync_s is not None
    assert 0 < sync_s < locked_s


def test_queue_is_told_and_so_is_its_end(make_app: MakeApp, tmp_path: Path) -> None:
    """Redis away is a value, told within a second, and no error; so is a queue that is none."""
    with running_redis(tmp_path / "redis") as server:
        app = make_app(REDIS_URL=server.url)
        services_of(app).queue.enqueue("workers.jobs.compact", job_id="compact")
        assert told(app, "dfs_queue_up") == 1
        assert told(app, "dfs_queue_jobs", state="queued") == 1
        assert told(app, "dfs_queue_jobs", state="failed") == 0
    assert told(app, "dfs_queue_up") == 0
    assert told(app, "dfs_part_up", part="queue") == 0
    assert told(app, "dfs_queue_jobs", state="queued") is None
    assert told(app, "dfs_ready") == 1
    assert told(make_app(), "dfs_queue_up") is None


@pytest.mark.parametrize("is_there", [True, False])
def test_debts_are_counted_when_they_are_paid_or_tried_in_vain(
    make_app: MakeApp, tmp_path: Path, is_there: bool
) -> None:
    """A blob that no store has cannot be copied."""
    app = make_app(REPLICA1_PATH=str(tmp_path / "replica1"))
    store(app.test_client(), "a", LARGE)
    services = services_of(app)
    if not is_there:
        for path in (tmp_path / "primary/blobs").rglob("*"):
            if path.is_file():
                path.unlink()
    services.replication.work("replica1", budget_s=30)
    labels = {"store": "replica1", "kind": DebtKind.BLOB.name.lower()}
    assert told(app, "dfs_debts_paid_total", **labels) == is_there
    assert told(app, "dfs_debts_failed_total", **labels) == (not is_there)
    assert told(app, "dfs_debts_paid_total", store="primary", kind="segment") == 0


def test_store_is_in_one_state(make_app: MakeApp, tmp_path: Path) -> None:
    """Behind until it has everything; then current, with a position in the log."""
    app = make_app(REPLICA1_PATH=str(tmp_path / "replica1"))
    store(app.test_client(), "a", LARGE)
    services = services_of(app)

    def find_states() -> list[str]:
        services.replicas._looked_s = 0
        states = ("new", "out", "behind", "current")
        return [
            state
            for state in states
            if told(app, "dfs_store_state", store="replica1", state=state) == 1
        ]

    assert find_states() == ["behind"]
    services.replication.work("replica1", budget_s=30)
    assert find_states() == ["current"]
    assert told(app, "dfs_store_log_lsn", store="replica1") == services.log.position.lsn


def test_scrub_is_told_by_its_times(make_app: MakeApp) -> None:
    """When it began and ended, and how often it is to; a node that never scrubs tells none."""
    app = make_app(DFS_SCRUB_INTERVAL_S="3600")
    services = services_of(app)
    assert told(app, "dfs_scrub_finished_timestamp_seconds", store="primary") is None
    before_s = time.time()
    while services.scrub.work("primary", budget_s=5).is_running:
        pass
    services.replicas._looked_s = 0
    started_s = told(app, "dfs_scrub_started_timestamp_seconds", store="primary")
    finished_s = told(app, "dfs_scrub_finished_timestamp_seconds", store="primary")
    assert started_s is not None
    assert finished_s is not None
    assert before_s - 1 <= started_s <= finished_s <= time.time() + 1
    assert told(app, "dfs_scrub_interval_seconds") == 3600


def test_scrub_that_is_off_has_no_interval(make_app: MakeApp) -> None:
    """So nobody is told that it is overdue."""
    app = make_app(DFS_SCRUB_BYTES_PER_S="0")
    assert told(app, "dfs_ready") == 1
    assert told(app, "dfs_scrub_interval_seconds") is None
