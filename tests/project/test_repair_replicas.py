"""The script that compares the stores, and mends them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfs.core.clock import now_ms
from dfs.core.model import Debt
from dfs.wiring import Services, open_services
from scripts.progress import ProgressLine, describe, format_bytes, format_seconds
from scripts.repair_replicas import main, parse_arguments, run
from tests.services.conftest import make_config, store_bytes
from tests.services.stores_rig import BLOB_BYTES, Rig, build_rig, cut_end, fill, flip_byte
from torture.node import ROOT, program_environ

STORES = ["primary", "replica1", "replica2"]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The settings of a node below the test's directory."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'dfs.db'}",
        "STORAGE_PATH": str(tmp_path / "primary"),
        "WAL_PATH": str(tmp_path / "wal"),
        "REPLICA1_PATH": str(tmp_path / "replica1"),
        "REPLICA2_PATH": str(tmp_path / "replica2"),
        "DFS_RUN_PATH": str(tmp_path / "run"),
    }


@pytest.fixture
def node(tmp_path: Path, environ: dict[str, str]) -> Iterator[Services]:
    """A node with two replicas."""
    replicas = tuple((name, str(tmp_path / name)) for name in STORES[1:])
    config = make_config(tmp_path, environ["DATABASE_URL"], replicas=replicas)
    services = open_services(config)
    yield services
    services.close()


@pytest.fixture
def rig(node: Services) -> Rig:
    """A node whose stores hold three blob files and a sealed segment each."""
    rig = build_rig(node)
    fill(rig, segments=1)
    return rig


class Script:
    """Runs the script in this process, with the services that are open."""

    def __init__(self, rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
        self._rig = rig
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Return the exit status and what was printed."""
        self._capsys.readouterr()
        status = run(self._rig.node, parse_arguments(arguments))
        # The log of these tests goes to stdout as well.
        printed = re.sub(r"(?m)^\d{4}-.*\[\w+ *\].*\n", "", self._capsys.readouterr().out)
        return status, printed

    def json(self, *arguments: str) -> tuple[int, Any]:
        """Return the exit status and the JSON that was printed."""
        status, printed = self("--json", *arguments)
        return status, json.loads(printed)

    def faults(self, *arguments: str) -> set[tuple[str, str, str]]:
        """Return (store, unit, fault) of everything found."""
        _, seen = self.json(*arguments)
        return {
            (store["store"], found["unit"], found["fault"])
            for store in seen["stores"]
            for found in store["findings"]
        }


@pytest.fixture
def script(rig: Rig, capsys: pytest.CaptureFixture[str]) -> Script:
    """The script, with the stores of the rig."""
    return Script(rig, capsys)


@pytest.fixture
def digest(rig: Rig) -> bytes:
    """One of the blob files."""
    return rig.index.list_blobs(limit=10)[1].digest


@pytest.mark.parametrize("verify", ["full", "quick"])
def test_repair_sound_stores_are_clean(script: Script, verify: str) -> None:
    """Where nothing is wrong, nothing is found, and everything was looked at."""
    status, seen = script.json("--verify", verify)
    assert (status, seen["result"], seen["verify"]) == (0, "clean", verify)
    assert [store["store"] for store in seen["stores"]] == STORES
    for store in seen["stores"]:
        assert (store["blobs"], store["segments"], store["findings"]) == (3, 2, [])
        assert store["bytes"] > 3 * BLOB_BYTES
    status, printed = script("--verify", verify)
    assert status == 0
    assert "Clean: " in printed


def add_extra(path: Path) -> None:
    """Put a blob beside this one that nobody knows, and has known for long."""
    extra = path.with_name(path.name[:4] + "ab" * 30)
    extra.write_bytes(b"extra")
    os.utime(extra, (0, 0))


BLOB_DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: path.unlink(), "missing"),
    "short": (lambda path: cut_end(path, 1), "wrong size"),
    "long": (lambda path: os.truncate(path, BLOB_BYTES + 1), "wrong size"),
    "flipped": (lambda path: flip_byte(path, 2 << 20), "damaged"),
    "extra": (add_extra, "extra"),
}


@pytest.mark.parametrize("store", ["primary", "replica2"])
@pytest.mark.parametrize("kind", BLOB_DAMAGES)
def test_repair_blob_fault_is_named_then_mended(
    rig: Rig, script: Script, digest: bytes, store: str, kind: str
) -> None:
    """Each fault of a blob is found and named, left alone without --apply, and mended with it."""
    damage, fault = BLOB_DAMAGES[kind]
    path = rig.blob_path(store, digest)
    content = path.read_bytes()
    damage(path)
    damaged = sorted((file.name, file.read_bytes()) for file in path.parent.iterdir())
    unit = digest.hex() if fault != "extra" else digest.hex()[:4] + "ab" * 30
    status, seen = script.json()
    assert (status, seen["result"]) == (1, "found")
    assert script.faults() == {(store, unit, fault)}
    assert sorted((file.name, file.read_bytes()) for file in path.parent.iterdir()) == damaged
    assert rig.owed(store) == set()
    status, printed = script("--apply")
    assert status == 0
    assert f"{store}: blob {unit}: {fault}: " in printed
    assert path.read_bytes() == content
    assert rig.put_aside(store) == ([] if fault == "missing" else [unit])
    assert script.faults() == set()


SEGMENT_DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: path.unlink(), "missing"),
    "short": (lambda path: cut_end(path, 500_000), "wrong size"),
    "flipped": (lambda path: flip_byte(path, 500_000), "damaged"),
}


@pytest.mark.parametrize("kind", SEGMENT_DAMAGES)
def test_repair_segment_fault_is_named_then_mended(rig: Rig, script: Script, kind: str) -> None:
    """Each fault of a replica's copy of the log is found and named, and mended with --apply."""
    damage, fault = SEGMENT_DAMAGES[kind]
    path = rig.segment_path("replica1", 1)
    content = path.read_bytes()
    damage(path)
    assert script.faults() == {("replica1", "1", fault)}
    status, _ = script("--apply")
    assert status == 0
    assert path.read_bytes() == content


def test_repair_extra_segment_is_put_aside(rig: Rig, script: Script) -> None:
    """A segment that the log does not have is found, and put aside with --apply."""
    path = rig.segment_path("replica1", 9)
    path.write_bytes(b"of another life")
    assert script.faults() == {("replica1", "9", "extra")}
    assert script("--apply")[0] == 0
    assert not path.exists()
    assert rig.put_aside("replica1") == ["0000000009.wal"]


@pytest.mark.parametrize("kind", SEGMENT_DAMAGES)
def test_repair_damaged_log_is_named_then_mended(rig: Rig, script: Script, kind: str) -> None:
    """Each fault of the node's own log is found and named, and mended with --apply."""
    damage, fault = SEGMENT_DAMAGES[kind]
    path = rig.segment_path("primary", 1)
    end = rig.segment_path("replica1", 1).stat().st_size
    content = path.read_bytes()[:end]
    damage(path)
    assert script.faults("--store", "primary") == {("primary", "1", fault)}
    assert script("--apply")[0] == 0
    assert path.read_bytes()[:end] == content


def test_repair_quick_look_reads_no_bytes(rig: Rig, script: Script, digest: bytes) -> None:
    """A quick look finds what is missing or has another size, and no flipped byte."""
    flip_byte(rig.blob_path("replica1", digest), 0)
    flip_byte(rig.segment_path("replica1", 1), 1000)
    assert script.faults("--verify", "quick") == set()
    cut_end(rig.blob_path("replica2", digest), 1)
    rig.segment_path("replica2", 1).unlink()
    assert script.faults("--verify", "quick") == {
        ("replica2", digest.hex(), "wrong size"),
        ("replica2", "1", "missing"),
    }


def test_repair_one_store_looks_at_no_other(rig: Rig, script: Script, digest: bytes) -> None:
    """With --store the others are neither looked at nor counted."""
    rig.blob_path("replica1", digest).unlink()
    status, seen = script.json("--store", "replica2")
    assert status == 0
    assert [store["store"] for store in seen["stores"]] == ["replica2"]
    assert script("--store", "replica1")[0] == 1


def test_repair_store_away_cannot_be_told(rig: Rig, script: Script, digest: bytes) -> None:
    """A store that is not there is no empty store: exit status 2, and nothing is owed to it."""
    path = rig.store("replica1").path
    path.rename(path.with_name("away"))
    rig.blob_path("replica2", digest).unlink()
    status, seen = script.json("--apply")
    assert (status, seen["result"]) == (2, "unknown")
    assert seen["stores"][1]["error"]
    assert seen["stores"][1]["findings"] == []
    assert rig.owed("replica1") == set()
    assert rig.blob_path("replica2", digest).exists()
    path.with_name("away").rename(path)


def test_repair_without_whole_copy_stays_found(rig: Rig, script: Script, digest: bytes) -> None:
    """What no store has whole cannot be mended: exit status 1, and nothing was moved."""
    for store in STORES:
        flip_byte(rig.blob_path(store, digest), 0)
    status, _ = script("--apply")
    assert status != 0
    for store in STORES:
        assert rig.blob_path(store, digest).exists()


def test_repair_owed_lately_is_clean(rig: Rig, script: Script) -> None:
    """Copies that are on their way are no finding, but said."""
    store_bytes(rig.node, "new", b"new" * BLOB_BYTES)
    status, printed = script()
    assert status == 0
    assert "on their way" in printed


def test_repair_owed_for_long_is_found_then_paid(rig: Rig, script: Script, digest: bytes) -> None:
    """A copy owed for long is found, and made with --apply, however often it failed."""
    rig.blob_path("replica1", digest).unlink()
    debt = Debt.of_blob("replica1", digest, BLOB_BYTES, now_ms() - 120_000)
    with rig.node.ledger.begin() as index:
        index.owe([replace(debt, attempts=9, next_try_at_ms=now_ms() + 3_600_000, error="why")])
    assert script.faults() == {("replica1", digest.hex(), "missing")}
    assert script("--apply")[0] == 0
    assert rig.blob_path("replica1", digest).exists()


def test_repair_table_names_counts(rig: Rig, script: Script, digest: bytes) -> None:
    """The table has a row for each store and kind, and each count in its column."""
    rig.blob_path("replica1", digest).unlink()
    rows = [re.split(r"\s{2,}", line) for line in script()[1].splitlines()]
    heads = rows[0]
    found = {(row[0], row[1]): dict(zip(heads, row, strict=True)) for row in rows[1:7]}
    assert set(found) == {(store, kind) for store in STORES for kind in ("blobs", "segments")}
    assert found["replica1", "blobs"]["missing"] == "1"
    assert found["replica2", "blobs"]["missing"] == "0"


def test_repair_beside_writers_is_clean(rig: Rig, script: Script) -> None:
    """What is written and deleted while the script looks is never taken for a fault."""
    for number in range(6):
        file = store_bytes(rig.node, f"live-{number}", os.urandom(300_000)).files[0]
        if number % 2:
            rig.node.files.delete(file.id)
        rig.node.replication.work("replica1", budget_s=1)
        assert script()[0] == 0


# As a program of its own


def run_program(environ: dict[str, str], directory: Path, *arguments: str) -> Any:
    """Run the script as an operator does; return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.repair_replicas", *arguments],
        cwd=directory,
        env=program_environ(directory, environ) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.integration
def test_program_beside_running_node_says_what_is_found(
    rig: Rig, environ: dict[str, str], tmp_path: Path, digest: bytes
) -> None:
    """The program opens the node beside its processes; stdout holds nothing but the answer."""
    clean = run_program(environ, tmp_path, "--json")
    assert (clean.returncode, json.loads(clean.stdout)["result"]) == (0, "clean")
    assert clean.stderr == ""
    flip_byte(rig.blob_path("replica2", digest), 5)
    found = run_program(environ, tmp_path)
    assert found.returncode == 1
    assert f"replica2: blob {digest.hex()}: damaged" in found.stdout
    mended = run_program(environ, tmp_path, "--apply", "--json")
    assert mended.returncode == 0
    assert json.loads(mended.stdout)["before"][2]["findings"][0]["fault"] == "damaged"


@pytest.mark.integration
def test_program_without_node_cannot_tell(environ: dict[str, str], tmp_path: Path) -> None:
    """Where there is no node none is made: exit status 2, and not a file is written."""
    nowhere = run_program(environ, tmp_path, "--json")
    assert (nowhere.returncode, json.loads(nowhere.stdout)["result"]) == (2, "unknown")
    assert "There is no node here" in nowhere.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_program_for_unknown_store_cannot_tell(
    rig: Rig, environ: dict[str, str], tmp_path: Path
) -> None:
    """A store that the settings do not name is no clean store."""
    unknown = run_program(environ, tmp_path, "--store", "replica9")
    assert unknown.returncode == 2
    assert "replica9" in unknown.stderr
    assert unknown.stdout == ""


# The line of progress


class Terminal:
    """A stream that says it is a terminal, or that it is none."""

    def __init__(self, is_terminal: bool) -> None:
        self.written = ""
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        """Return what the test wants."""
        return self._is_terminal

    def write(self, text: str) -> None:
        """Keep the text."""
        self.written += text

    def flush(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_line_is_for_terminals(is_terminal: bool) -> None:
    """The line is rewritten on a terminal, and never written into a file."""
    terminal = Terminal(is_terminal)
    line = ProgressLine(terminal)  # type: ignore[arg-type]
    line.show("primary", 1, 10, is_bytes=True)
    line.show("replica1", 2, 10, is_bytes=True)
    line.clear()
    assert terminal.written.count("\r") == (3 if is_terminal else 0)
    assert ("replica1" in terminal.written) is is_terminal


def test_progress_line_says_share_rate_and_time_left() -> None:
    """Half of 2 GiB in 100 s leaves 100 s."""
    line = describe("primary", 1 << 30, 2 << 30, 100.0, is_bytes=True)
    assert " 50% " in line
    assert "10.2 MiB/s" in line
    assert "1m40s left" in line
    assert "7/s" in describe("primary", 70, 100, 10.0, is_bytes=False)
    assert "100%" in describe("primary", 5, 0, 1.0, is_bytes=False)
    assert "? left" in describe("primary", 0, 5, 0.0, is_bytes=False)


def test_formats_are_for_people() -> None:
    """Numbers of bytes and times are short."""
    assert [format_bytes(n) for n in (0, 1023, 1536, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 TiB",
    ]
    assert [format_seconds(n) for n in (5.9, 200, 7500)] == ["5s", "3m20s", "2h05m"]


def test_main_with_wrong_settings_cannot_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Settings that do not parse are said, and end with status 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "many")
    assert main(["--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["result"] == "unknown"
    assert "PORT" in output.err


def test_repair_log_owed_for_long_is_found(
    rig: Rig, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that has lacked the end of the log for long is found; for a moment is nothing."""
    store_bytes(rig.node, "late", b"x")
    assert script.faults() == set()
    monkeypatch.setattr("dfs.services.survey.OWED_GRACE_MS", -1)
    segment_id = rig.node.log.position.segment_id
    assert script.faults() == {(name, str(segment_id), "owed") for name in ("replica1", "replica2")}
