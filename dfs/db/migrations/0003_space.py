"""Space: the trash, what is used, what of the log is dead.

The rows that follow the log are emptied: they lack what cannot be found out but by reading the log
again, which the next start does.
"""

from __future__ import annotations

from peewee import Database, PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

_OF_THE_LOG = ("dfs_file", "dfs_blob", "dfs_segment", "dfs_node_state")
_COUNTERS = (
    "files", "bytes", "deleted_files", "deleted_bytes", "blob_files", "blob_file_bytes",
    "unused_blob_files", "unused_bytes", "inline_blobs", "inline_bytes",
)  # fmt: skip
_INDEXES = (
    ("dfs_file_live", "dfs_file (bucket, key, id)", "deleted_at IS NULL"),
    ("dfs_file_trash", "dfs_file (bucket, key, id)", "deleted_at IS NOT NULL"),
    ("dfs_file_purge", "dfs_file (deleted_at)", "deleted_at IS NOT NULL"),
    (
        "dfs_file_expiry",
        "dfs_file (expires_at)",
        "deleted_at IS NULL AND expires_at IS NOT NULL",
    ),
    (
        "dfs_blob_unused",
        'dfs_blob (kind, "references", digest)',
        'kind = 2 AND "references" = 0',
    ),
    ("dfs_blob_nowhere", "dfs_blob (digest)", "kind = 0"),
)


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add columns, tables and indexes; as before, tables of SQLite are one tree each.

    The files of a bucket have two indexes, of those in the trash and of the others, so that neither
    listing passes over what belongs to the other one.
    """
    postgres = isinstance(db, PostgresqlDatabase)
    text = 'TEXT COLLATE "C"' if postgres else "TEXT"
    integer = "BIGINT" if postgres else "INTEGER"
    options = "" if postgres else " WITHOUT ROWID"
    for table in _OF_THE_LOG:
        db.execute_sql(f"DELETE FROM {table}")
    number = f"{integer} NOT NULL DEFAULT 0"
    for table, column, kind in (
        ("dfs_file", "deleted_at", integer),
        ("dfs_file", "first_lsn", number),
        ("dfs_file", "base_lsn", number),
        ("dfs_file", "base_segment_id", number),
        ("dfs_file", "base_length", number),
        ("dfs_blob", "first_lsn", number),
        ("dfs_debt", "lsn", number),
    ):
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    counters = ", ".join(f"{name} {integer} NOT NULL" for name in _COUNTERS)
    db.execute_sql(
        f"""CREATE TABLE dfs_usage (
            node_id {text} NOT NULL,
            bucket {text} NOT NULL,
            {counters},
            PRIMARY KEY (node_id, bucket)
        ){options}"""
    )
    db.execute_sql(
        f"""CREATE TABLE dfs_segment_use (
            node_id {text} NOT NULL,
            id {integer} NOT NULL,
            dead_bytes {integer} NOT NULL,
            tombstone_bytes {integer} NOT NULL,
            tombstone_lsn {integer},
            dropped_at {integer},
            PRIMARY KEY (node_id, id)
        ){options}"""
    )
    db.execute_sql("DROP INDEX dfs_file_bucket_key_id")
    for name, place, condition in _INDEXES:
        db.execute_sql(f"CREATE INDEX {name} ON {place} WHERE {condition}")
