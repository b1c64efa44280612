"""Processes killed with -9 at each step of a commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import run_forked
from tests.services import crash_child
from tests.services.conftest import Opener, list_keys, lose_index, store_bytes

STEPS = [
    "commit.locked",
    "commit.planned",
    "commit.published",
    "log.dirty",
    "log.appended",
    "log.synced",
    "commit.indexed",
    "log.published",
]
ROTATION_STEPS = ["log.next_written", "log.sealed", "log.next_activated"]
COUNTS = [1, 4]

pytestmark = pytest.mark.crash


def run_child(directory: Path, index_url: str, step: str, count: int) -> list[dict[str, str]]:
    """Run a process until it kills itself; return what it had acknowledged and begun."""
    child = run_forked(crash_child.main, directory, index_url, step, count)
    assert child.status == -9, child.stderr.decode()
    return [json.loads(line) for line in child.stdout.splitlines()]


def check_journal(journal: list[dict[str, str]], found: dict[str, str], names: dict[str, str]):
    """Everything acknowledged is as acknowledged; what was in flight is whole or absent."""
    stored = {line["id"]: line["digest"] for line in journal if line["event"] == "stored"}
    deleted = {line["id"] for line in journal if line["event"] == "deleted"}
    deleting = {line["id"] for line in journal if line["event"] == "deleting"}
    renamed = {line["id"]: line["key"] for line in journal if line["event"] == "renamed"}
    assert not deleted & found.keys()
    lost = {i: d for i, d in stored.items() if i not in deleting and found.get(i) != d}
    assert not lost
    intents = [line["digest"] for line in journal if line["event"] == "intent"]
    assert {d for i, d in found.items() if i not in stored} <= {intents[-1]}
    assert all(names[file_id] == key for file_id, key in renamed.items() if file_id in names)


def names_of(node) -> dict[str, str]:
    """Return id -> name of all files."""
    return {file.id: file.key for file in node.files.list(limit=1000).files}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("step", STEPS)
def test_process_killed_at_a_step_loses_nothing_acknowledged(
    tmp_path: Path, index_url: str, open_node: Opener, step: str, count: int
):
    """After kill -9 at any step the next start has every acknowledged change, and nothing half."""
    journal = run_child(tmp_path, index_url, step, count)
    node = open_node()
    found = list_keys(node)
    names = names_of(node)
    check_journal(journal, found, names)
    assert list((tmp_path / "primary" / "tmp").iterdir()) == []
    lose_index(node)
    rebuilt = open_node()
    assert list_keys(rebuilt) == found
    assert names_of(rebuilt) == names


@pytest.mark.parametrize(
    ("step", "count"), [(step, 5) for step in STEPS] + [(step, 1) for step in ROTATION_STEPS]
)
def test_process_killed_at_a_step_is_mended_by_the_next_commit_of_another(
    tmp_path: Path, index_url: str, open_node: Opener, step: str, count: int
):
    """A process that lives on recovers the tail of one that died inside a commit, and goes on."""
    survivor = open_node()
    before = store_bytes(survivor, "before", b"before").files[0]
    journal = run_child(tmp_path, index_url, step, count)
    after = store_bytes(survivor, "after", b"after").files[0]
    found = list_keys(survivor)
    assert found.pop(before.id) == before.etag
    assert found.pop(after.id) == after.etag
    check_journal(journal, found, names_of(survivor))
    assert not survivor.log.control.is_dirty


@pytest.mark.parametrize("step", ROTATION_STEPS)
def test_process_killed_in_a_rotation_loses_nothing_acknowledged(
    tmp_path: Path, index_url: str, open_node: Opener, step: str
):
    """After kill -9 at any step of a rotation the log is whole and goes on."""
    journal = run_child(tmp_path, index_url, step, 1)
    node = open_node()
    check_journal(journal, list_keys(node), names_of(node))
    store_bytes(node, "after", b"after")
    segments = node.wal_inspection.segments()
    assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))
    for segment in segments:
        assert node.wal_inspection.inspect(segment.id).outcome == "clean"


def test_processes_killed_one_after_the_other_lose_nothing_acknowledged(
    tmp_path: Path, index_url: str, open_node: Opener
):
    """Being killed again and again loses nothing: journals of several lives all hold."""
    journals = [run_child(tmp_path, index_url, step, 3) for step in STEPS]
    node = open_node()
    found, names = list_keys(node), names_of(node)
    for journal in journals:
        own = f"-{journal[0]['pid']}-"
        check_journal(journal, {i: d for i, d in found.items() if own in names[i]}, names)
