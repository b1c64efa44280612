"""The torture in its short form, the bugs that it must find, and its figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.fuzz import Report
from torture import life
from torture.__main__ import MODES, main, parse_options, plan_lives, run_life
from torture.ledger import Ledger
from torture.life import Options
from torture.plants import PLANTS
from torture.report import add_up, describe, format_tables


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that the user of a database may enter, too."""
    with tempfile.TemporaryDirectory(prefix="dfs-torture-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


SHORT = ["--rounds", "1", "--modes", "sync-postgresql", "--faults", "3", "--load-s", "2"]


@pytest.mark.crash
@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_torture_finds_no_broken_promise(directory: Path) -> None:
    """A round of the strictest mode, and a look at what is left behind after hours."""
    figures = directory / "figures.json"
    nodes = directory / "nodes"
    status = main([*SHORT, "--seed", "1", "--json", str(figures), "--directory", str(nodes)])
    (run,) = json.loads(figures.read_text())
    assert status == 0, run["findings"]
    assert sum(run["faults"].values()) >= 3
    assert sum(run["acknowledged"].values()) > 20
    assert run["downloads_checked"] > 20
    assert not list(nodes.iterdir())


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_torture_tells_of_a_wrong_answer_to_a_damaged_request(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the fuzz finds at the end of a life is a finding."""
    monkeypatch.setattr(life, "fuzz", lambda *_: Report(seed=1, faults=["500 to b'GET'"]))
    ledger = Ledger(directory / "ledger.jsonl")
    node = life.Life(Options(directory=directory, rounds=0, is_late=False), ledger)
    with node._stack:
        node._run_fuzz()
    ledger.close()
    assert ledger.findings.unexplained == ["fuzz: 500 to b'GET'"]


AIMED: dict[str, tuple[tuple[str, ...], str]] = {
    "acknowledge_before_sync": (("power_cut_in_sync",), "lost"),
    "skip_directory_syncs": (("power_cut",), ""),
    "delete_without_record": ((), "resurrected"),
    "leave_torn_tails": (("power_cut_in_sync",), "corrupt"),
    "ignore_sync_errors": (("power_cut_after_failing_sync",), ""),
}
"""Bug -> (what happens in a round, kind of a finding that there must be; none: the node may also
refuse to start, because of what its log lacks)."""


LIVES_MAX = 4


@pytest.mark.crash
@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", PLANTS)
def test_torture_finds_a_planted_bug(directory: Path, plant: str) -> None:
    """A short torture that is aimed at it turns red, and says why.

    Whether a fault meets the bug, and where, is chance: a life that it spares, or that ends by
    something else that comes of it, is followed by another.
    """
    _, expected = AIMED[plant]
    for seed in range(1, LIVES_MAX + 1):
        findings = run_planted(directory / str(seed), plant, seed)
        if findings[expected] if expected else any(findings.values()):
            return
    pytest.fail(f"not found: {findings}")


def run_planted(directory: Path, plant: str, seed: int) -> dict[str, list[str]]:
    """Run a life with a bug in it. Returns what was found."""
    kinds, _ = AIMED[plant]
    options = Options(
        directory=directory,
        rounds=12,
        seed=seed,
        load_s=1.0,
        faults=len(kinds),
        kinds=kinds,
        web_workers=1,
        plant=plant,
        is_late=False,
    )
    findings: dict[str, list[str]] = run_life(options)["findings"]
    return findings


def make_run(mode: str, **changes: Any) -> dict[str, Any]:
    """Return the figures of a life."""
    findings = {kind: [] for kind in ("lost", "corrupt", "resurrected", "unexplained")}
    return {
        "mode": mode,
        "rounds": 2,
        "kills": 3,
        "power_cuts": 1,
        "operations_hit": 5,
        "downloads_checked": 7,
        "seconds": 36.0,
        "acknowledged": {"upload": 10, "DELETE": 1},
        "faults": {"kill_web": 3, "power_cut": 1},
        "findings": findings,
        **changes,
    }


def test_report_adds_up_and_shows_each_mode() -> None:
    """The table has a line for each mode and one for all; findings are counted."""
    found = {"lost": ["a", "b"], "corrupt": [], "resurrected": [], "unexplained": ["c"]}
    runs = [make_run("async-sqlite"), make_run("sync-sqlite", findings=found)]
    line = describe(add_up(runs))
    assert "4 rounds, 6 kills, 2 power cuts, 8 faults in all, 22 acknowledged" in line
    assert "2 lost, 0 corrupt, 0 resurrected, 1 unexplained; 72 s" in line
    table = format_tables(runs)
    assert "| async-sqlite | 1 | 2 | 3 | 1 | 5 | 11 | 7 | 0 | 0 | 0 | 0 |" in table
    assert "| all | 2 | 4 | 6 | 2 | 10 | 22 | 14 | 2 | 0 | 0 | 1 |" in table
    assert "| `kill_web` | 6 |" in table


def test_rounds_are_spread_over_lives_and_modes(tmp_path: Path) -> None:
    """Every mode gets its rounds; no two lives share a directory or a seed's faults."""
    options, modes, _ = parse_options(["--rounds", "8", "--directory", str(tmp_path)])
    planned = list(plan_lives(options, modes=modes))
    for mode in MODES:
        assert sum(own.rounds for name, own in planned if name == mode) == 8
    assert len({own.directory for _, own in planned}) == len(planned)
    assert {own.sync for name, own in planned if name.startswith("sync")} == {True}
    assert {own.postgres for name, own in planned if name.endswith("sqlite")} == {False}


def test_unknown_mode_is_refused() -> None:
    """A mistyped mode is no torture that went well."""
    with pytest.raises(SystemExit):
        parse_options(["--modes", "async-mysql"])
