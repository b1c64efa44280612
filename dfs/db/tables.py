"""The tables of the index, as statements of many rows need to know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from dfs.db.rows import (
    BLOB_COLUMNS,
    DEBT_COLUMNS,
    FILE_COLUMNS,
    KEY_COLUMNS,
    NODE_STATE_COLUMNS,
    SEGMENT_COLUMNS,
    SEGMENT_USE_COLUMNS,
    STORE_COLUMNS,
    USAGE_COLUMNS,
)

T = TypeVar("T")

CHUNK_ROWS_MAX, _CHUNK_ROWS_MIN = 128, 16
_CHUNK_ROWS = (CHUNK_ROWS_MAX, 32, _CHUNK_ROWS_MIN)
"""Batches are cut into these sizes, and a rest below the smallest: the driver keeps a prepared
statement for each text, some KiB a row, so there must not be a text for each size of batch."""


def chunks(items: Sequence[T]) -> Iterable[Sequence[T]]:
    """Return all items in order, in pieces of 128, then of 32, then of 16, then the rest."""
    if len(items) < _CHUNK_ROWS_MIN:
        return (items,) if items else ()
    return _cut(items)


def _cut(items: Sequence[T]) -> Iterator[Sequence[T]]:
    start, count = 0, len(items)
    for size in _CHUNK_ROWS:
        while count - start >= size:
            yield items[start : start + size]
            start += size
    if start < count:
        yield items[start:]


def write_rows(
    rows: Sequence[Sequence[Any]],
    statement: Callable[[int], str],
    run: Callable[[str, Sequence[Any]], Any],
) -> None:
    """Run a statement of many rows as often as it takes; `statement` returns it for so many."""
    for chunk in chunks(rows):
        run(statement(len(chunk)), list(chain.from_iterable(chunk)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What multi-row statements need to know of a table.

    Attributes:
        key: the columns of its primary key.
        lowest: columns of which adding keeps the lowest number.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    lowest: tuple[str, ...] = ()


FILES = Table(name="dfs_file", columns=FILE_COLUMNS, key=("id",))
BLOBS = Table(name="dfs_blob", columns=BLOB_COLUMNS, key=("digest",))
SEGMENTS = Table(name="dfs_segment", columns=SEGMENT_COLUMNS, key=("node_id", "id"))
NODE_STATES = Table(name="dfs_node_state", columns=NODE_STATE_COLUMNS, key=("node_id",))
STORES = Table(name="dfs_store", columns=STORE_COLUMNS, key=("node_id", "name"))
DEBTS = Table(name="dfs_debt", columns=DEBT_COLUMNS, key=("node_id", "store", "kind", "unit"))
KEYS = Table(name="dfs_key", columns=KEY_COLUMNS, key=("id",))
USAGES = Table(name="dfs_usage", columns=USAGE_COLUMNS, key=("node_id", "bucket"))
SEGMENT_USES = Table(
    name="dfs_segment_use",
    columns=SEGMENT_USE_COLUMNS,
    key=("node_id", "id"),
    lowest=("tombstone_lsn",),
)
