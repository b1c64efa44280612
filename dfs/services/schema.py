"""Opening the index at a start: its schema becomes that of this program, or it begins anew.

Neither happens under the hands of others. A program that works with the index does not know the
schema of a newer one, so that one does not start beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog

from dfs.core.errors import IndexDamagedError, MetadataError
from dfs.db.session import IndexDatabase
from dfs.wal.log import WriteAheadLog

WAY_BACK = (
    "An older version of dfs refuses the index from then on. To go back to one: stop all processes "
    "of the node, create the file rebuild-index in WAL_PATH (with PostgreSQL, name an empty "
    "database instead), and start that version: it rebuilds the index from the log."
)

logger = structlog.get_logger()


def open_index(log: WriteAheadLog, index: IndexDatabase, *, rebuild_marker: Path) -> None:
    """Open the index with the schema of this program. Under the node lock, before joining.

    Raises:
        IndexDamagedError: it has to be rebuilt.
        MetadataError: a newer program made it, or an older one is still at work.
        IndexUnavailableError, NoSpaceError.
    """
    if rebuild_marker.exists():
        raise IndexDamagedError("The index is marked for rebuilding.", path=rebuild_marker)
    index.open()
    index.migrate(before=partial(_announce, log))


def recreate_index(log: WriteAheadLog, index: IndexDatabase, error: IndexDamagedError) -> None:
    """Put a damaged index aside and open an empty one, unless somebody still works with it.

    Raises:
        IndexDamagedError: somebody does.
    """
    if log.control.has_others():
        raise IndexDamagedError(
            "The index has to be rebuilt, but other processes of this node still use it.",
            hint="Stop all processes of the node, web and workers, then start them again.",
        ) from error
    logger.warning("index_rebuilding", reason=str(error))
    index.destroy()
    index.open()
    index.migrate()


def _announce(log: WriteAheadLog, migrations: Sequence[str], is_new: bool) -> None:
    """Say that the schema is going to change, unless there was none.

    Raises:
        IndexDamagedError: others have an index that was removed: with a new one beside it, each
            would find other files.
        MetadataError: others use the old schema.
    """
    has_others = log.control.has_others()
    if is_new:
        if has_others:
            raise IndexDamagedError("The index is gone.")
        return
    if has_others:
        raise MetadataError(
            "This version of dfs has to change the schema of the index, which processes of an "
            "older version still use.",
            hint="Stop all processes of the node, web and workers, then start this version. "
            "`python -m scripts.upgrade check` tells beforehand.",
            migrations=", ".join(migrations),
        )
    logger.warning("index_migrating", migrations=list(migrations), way_back=WAY_BACK)
