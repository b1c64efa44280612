"""Replication: the stores of each node, what they owe, and a way to the blob files alone."""

from __future__ import annotations

from peewee import Database, PostgresqlDatabase
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Create the tables and indexes; as in the first schema, those of SQLite are one tree each.

    A debt that was never tried has 0 in `next_try_at`, so that the index of debts holds those by
    age, and behind them the ones that have to wait by the moment at which they come up again.
    """
    postgres = isinstance(db, PostgresqlDatabase)
    text = 'TEXT COLLATE "C"' if postgres else "TEXT"
    binary = "BYTEA" if postgres else "BLOB"
    integer = "BIGINT" if postgres else "INTEGER"
    options = "" if postgres else " WITHOUT ROWID"
    db.execute_sql(
        f"""CREATE TABLE dfs_store (
            node_id {text} NOT NULL,
            name {text} NOT NULL,
            store_id {binary} NOT NULL,
            segment_id {integer} NOT NULL,
            "offset" {integer} NOT NULL,
            lsn {integer} NOT NULL,
            was_mounted {integer} NOT NULL,
            failures {integer} NOT NULL,
            retry_at {integer} NOT NULL,
            error {text},
            error_at {integer},
            scrub_position {text} NOT NULL,
            scrub_started_at {integer},
            scrub_finished_at {integer},
            scrub_bytes_read {integer} NOT NULL,
            scrub_bytes_total {integer} NOT NULL,
            scrub_damaged {integer} NOT NULL,
            scrub_last_damaged {integer} NOT NULL,
            scrub_last_bytes {integer} NOT NULL,
            PRIMARY KEY (node_id, name)
        ){options}"""
    )
    db.execute_sql(
        f"""CREATE TABLE dfs_debt (
            node_id {text} NOT NULL,
            store {text} NOT NULL,
            kind {integer} NOT NULL,
            unit {binary} NOT NULL,
            size {integer} NOT NULL,
            owed_at {integer} NOT NULL,
            attempts {integer} NOT NULL,
            next_try_at {integer} NOT NULL,
            error {text},
            PRIMARY KEY (node_id, store, kind, unit)
        ){options}"""
    )
    db.execute_sql("CREATE INDEX dfs_debt_due ON dfs_debt (node_id, store, next_try_at, owed_at)")
    # Inline blobs, which may be many more, have no entry and cost nothing.
    db.execute_sql("CREATE INDEX dfs_blob_file ON dfs_blob (kind, digest, size) WHERE kind = 2")
