"""The benchmark beside other stores: none of them needs to be installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.peers import PEERS, measure_peers
from bench.plan import quick_plan
from bench.stores import find_program, list_by_pages
from bench.swift import FILTERS


def test_peers_none_installed_are_named_and_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has none of the other stores is told how to install each, and no page is written."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError) as caught:
        measure_peers(quick_plan(tmp_path))
    assert all(peer.install in str(caught.value) for peer in PEERS)
    assert not list(tmp_path.iterdir())


def test_programs_beside_path_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may be installed in a directory of its own, which BENCH_PATH names."""
    program = tmp_path / "peer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("BENCH_PATH", str(tmp_path))
    assert find_program("peer") == str(program)


def test_pages_are_read_to_the_end() -> None:
    """Names of all pages come, each once, in their order."""
    names = [f"{number:04}" for number in range(25)]
    found = list_by_pages(lambda after: [name for name in names if name > after][:10])
    assert found == names


def test_swift_asks_its_cache_before_it_looks_anywhere() -> None:
    """Swift puts missing filters before its cache, and then each upload asks twice as much."""
    filters = FILTERS.split()
    wanted = ("copy", "dlo", "versioned_writes")
    assert all(filters.index(name) > filters.index("cache") for name in wanted)
