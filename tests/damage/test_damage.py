"""Damage to any file of a node: never a wrong byte, never a traceback. See docs/damage.md."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.damage.cases import Case, bounded, list_cases, memory, quiet, try_case
from tests.damage.store import Template, build

SAMPLE = 2
STRIDE = 40
"""One of so many cases is tried here, others for each kind of node; all: `make damage`."""
NODES = [(True, False), (True, True), (False, False), (False, True)]
MET = [
    ("primary/blobs/", "pipe"),
    ("primary/blobs/", "directory"),
    ("primary/blobs/", "link to itself"),
    ("replica1/blobs/", "full directory"),
    ("primary/dfs.json", "link to zeros"),
    ("primary/dfs.json", "directory"),
    ("replica1/dfs.json", "cut at 1"),
    ("replica1/segments/", "pipe"),
    ("primary/tmp/", "socket"),
    ("index/dfs.db", "full directory"),
    ("wal/control", "full directory"),
    ("wal/control", "link to itself"),
    ("replica1/segments/0000000004", "link to 0000000001.wal"),
    ("wal/wal.active", "full directory"),
    ("wal/wal.active", "pipe"),
    ("wal/segments/", "directory"),
    ("wal/segments/", "dangling link"),
]
"""Harms that dfs once did not stand."""


@pytest.fixture(
    scope="module", params=NODES, ids=lambda kind: f"replica-{kind[0]}-killed-{kind[1]}"
)
def template(request: pytest.FixtureRequest) -> Iterator[Template]:
    """A node of each kind, to be copied."""
    has_replica, is_killed = request.param
    with memory() as directory, quiet():
        yield build(directory, has_replica=has_replica, is_killed=is_killed)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_damaged_file_is_mended_or_told_of_and_never_read_wrong(template: Template) -> None:
    """Whatever befalls one file: all others are read, and it is mended if a replica has it."""
    cases = list_cases(template, sample=SAMPLE)
    begin = NODES.index((template.has_replica, template.is_killed)) * STRIDE // len(NODES)
    with bounded():
        verdicts = {case: try_case(template, case, sample=SAMPLE) for case in cases[begin::STRIDE]}
    assert len(verdicts) > 5
    assert {case: verdict.faults for case, verdict in verdicts.items() if verdict.faults} == {}


@pytest.mark.parametrize("template", [(True, False), (False, True)], indirect=True)
@pytest.mark.parametrize(("part", "harm"), MET)
def test_something_else_in_the_place_of_a_file_is_stood(
    template: Template, part: str, harm: str
) -> None:
    """What is no file is neither read nor waited for, and gives way to what belongs there."""
    path = next((path for path in template.paths() if part in path), None)
    if path is None:
        assert not template.has_replica
        return
    with bounded():
        verdict = try_case(template, Case(path, harm), sample=SAMPLE)
    assert verdict.faults == []
    assert verdict.outcome == "whole" or not template.has_replica
