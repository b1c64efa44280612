"""Compares the index of a node that stands still with one that is rebuilt from its log.

    python -m torture.rebuild SCRATCH SCRATCH_DATABASE_URL

The settings of the node are in the environment. Prints a line for each difference. Exit status: 0
there is none, 1 there is.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dfs.core.config import Config, load_config
from dfs.core.logging import configure_logging
from dfs.core.model import BlobKind
from dfs.db.session import IndexDatabase
from dfs.db.tables import BLOBS, FILES, SEGMENT_USES, SEGMENTS, USAGES, Table
from dfs.storage.identity import IDENTITY_NAME
from dfs.wiring import open_services

TABLES = (FILES, BLOBS, SEGMENTS, USAGES, SEGMENT_USES)
SHOWN = 5


def find_differences(config: Config, scratch: Path, scratch_url: str) -> Iterator[str]:
    """Yield where the index is not what its log says.

    Args:
        scratch: an empty directory, for a copy of the log.
    """
    copy = replace(
        config,
        wal_path=scratch / "wal",
        storage_path=scratch / "primary",
        run_path=scratch / "run",
        database_url=scratch_url,
        replicas=(),
    )
    shutil.copytree(config.wal_path, copy.wal_path, ignore=shutil.ignore_patterns("control"))
    copy.storage_path.mkdir()
    shutil.copy(config.storage_path / IDENTITY_NAME, copy.storage_path)
    index = IndexDatabase(url=config.database_url, node_id=config.node_id)
    index.open()
    services = open_services(copy)
    try:
        for table in TABLES:
            found, wanted = _read_rows(index, table), _read_rows(services.index, table)
            for rows, where in (
                (found.items() - wanted.items(), "only in the index"),
                (wanted.items() - found.items(), "only in the rebuilt one"),
            ):
                for key, row in sorted(rows)[:SHOWN]:
                    yield f"{table.name}: {where}: {key}: {row}"
    finally:
        services.close()
        index.close()


def _read_rows(index: IndexDatabase, table: Table) -> dict[str, str]:
    """Return key -> row of a table, each as text: drivers differ in their types."""
    columns = ", ".join(table.columns)
    key_count = len(table.key)
    keys = ", ".join(table.key)
    # A row of an inline blob to which no file refers is of no use: the index drops it some time.
    which = f'WHERE kind <> {int(BlobKind.INLINE)} OR "references" > 0' if table is BLOBS else ""
    rows: list[Any] = index.read_all(f"SELECT {keys}, {columns} FROM {table.name} {which}")
    return {repr(row[:key_count]): repr(tuple(map(_plain, row[key_count:]))) for row in rows}


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    scratch, scratch_url = Path(sys.argv[1]), sys.argv[2]
    config = load_config(dict(os.environ))
    configure_logging()  # to stderr
    differences = list(find_differences(config, scratch, scratch_url))
    for difference in differences:
        print(difference)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
