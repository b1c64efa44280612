"""Damage to a node as it is run: Gunicorn, HTTP, and the script that repairs."""

from __future__ import annotations

import pytest

from tests.damage.cases import Case, memory, quiet
from tests.damage.serving import try_served
from tests.damage.store import build

pytestmark = pytest.mark.integration
SAMPLE = 2
MENDED = [
    ("wal/segments/0000000002.wal", "directory"),
    ("wal/segments/0000000004.wal", "zero all"),
    ("wal/control", "zero all"),
    ("primary/blobs/18", "pipe"),
    ("primary/blobs/89", "cut at 0"),
    ("replica1/segments/0000000003.wal", "zero from 0"),
    ("index/dfs.db", "zero from 0"),
]
"""One of each kind, at the same time: what the one copy lacks the other has."""


def test_node_with_damage_of_every_kind_serves_all_and_is_repaired() -> None:
    """The start fetches the log and rebuilds the index; the rest is read from the replica."""
    with memory() as directory, quiet():
        template = build(directory, has_replica=True, is_killed=False)
        paths = template.paths()
        cases = [
            Case(next(path for path in paths if path.startswith(start)), harm)
            for start, harm in MENDED
        ]
        verdict = try_served(template, cases, sample=SAMPLE)
    assert verdict.faults == []
    assert verdict.outcome == "whole"


def test_node_that_has_lost_a_segment_for_good_names_it_and_does_not_start() -> None:
    """Nothing is served beside what is missing."""
    lost = "wal/segments/0000000003.wal"
    with memory() as directory, quiet():
        template = build(directory, has_replica=False, is_killed=True)
        verdict = try_served(template, [Case(lost, "remove")], sample=SAMPLE)
    assert verdict.faults == []
    assert verdict.outcome == "refused"
    assert lost in verdict.words[0]
