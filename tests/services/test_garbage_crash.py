"""Processes killed with -9 while they collect garbage and remove blobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfs.db.repository import IndexRepository
from dfs.services import apply
from tests.forked import run_forked
from tests.services import garbage_child
from tests.services.conftest import Opener, list_keys, lose_index
from tests.services.garbage_child import garbage_config, tidy
from tests.services.recount import check_figures

STEPS = [
    "commit.planned",
    "commit.published",
    "log.appended",
    "log.synced",
    "commit.indexed",
    "removal.unlinked",
    "removal.begun",
    "removal.removed",
]

pytestmark = pytest.mark.crash


@pytest.fixture(autouse=True)
def remove_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have replicas remove as soon as they can, as the child does."""
    monkeypatch.setattr(apply, "REMOVAL_DELAY_MS", 0)


@pytest.mark.parametrize("count", [3, 16])
@pytest.mark.parametrize("step", STEPS)
def test_process_killed_while_it_collects_loses_no_file_and_leaves_no_blob(
    tmp_path: Path,
    index_url: str,
    open_node: Opener,
    step: str,
    count: int,
) -> None:
    """After kill -9 at any step every store has all blobs of files, and in the end no others."""
    child = run_forked(garbage_child.main, tmp_path, index_url, step, count)
    assert child.status == -9, child.stderr.decode()
    journal = [json.loads(line) for line in child.stdout.splitlines()]
    stored = {line["id"]: line["digest"] for line in journal if line["event"] == "stored"}
    deleting = {line["id"] for line in journal if line["event"] == "deleting"}
    config = garbage_config(tmp_path, index_url)
    changes = {"replicas": config.replicas, "delete_grace_s": config.delete_grace_s}
    for is_rebuilt in (False, True):
        node = open_node(**changes)
        found = list_keys(node)
        assert stored.items() - {(i, stored[i]) for i in deleting} <= found.items()
        for _ in range(3):
            tidy(node)
        check_figures(node)
        wanted = {bytes.fromhex(etag) for etag in found.values()}
        for store in node.stores.all():
            held = {digest for digest, _ in store.list_blobs()}
            assert wanted <= held
            # Named, but not in the log: a blob that nobody referred to yet, see ARCHITECTURE.
            assert held == wanted or (step, store.name) == ("commit.published", "primary")
        assert IndexRepository(node.index).summarize_debts() == []
        if not is_rebuilt:
            lose_index(node)
