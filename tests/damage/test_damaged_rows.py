"""Values in the index that dfs cannot have written: SQLite has neither types nor checksums."""

from __future__ import annotations

from tests.damage.cases import memory, quiet
from tests.damage.rows import build_rows, list_row_harms, try_rows

STRIDE = 80
"""One of so many harms is tried here; all: `make damage`."""
MET = [
    "dfs_blob.kind = 0",
    "dfs_debt.kind = 'junk'",
    "dfs_debt.size = None",
    "dfs_file.extents = b'\\xc1\\xff'",
    "dfs_file.metadata = 'junk'",
    "dfs_file.size = None",
    "dfs_migration.name = None",
]
"""Harms that dfs once did not stand."""


def test_values_in_the_index_that_cannot_be_right_are_told_and_have_it_rebuilt() -> None:
    """No traceback, and no wrong byte; who was told of damage finds all whole after a restart."""
    with memory() as directory, quiet():
        template = build_rows(directory)
        names = {*MET, *list(list_row_harms(template))[::STRIDE]}
        assert [found for found in try_rows(template, names) if found[1]] == []
