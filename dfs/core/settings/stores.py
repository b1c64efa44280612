"""Where a node keeps things: index, queue, stores, log; and how it looks after them."""

from __future__ import annotations

from dfs.core.parsers import (
    parse_choice,
    parse_database_url,
    parse_int,
    parse_location,
    parse_node_id,
    parse_optional,
    parse_path,
    parse_redis_url,
    parse_share,
)
from dfs.core.settings.setting import MIB, Setting

STORES: tuple[Setting, ...] = (
    Setting(
        "DATABASE_URL",
        "database_url",
        parse_database_url,
        "sqlite:///./data/dfs.db",
        "the index: `sqlite:///PATH` or `postgresql://...`; it can always be rebuilt from the log",
    ),
    Setting(
        "REDIS_URL",
        "redis_url",
        parse_redis_url,
        "",
        "the queue; unset: `make run` starts an embedded Valkey on a free port",
    ),
    Setting(
        "DFS_REDIS_VERIFY",
        "redis_verify",
        parse_choice("on", "off"),
        "on",
        "`off`: with `rediss://` any certificate is taken, which the self-signed ones of Heroku need; what comes from the queue is checked either way (`SECURITY.md`)",
    ),
    Setting("STORAGE_PATH", "storage_path", parse_path, "./data/primary", "the primary store"),
    Setting(
        "REPLICA1_PATH",
        "replica1",
        parse_location,
        "./data/replica1",
        "a replica: a directory or `s3://BUCKET/PREFIX`; set but empty = none. Its disk should be another one than the primary's",
    ),
    Setting(
        "REPLICA2_PATH",
        "replica2",
        parse_location,
        "./data/replica2",
        "a second replica; `REPLICA3_PATH` and so on likewise",
    ),
    Setting(
        "DFS_S3_ENDPOINT",
        "s3_endpoint",
        parse_optional,
        "",
        "URL of the S3-compatible server of `s3://` replicas; unset: AWS",
    ),
    Setting("DFS_S3_REGION", "s3_region", parse_optional, "", "its region; unset: `AWS_REGION`"),
    Setting(
        "DFS_S3_ACCESS_KEY_ID",
        "s3_access_key_id",
        parse_optional,
        "",
        "key for it; unset: what the AWS environment gives",
    ),
    Setting(
        "DFS_S3_SECRET_ACCESS_KEY", "s3_secret_access_key", parse_optional, "", "secret of that key"
    ),
    Setting(
        "DFS_REPLICATION",
        "replication",
        parse_choice("async", "sync"),
        "async",
        "when a write is acknowledged: `async` = durable on the primary; `sync` = durable on `DFS_WRITE_QUORUM` stores. A request says otherwise by the header `DFS-Replication`",
    ),
    Setting(
        "DFS_WRITE_QUORUM",
        "write_quorum",
        parse_int(1),
        "2",
        "stores, the primary among them, that have a synchronous write on disk before it is acknowledged",
    ),
    Setting(
        "DFS_QUORUM_TIMEOUT_S",
        "quorum_timeout_s",
        parse_int(1, 600),
        "5",
        "seconds a synchronous write waits for its quorum, and one more for every 16 MiB; then 503, nothing stored",
    ),
    Setting(
        "DFS_REPLICA_TIMEOUT_S",
        "replica_timeout_s",
        parse_int(1),
        "30",
        "seconds without any progress after which a replica is taken to be gone",
    ),
    Setting(
        "DFS_SCRUB_BYTES_PER_S",
        "scrub_bytes_per_s",
        parse_int(0),
        str(16 * MIB),
        "rate at which each store is read through for damage; 0 = never",
    ),
    Setting(
        "DFS_SCRUB_INTERVAL_S",
        "scrub_interval_s",
        parse_int(1),
        str(7 * 86400),
        "seconds from the beginning of one scrub of a store to that of the next",
    ),
    Setting(
        "DFS_COMPACT_DEAD_RATIO",
        "compact_dead_ratio",
        parse_share(0.05, 0.95),
        "0.5",
        "share of a sealed segment of the log that is dead from which on the rest of it is moved to the end of the log, and the segment dropped",
    ),
    Setting(
        "DFS_COMPACT_BYTES_PER_S",
        "compact_bytes_per_s",
        parse_int(0),
        str(16 * MIB),
        "rate at which such segments are read; 0 = none is ever dropped",
    ),
    Setting("WAL_PATH", "wal_path", parse_path, "./data/wal", "the write-ahead log"),
    Setting(
        "DFS_RUN_PATH",
        "run_path",
        parse_path,
        "./data/run",
        "files that need not survive a restart: metrics of the processes, the embedded queue",
    ),
    Setting(
        "DFS_NODE_ID",
        "node_id",
        parse_node_id,
        "node-1",
        "name of this node, in the index and in the queue; do not change it later",
    ),
)
