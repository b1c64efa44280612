"""The first schema: files, blobs, sealed segments, and how far each node's log was followed."""

from __future__ import annotations

from peewee import Database, PostgresqlDatabase
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Create the tables.

    SQLite's are WITHOUT ROWID: every look-up by primary key is then one tree instead of two.
    PostgreSQL's texts collate as "C", which is the code point order that SQLite has anyway.
    """
    postgres = isinstance(db, PostgresqlDatabase)
    text = 'TEXT COLLATE "C"' if postgres else "TEXT"
    binary = "BYTEA" if postgres else "BLOB"
    integer = "BIGINT" if postgres else "INTEGER"
    options = "" if postgres else " WITHOUT ROWID"
    db.execute_sql(
        f"""CREATE TABLE dfs_file (
            id {text} NOT NULL PRIMARY KEY,
            bucket {text} NOT NULL,
            key {text} NOT NULL,
            size {integer} NOT NULL,
            sha256 {binary} NOT NULL,
            content_type {text} NOT NULL,
            metadata {text} NOT NULL,
            extents {binary},
            created_at {integer} NOT NULL,
            updated_at {integer} NOT NULL,
            expires_at {integer},
            lsn {integer} NOT NULL
        ){options}"""
    )
    db.execute_sql("CREATE INDEX dfs_file_bucket_key_id ON dfs_file (bucket, key, id)")
    db.execute_sql(
        f"""CREATE TABLE dfs_blob (
            digest {binary} NOT NULL PRIMARY KEY,
            size {integer} NOT NULL,
            kind {integer} NOT NULL,
            segment_id {integer} NOT NULL,
            "offset" {integer} NOT NULL,
            length {integer} NOT NULL,
            block_crc32s {binary} NOT NULL,
            "references" {integer} NOT NULL,
            lsn {integer} NOT NULL
        ){options}"""
    )
    db.execute_sql(
        f"""CREATE TABLE dfs_segment (
            node_id {text} NOT NULL,
            id {integer} NOT NULL,
            first_lsn {integer} NOT NULL,
            last_lsn {integer} NOT NULL,
            size_bytes {integer} NOT NULL,
            sealed_at {integer} NOT NULL,
            PRIMARY KEY (node_id, id)
        ){options}"""
    )
    db.execute_sql(
        f"""CREATE TABLE dfs_node_state (
            node_id {text} NOT NULL PRIMARY KEY,
            cluster_id {binary} NOT NULL,
            applied_lsn {integer} NOT NULL
        ){options}"""
    )
