"""What the metrics say of the stores, whichever process is asked."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from dfs.telemetry.files import remove_dead_files
from dfs.telemetry.metrics import Readers, install_metrics
from dfs.telemetry.stores import StoreCounters, StoreGauges, collect_stores

ROOT = Path(__file__).resolve().parents[2]
IDLE = StoreGauges(
    store="primary",
    state="current",
    lag_s=0,
    lag_records=0,
    owed={"log": (0, 0), "blob": (0, 0)},
    failures=0,
    scrub_read_bytes=0,
    scrub_damaged_last=2,
    lsn=9,
)
BUSY = StoreGauges(
    store="replica1",
    state="out",
    lag_s=12.5,
    lag_records=7,
    owed={"log": (7, 700), "blob": (3, 4000)},
    failures=4,
    scrub_read_bytes=50,
    scrub_damaged_last=0,
    lsn=2,
    scrub_share=0.25,
    scrub_bytes_per_s=10,
    scrub_eta_s=15,
)

SERVE = """
from flask import Flask
from dfs.telemetry.files import reserve_metrics_files
from dfs.telemetry.metrics import Readers, install_metrics
from tests.telemetry.test_store_metrics import BUSY

assert reserve_metrics_files()
app = Flask("test")
metrics = install_metrics(app, readers=Readers(stores=lambda: [BUSY]))
metrics.stores.observe_damage("replica1", "blob")
response = app.test_client().get("/metrics", headers={"Accept": "%s"})
print(response.content_type)
print(response.text)
"""

JOIN = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from dfs.telemetry.files import join_metrics
from dfs.telemetry.stores import StoreCounters

join_metrics(Path(sys.argv[1]), ("counter", "histogram"))
StoreCounters(registry=CollectorRegistry()).observe_damage("replica1", "blob")
assert "flask" not in sys.modules
print("counted")
"""


def run_python(code: str, directory: Path, *, shared: bool) -> str:
    """Run code in a process, which shares its metrics or may begin to; return what it prints."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    if shared:
        environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    result = subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def sample(rows: Sequence[StoreGauges], name: str, **labels: str) -> float | None:
    """Return the value of one sample of these stores."""
    registry = CollectorRegistry()
    registry.register(collect_stores(lambda: rows))
    return registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("dfs_replication_lag_seconds", {}, 12.5),
        ("dfs_replication_lag_records", {}, 7),
        ("dfs_replication_owed_bytes", {"kind": "blob"}, 4000),
        ("dfs_replication_debts", {"kind": "blob"}, 3),
        ("dfs_replication_debts", {"kind": "log"}, 7),
        ("dfs_store_breaker_open", {}, 1),
        ("dfs_store_state", {"state": "out"}, 1),
        ("dfs_store_state", {"state": "current"}, 0),
        ("dfs_store_log_lsn", {}, 2),
        ("dfs_store_failures", {}, 4),
        ("dfs_scrub_read_bytes", {}, 50),
        ("dfs_scrub_damaged_last", {}, 0),
        ("dfs_scrub_progress_ratio", {}, 0.25),
        ("dfs_scrub_bytes_per_second", {}, 10),
        ("dfs_scrub_eta_seconds", {}, 15),
    ],
)
def test_gauges_tell_how_each_store_is(name: str, labels: dict[str, str], value: float) -> None:
    """One series for each store, and for each kind of what it owes."""
    assert sample([IDLE, BUSY], name, store="replica1", **labels) == value


def test_gauges_of_a_store_at_rest_are_zero_or_absent() -> None:
    """What is not owed is zero; a scrub that does not run has neither rate nor end."""
    assert sample([IDLE], "dfs_replication_lag_seconds", store="primary") == 0
    assert sample([IDLE], "dfs_store_breaker_open", store="primary") == 0
    assert sample([IDLE], "dfs_scrub_damaged_last", store="primary") == 2
    for name in ("dfs_scrub_progress_ratio", "dfs_scrub_eta_seconds"):
        assert sample([IDLE], name, store="primary") is None


def test_gauges_that_cannot_be_found_out_fail_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other metrics are told, and why these are not stands in the log."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

    def fail() -> list[StoreGauges]:
        raise LookupError("nobody knows")

    app = Flask("test")
    metrics = install_metrics(app, readers=Readers(stores=fail))
    metrics.stores.observe_rescue("replica1")
    with capture_logs() as logs:
        response = app.test_client().get("/metrics")
    assert response.status_code == 200
    assert "dfs_reads_from_replica_total 1.0" in response.text
    assert "dfs_replication" not in response.text
    assert 'dfs_lookup_up{lookup="store"} 0.0' in response.text
    assert 'dfs_lookup_up{lookup="disk"} 1.0' in response.text
    assert [(entry["event"], entry["lookup"]) for entry in logs] == [("metrics_unknown", "store")]


def test_reads_are_counted_by_whether_a_store_had_the_bytes() -> None:
    """A read that a replica answered is no read that was lost."""
    registry = CollectorRegistry()
    counters = StoreCounters(registry=registry)
    for store in ("replica1", None, "replica2"):
        counters.observe_rescue(store)
    assert registry.get_sample_value("dfs_reads_from_replica_total") == 2
    assert registry.get_sample_value("dfs_reads_lost_total") == 1


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
def test_several_processes_sum_counts_and_tell_gauges_once(tmp_path: Path, accept: str) -> None:
    """Counters are those of all processes; how a store is does not depend on how many ask."""
    run_python(SERVE % accept, tmp_path, shared=True)
    text = run_python(SERVE % accept, tmp_path, shared=True)
    assert text.startswith(accept)
    assert 'dfs_damage_found_total{kind="blob",store="replica1"} 2.0' in text
    assert text.count('dfs_replication_lag_seconds{store="replica1"} 12.5') == 1
    assert text.count('dfs_replication_debts{kind="log",store="replica1"} 7.0') == 1


def test_worker_counts_where_the_web_workers_look(tmp_path: Path) -> None:
    """What a process without `/metrics` counts is in their answers, even when it has ended."""
    assert "counted" in run_python(JOIN, tmp_path / "new", shared=False)
    text = run_python(SERVE % "text/plain", tmp_path / "new", shared=True)
    assert 'dfs_damage_found_total{kind="blob",store="replica1"} 2.0' in text


def test_worker_that_cannot_join_works_all_the_same(tmp_path: Path) -> None:
    """What it counts is seen by nobody; it does not fail for that."""
    (tmp_path / "file").touch()
    assert "counted" in run_python(JOIN, tmp_path / "file", shared=False)


def test_dead_files_are_removed_and_living_ones_kept(tmp_path: Path) -> None:
    """A worker may have begun to count before the web server removes what an earlier life left."""
    kept = tmp_path / "counter_1.db"
    # Their processes have ended, though others may have their numbers by now.
    for name in [
        kept.name,
        f"counter_{os.getpid()}.db",
        "histogram_99999999999999999999.db",
        "other",
    ]:
        (tmp_path / name).touch()
    with kept.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_dead_files(tmp_path)
        remove_dead_files(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == [kept]
