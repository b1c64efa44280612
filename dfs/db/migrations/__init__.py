"""Numbered changes of the schema, `NNNN_what.py` each, with a function `up(migrator, db)`.

They are loaded by path, in order, each in a transaction of its own, and are recorded by name in
the database. A migration that has been released is never edited. Nothing reverts one: the index
of an older program is rebuilt from the log.
"""

from __future__ import annotations

from pathlib import Path

from peewee import Database
from playhouse.migrations import Runner

from dfs.core.errors import IndexDamagedError, MetadataError
from dfs.db.faults import REBUILD_HINT
from dfs.db.models import MIGRATION_TABLE


def migrate(database: Database) -> list[str]:
    """Bring an open database to the newest schema.

    Args:
        database: nobody else migrates it meanwhile.

    Returns:
        Names of the migrations applied, in order; empty when it was the newest already.

    Raises:
        MetadataError: a newer program has migrated the database.
        IndexDamagedError: nobody can have recorded what is recorded.
    """
    runner = Runner(database, directory=str(Path(__file__).parent), table_name=MIGRATION_TABLE)
    try:
        unknown = [migration.name for migration in runner.status() if migration.path is None]
    except TypeError as error:  # a name that is no text
        raise IndexDamagedError("The index is damaged.", hint=REBUILD_HINT) from error
    if unknown:
        raise MetadataError(
            "The index was made by a newer version of dfs.",
            hint="Install that version, or remove the index: it is rebuilt from the log.",
            migrations=", ".join(unknown),
        )
    return list(runner.up())
