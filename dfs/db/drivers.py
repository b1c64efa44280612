"""The drivers of databases: sqlite3 always, psycopg only in processes that use PostgreSQL.

psycopg takes ten megabytes of each process. peewee imports it wherever it is installed, so it is
hidden from peewee's own import, and handed over when the first index in PostgreSQL is opened.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dfs.core.imports import hiding

if TYPE_CHECKING:
    import psycopg


with hiding("psycopg"):
    import peewee
with hiding("playhouse.cockroachdb"):  # would import psycopg for what dfs does not use
    import playhouse.migrate  # noqa: F401


def load_psycopg() -> None:
    """Make PostgreSQL usable by peewee: afterwards it is as if it had found psycopg itself."""
    import psycopg  # noqa: PLC0415
    from psycopg.pq import TransactionStatus  # noqa: PLC0415
    from psycopg.types.json import Json, Jsonb  # noqa: PLC0415

    vars(peewee).update(
        psycopg=psycopg, TransactionStatus=TransactionStatus, Json_pg3=Json, Jsonb_pg3=Jsonb
    )
    adapter = peewee.Psycopg3Adapter
    adapter.txn_idle = TransactionStatus.IDLE
    adapter.txn_inerror = TransactionStatus.INERROR
    adapter.txn_unknown = TransactionStatus.UNKNOWN


def used_psycopg() -> type[psycopg.Error] | None:
    """Return the class of all of psycopg's errors; None while nothing here has used it."""
    module = sys.modules.get("psycopg")
    return None if module is None else module.Error
