"""The schema of the newest migration, as Peewee models: for administration and as a reference.

The hot path does not use them: an ORM row costs twenty times as much as a tuple. A test compares
them with what the migrations build. Texts compare by code point on both databases.
"""

from __future__ import annotations

from peewee import BigIntegerField, BlobField, CompositeKey, Field, Model, TextField

TABLE_PREFIX = "dfs_"
"""Begins the name of every table of dfs, so that a shared PostgreSQL database stays orderly."""


class FileRecord(Model):
    """One file. `extents` is NULL for a file of one whole blob, else msgpack; see `rows`.

    Partial indexes hold those in the trash, and those that are not.
    """

    id: Field = TextField(primary_key=True)
    bucket: Field = TextField()
    key: Field = TextField()
    size: Field = BigIntegerField()
    sha256: Field = BlobField()
    content_type: Field = TextField()
    metadata: Field = TextField()
    extents: Field = BlobField(null=True)
    created_at: Field = BigIntegerField()
    updated_at: Field = BigIntegerField()
    expires_at: Field = BigIntegerField(null=True)
    lsn: Field = BigIntegerField()
    deleted_at: Field = BigIntegerField(null=True)
    first_lsn: Field = BigIntegerField()
    base_lsn: Field = BigIntegerField()
    base_segment_id: Field = BigIntegerField()
    base_length: Field = BigIntegerField()
    made_by: Field = TextField()

    class Meta:
        table_name = "dfs_file"


class BlobRecord(Model):
    """One blob and the record of the log that put it. A partial index holds those of kind FILE."""

    digest: Field = BlobField(primary_key=True)
    size: Field = BigIntegerField()
    kind: Field = BigIntegerField()
    segment_id: Field = BigIntegerField()
    offset: Field = BigIntegerField()
    length: Field = BigIntegerField()
    block_crc32s: Field = BlobField()
    references: Field = BigIntegerField()
    lsn: Field = BigIntegerField()
    first_lsn: Field = BigIntegerField()

    class Meta:
        table_name = "dfs_blob"


class SegmentRecord(Model):
    """One sealed segment of the log of one node."""

    node_id: Field = TextField()
    id: Field = BigIntegerField()
    first_lsn: Field = BigIntegerField()
    last_lsn: Field = BigIntegerField()
    size_bytes: Field = BigIntegerField()
    sealed_at: Field = BigIntegerField()

    class Meta:
        table_name = "dfs_segment"
        primary_key = CompositeKey("node_id", "id")


class SegmentUseRecord(Model):
    """What is dead of a segment, sealed or not, since something in it died."""

    node_id: Field = TextField()
    id: Field = BigIntegerField()
    dead_bytes: Field = BigIntegerField()
    tombstone_bytes: Field = BigIntegerField()
    tombstone_lsn: Field = BigIntegerField(null=True)
    dropped_at: Field = BigIntegerField(null=True)

    class Meta:
        table_name = "dfs_segment_use"
        primary_key = CompositeKey("node_id", "id")


class UsageRecord(Model):
    """How much the files of a bucket use; in the row of the bucket "", the blobs of the node."""

    node_id: Field = TextField()
    bucket: Field = TextField()
    files: Field = BigIntegerField()
    bytes: Field = BigIntegerField()
    deleted_files: Field = BigIntegerField()
    deleted_bytes: Field = BigIntegerField()
    blob_files: Field = BigIntegerField()
    blob_file_bytes: Field = BigIntegerField()
    unused_blob_files: Field = BigIntegerField()
    unused_bytes: Field = BigIntegerField()
    inline_blobs: Field = BigIntegerField()
    inline_bytes: Field = BigIntegerField()

    class Meta:
        table_name = "dfs_usage"
        primary_key = CompositeKey("node_id", "bucket")


class NodeStateRecord(Model):
    """How far the index has followed the log of one node."""

    node_id: Field = TextField(primary_key=True)
    cluster_id: Field = BlobField()
    applied_lsn: Field = BigIntegerField()

    class Meta:
        table_name = "dfs_node_state"


class StoreRecord(Model):
    """One store of one node: what is on it, its health, its scrub."""

    node_id: Field = TextField()
    name: Field = TextField()
    store_id: Field = BlobField()
    segment_id: Field = BigIntegerField()
    offset: Field = BigIntegerField()
    lsn: Field = BigIntegerField()
    was_mounted: Field = BigIntegerField()
    failures: Field = BigIntegerField()
    retry_at: Field = BigIntegerField()
    error: Field = TextField(null=True)
    error_at: Field = BigIntegerField(null=True)
    scrub_position: Field = TextField()
    scrub_started_at: Field = BigIntegerField(null=True)
    scrub_finished_at: Field = BigIntegerField(null=True)
    scrub_bytes_read: Field = BigIntegerField()
    scrub_bytes_total: Field = BigIntegerField()
    scrub_damaged: Field = BigIntegerField()
    scrub_last_damaged: Field = BigIntegerField()
    scrub_last_bytes: Field = BigIntegerField()

    class Meta:
        table_name = "dfs_store"
        primary_key = CompositeKey("node_id", "name")


class DebtRecord(Model):
    """What a store of a node has to do with one unit, until it is done."""

    node_id: Field = TextField()
    store: Field = TextField()
    kind: Field = BigIntegerField()
    unit: Field = BlobField()
    size: Field = BigIntegerField()
    owed_at: Field = BigIntegerField()
    attempts: Field = BigIntegerField()
    next_try_at: Field = BigIntegerField()
    error: Field = TextField(null=True)
    lsn: Field = BigIntegerField()

    class Meta:
        table_name = "dfs_debt"
        primary_key = CompositeKey("node_id", "store", "kind", "unit")
        indexes = ((("node_id", "store", "next_try_at", "owed_at"), False),)


class KeyRecord(Model):
    """One API key, and the record of the log that put it."""

    id: Field = TextField(primary_key=True)
    name: Field = TextField()
    scopes: Field = BigIntegerField()
    prefix: Field = TextField()
    secret_hash: Field = BlobField()
    signing_key: Field = BlobField()
    created_at: Field = BigIntegerField()
    expires_at: Field = BigIntegerField(null=True)
    created_by: Field = TextField()
    last_used_at: Field = BigIntegerField(null=True)
    lsn: Field = BigIntegerField()
    first_lsn: Field = BigIntegerField()
    segment_id: Field = BigIntegerField()
    length: Field = BigIntegerField()

    class Meta:
        table_name = "dfs_key"


MODELS: tuple[type[Model], ...] = (
    FileRecord,
    BlobRecord,
    SegmentRecord,
    SegmentUseRecord,
    UsageRecord,
    NodeStateRecord,
    StoreRecord,
    DebtRecord,
    KeyRecord,
)
MIGRATION_TABLE = "dfs_migration"
TABLES = (
    *(
        f"{TABLE_PREFIX}{name}"
        for name in (
            "file",
            "blob",
            "segment",
            "segment_use",
            "usage",
            "node_state",
            "store",
            "debt",
            "key",
        )
    ),
    MIGRATION_TABLE,
)
