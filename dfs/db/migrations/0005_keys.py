"""API keys, and with which of them a file was stored."""

from __future__ import annotations

from peewee import Database, PostgresqlDatabase
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add a table and a column: no log that was read before has anything for them."""
    postgres = isinstance(db, PostgresqlDatabase)
    text = 'TEXT COLLATE "C"' if postgres else "TEXT"
    integer = "BIGINT" if postgres else "INTEGER"
    blob = "BYTEA" if postgres else "BLOB"
    options = "" if postgres else " WITHOUT ROWID"
    db.execute_sql(f"ALTER TABLE dfs_file ADD COLUMN made_by {text} NOT NULL DEFAULT ''")
    db.execute_sql(
        f"""CREATE TABLE dfs_key (
            id {text} NOT NULL PRIMARY KEY,
            name {text} NOT NULL,
            scopes {integer} NOT NULL,
            prefix {text} NOT NULL,
            secret_hash {blob} NOT NULL,
            signing_key {blob} NOT NULL,
            created_at {integer} NOT NULL,
            expires_at {integer},
            created_by {text} NOT NULL,
            last_used_at {integer},
            lsn {integer} NOT NULL,
            first_lsn {integer} NOT NULL,
            segment_id {integer} NOT NULL,
            length {integer} NOT NULL
        ){options}"""
    )
