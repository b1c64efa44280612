"""What a process does not need must not be in its memory."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.project.nodes import running_node

ROOT = Path(__file__).parents[2]
ARENA_BYTES = 64 << 20
"""Where the C library puts the memory of an arena other than the first: at a multiple of this."""

TELL_DIFFERENCE = """
import sys
from dfs.db import drivers
assert "psycopg" not in sys.modules
drivers.load_psycopg()
late = sys.modules.pop("peewee")
import peewee as early
def kinds(of):
    return {(name, type(value).__name__) for name, value in vars(of).items() if name[:2] != "__"}
assert early is not late
print(kinds(late) ^ kinds(early))
print(kinds(late.Psycopg3Adapter) ^ kinds(early.Psycopg3Adapter))
"""


def run_python(program: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def arenas_of(pid: int) -> list[str]:
    """Return the mappings of a process that are arenas of threads: what they have not used yet is
    reserved behind them. Any other large mapping may begin at such an address, too.
    """
    mappings = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [
        line
        for line, next_line in pairwise(mappings)
        if re.fullmatch(r"\S+ rw-p 00000000 00:00 0 *", line)
        and int(line.partition("-")[0], 16) % ARENA_BYTES == 0
        and re.match(rf"{line.split()[0].partition('-')[2]}-\S+ ---p", next_line)
    ]


@pytest.mark.parametrize(
    ("module", "spared"),
    [
        ("dfs.app", {"psycopg", "obstore", "opentelemetry"}),
        ("workers.run", {"psycopg", "obstore", "flask", "opentelemetry"}),
        ("workers.scheduler", {"psycopg", "obstore", "flask", "opentelemetry"}),
        ("workers.scheduler", {"psycopg", "obstore", "flask", "peewee", "prometheus_client"}),
        ("scripts.run", {"psycopg", "obstore", "flask", "redis", "valkey", "urllib3", "peewee"}),
    ],
)
def test_import_of_an_entry_point_brings_only_what_is_used(module: str, spared: set[str]) -> None:
    """With SQLite and local replicas no process has the drivers of other databases and stores."""
    loaded = run_python(f"import sys, {module}; print(*sys.modules)").split()
    assert module in loaded
    assert not spared & set(loaded)


def test_psycopg_loaded_late_leaves_peewee_as_if_it_had_been_there() -> None:
    """No name of peewee differs from what its own import of psycopg would have made it."""
    assert run_python(TELL_DIFFERENCE).splitlines() == ["set()", "set()"]


def memory_of(pid: int) -> dict[str, int]:
    """Return the sums over the mappings of a process, in KiB, by the kernel's names."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


@pytest.mark.integration
def test_web_worker_shares_the_memory_of_what_was_imported(tmp_path: Path) -> None:
    """What the master has loaded is not copied into a worker by its first collection of cycles."""
    with running_node(tmp_path) as node:
        master = node.child("gunicorn")
        (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        memory = memory_of(int(worker))
    assert memory["Shared_Dirty"] > 0.4 * memory["Anonymous"], memory


@pytest.mark.integration
def test_threads_of_a_node_allocate_from_one_arena(tmp_path: Path) -> None:
    """No process of a node has memory for each of its threads apart, which nothing gives back."""
    with running_node(tmp_path, DFS_THREADS="4") as node:
        for number in range(8):
            status, _ = node.request("POST", f"/upload?name={number}", bytes(2 << 20))
            assert status == 201
        pythons = [pid for pid, name in node.descendants().items() if "-server" not in name]
        threads = {pid: len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pythons}
        assert max(threads.values()) > 4
        assert [arena for pid in pythons for arena in arenas_of(pid)] == []
