"""Counting in files that processes share must never kill a process, whatever the disk does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from dfs.core.signs import is_shown
from dfs.telemetry import ended, files
from dfs.telemetry.ended import fold_ended
from dfs.telemetry.files import count_elsewhere, list_pids, remove_dead_files
from dfs.telemetry.metrics import _SharedCounts

ROOT = Path(__file__).resolve().parents[2]

COUNT = """
from flask import Flask
from dfs.telemetry.files import reserve_metrics_files
from dfs.telemetry.metrics import install_metrics

reserved = reserve_metrics_files()
app = Flask("test")
metrics = install_metrics(app)
app.add_url_rule("/a", "a", lambda: "")
app.test_client().get("/a")
print(reserved, app.test_client().get("/metrics").text)
"""

OUTGROW = """
import os
from pathlib import Path
from prometheus_client import CollectorRegistry
from dfs.telemetry.files import FILE_BYTES, reserve_metrics_files
from dfs.telemetry.requests import RequestMetrics, SERIES_MAX

assert reserve_metrics_files()
files = {kind: Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], f"{kind}_{os.getpid()}.db")
         for kind in FILE_BYTES}
for kind, file in files.items():
    assert file.stat().st_size == FILE_BYTES[kind]
    assert file.stat().st_blocks * 512 >= FILE_BYTES[kind], f"{kind} is sparse"
metrics = RequestMetrics(registry=CollectorRegistry())
for number in range(SERIES_MAX + 100):
    series = metrics._add_series("OPTIONS", f"/{number:0>100}", 200)
    series.duration.observe(1)
    series.total.inc()
    metrics._in_flight.labels(f"/{number % 100:0>100}").inc()
for kind, file in files.items():
    assert file.stat().st_size == FILE_BYTES[kind], f"{kind} grew"
assert set(files.values()) == set(files["counter"].parent.glob("*.db"))
"""

JOIN = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter
from dfs.telemetry import files

files._NAMESPACE_PATH = Path(sys.argv[2])
files.join_metrics(Path(sys.argv[1]), ("counter",))
Counter("joined", "test", registry=CollectorRegistry()).inc(7)
print("counted", flush=True)
sys.stdin.read()
"""


def run_python(
    code: str, directory: Path, *, file_bytes_max: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a process that shares its metrics; it may not make files larger than that."""
    if file_bytes_max is not None:
        limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_bytes_max},) * 2)"
        code = f"import resource\n{limit}\n{code}"
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_metrics_files_have_their_room_before_and_never_outgrow_it(tmp_path: Path) -> None:
    """Every page that counting can touch is on disk beforehand, however many series there are."""
    result = run_python(OUTGROW, tmp_path)
    assert result.returncode == 0, result.stderr


def test_metrics_shared_files_are_counted_in(tmp_path: Path) -> None:
    """With room, the answer comes from the shared files."""
    result = run_python(COUNT, tmp_path)
    assert result.stdout.startswith("True"), result.stderr
    assert 'flask_http_request_total{method="GET",status="200",url_rule="/a"} 1.0' in result.stdout
    assert list(tmp_path.glob("counter_*.db"))


def test_metrics_without_room_are_counted_in_memory(tmp_path: Path) -> None:
    """Without room the process says so and counts for itself."""
    result = run_python(COUNT, tmp_path, file_bytes_max=1 << 17)
    assert result.returncode == 0, result.stderr
    assert "metrics_not_shared" in result.stdout
    assert not list(tmp_path.iterdir())
    assert 'flask_http_request_total{method="GET",status="200",url_rule="/a"} 1.0' in result.stdout


def test_metrics_without_directory_are_counted_in_memory(tmp_path: Path) -> None:
    """Not even the directory need be there."""
    result = run_python(COUNT, tmp_path / "absent")
    assert "metrics_not_shared" in result.stdout, result.stderr
    assert 'flask_http_request_total{method="GET",status="200",url_rule="/a"} 1.0' in result.stdout


@pytest.mark.parametrize("is_near", [True, False])
def test_metrics_of_a_worker_in_its_own_container_count_as_long_as_it_lives(
    tmp_path: Path, is_near: bool
) -> None:
    """Its process id means nothing to the web server, which must not take it for a dead one."""
    namespace = "/proc/self/ns/pid" if is_near else str(tmp_path)
    shared = tmp_path / "shared"
    command = [sys.executable, "-c", JOIN, str(shared), namespace]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "counted\n"
        remove_dead_files(shared)
        (file,) = shared.iterdir()
        assert (worker.pid in list_pids(shared)) == is_near
        assert count_elsewhere(shared) == (not is_near)
        collector = MultiProcessCollector(CollectorRegistry(), path=str(shared))
        assert [(m.name, m.samples[0].value) for m in collector.collect()] == [("joined", 7.0)]
        worker.kill()
    assert count_elsewhere(shared) == 0
    # Somebody here may have the id that it had there.
    file.rename(file.with_name(file.name.replace(str(worker.pid), "1")))
    remove_dead_files(shared)
    assert list(shared.iterdir()) == []


def count_in(shared: Path) -> float:
    """Return what processes that have joined and ended have counted."""
    collector = _SharedCounts(CollectorRegistry(), path=str(shared))
    (metric,) = collector.collect()
    return metric.samples[0].value


def join_and_end(shared: Path) -> None:
    """Have a process count 7, and end."""
    command = [sys.executable, "-c", JOIN, str(shared), "/proc/self/ns/pid"]
    subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
    )


def test_metrics_of_ended_processes_stay_and_take_no_room(tmp_path: Path) -> None:
    """However often a process ends and another begins, one file has what they have counted."""
    shared = tmp_path / "shared"
    for _ in range(3):
        join_and_end(shared)
    assert sorted(path.name for path in shared.iterdir())[1:] == ["counter_ended.db"]
    assert count_in(shared) == 21
    (shared / "gauge_liveall_1.db").touch()
    fold_ended(shared)
    (file,) = shared.iterdir()
    assert count_in(shared) == 21
    assert file.stat().st_size < 1000


def test_metrics_are_told_while_nothing_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a count could be told twice, or not at all."""
    shared = tmp_path / "shared"
    join_and_end(shared)
    (file,) = shared.iterdir()
    monkeypatch.setattr(ended, "GATE_WAIT_S", 0)
    read = MultiProcessCollector.merge

    def merge(files: list[str], accumulate: bool = True) -> Any:
        fold_ended(shared)
        return read(files, accumulate)

    monkeypatch.setattr(MultiProcessCollector, "merge", staticmethod(merge))
    assert count_in(shared) == 7
    assert list(shared.iterdir()) == [file]


def test_metrics_files_are_seen_when_they_are_whole_and_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can read half of one, nor take its process for one that has ended."""
    seen: list[list[Path]] = []
    path = tmp_path / "counter_1.db"
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: seen.append(list(tmp_path.glob("*.db"))))
    files._make_file(path, 1)
    assert seen == [[]]
    assert list(tmp_path.iterdir()) == [path]
    assert is_shown(path)


@pytest.mark.parametrize("name", ["counter_1.db", "gauge_liveall_1.db"])
@pytest.mark.parametrize("is_file", [True, False])
def test_metrics_that_cannot_be_folded_stop_nobody(
    tmp_path: Path, name: str, is_file: bool
) -> None:
    """The master looks after them, on whose end the node ends."""
    if is_file:
        (tmp_path / name).write_bytes(b"\xff")
    else:
        (tmp_path / name).mkdir()
    fold_ended(tmp_path)
    fold_ended(tmp_path / "absent" / "absent")
