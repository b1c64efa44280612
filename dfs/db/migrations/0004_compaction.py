"""Compaction: find the blobs of a segment that no file refers to."""

from __future__ import annotations

from peewee import Database
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add an index; it holds only what waits for its segment to be compacted."""
    db.execute_sql(
        "CREATE INDEX dfs_blob_unused_inline ON dfs_blob (segment_id, digest) "
        'WHERE kind = 1 AND "references" = 0'
    )
