"""Numbered changes of the schema, `NNNN_what.py` each, with a function `up(migrator, db)`.

They are loaded by path, in order, each in a transaction of its own, and are recorded by name in
the database. A migration that has been released is never edited. Nothing reverts one: the index
of an older program is rebuilt from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from peewee import Database
from playhouse.migrations import Runner

from dfs.core.errors import IndexDamagedError, MetadataError
from dfs.db.connections import SQLITE_PREFIX, Connections, is_postgres
from dfs.db.faults import REBUILD_HINT, driver_errors, index_error
from dfs.db.models import MIGRATION_TABLE

BeforeMigrating = Callable[[Sequence[str], bool], None]


def ignore_migrations(names: Sequence[str], is_new: bool) -> None:
    """Have migrations done without a word."""


def list_migrations() -> list[str]:
    """Return the names of all migrations that this program knows, in order."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[0-9]*.py"))


def migrate(database: Database, *, before: BeforeMigrating = ignore_migrations) -> None:
    """Bring an open database to the newest schema.

    Args:
        database: nobody else migrates it meanwhile.
        before: called with the names of the migrations that are to be applied, if there are any,
            and whether the database is new. What it raises keeps them from being applied.

    Raises:
        MetadataError: a newer program has migrated the database.
        IndexDamagedError: nobody can have recorded what is recorded.
    """
    runner = _runner(database)
    try:
        status = runner.status()
    except TypeError as error:  # a name that is no text
        raise _damaged() from error
    require_known([migration.name for migration in status if migration.applied])
    lacking = [migration.name for migration in status if not migration.applied]
    if lacking:
        before(lacking, len(lacking) == len(status))
    runner.up()


def find_applied(url: str) -> list[str]:
    """Return the names of the migrations that an index has seen, in order; none if it is not there.

    Args:
        url: of the index, which is not changed.

    Raises:
        IndexDamagedError, IndexUnavailableError, MetadataError.
    """
    if not is_postgres(url) and not Path(url.removeprefix(SQLITE_PREFIX)).exists():
        return []
    connections = Connections(url=url)
    try:
        return sorted(_runner(connections.writing_database()).applied())
    except driver_errors() as error:
        raise index_error(error) from error
    except TypeError as error:
        raise _damaged() from error
    finally:
        connections.close()


def require_known(applied: Sequence[str]) -> None:
    """Refuse a schema that a newer program has made. Raises MetadataError."""
    known = list_migrations()
    unknown = sorted(set(applied) - set(known))
    if unknown:
        raise MetadataError(
            f"The index was made by a newer version of dfs: its schema is {unknown[-1]}; this "
            f"program knows {known[-1]}.",
            hint="Install that version, or remove the index: it is rebuilt from the log.",
            migrations=", ".join(unknown),
        )


def _runner(database: Database) -> Runner:
    return Runner(database, directory=str(Path(__file__).parent), table_name=MIGRATION_TABLE)


def _damaged() -> IndexDamagedError:
    return IndexDamagedError("The index is damaged.", hint=REBUILD_HINT)
