"""The table of settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dfs.core.parsers import (
    parse_accel_prefix,
    parse_bool,
    parse_choice,
    parse_database_url,
    parse_int,
    parse_location,
    parse_node_id,
    parse_optional,
    parse_optional_path,
    parse_path,
    parse_rate,
    parse_redis_url,
    parse_share,
)

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Attributes:
        name: the environment variable.
        attribute: the attribute of `Config` that holds the value.
        parse: turns the text into the value; raises ValueError with a reason.
        default: as text, as a user would write it; empty means unset.
        help: what it does, with its unit.
    """

    name: str
    attribute: str
    parse: Callable[[str], Any]
    default: str
    help: str


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "PORT",
        "port",
        parse_int(0, 65535),
        "8000",
        "TCP port that HTTP listens on; 0 = any free one",
    ),
    Setting("DFS_HOST", "host", str, "127.0.0.1", "address that HTTP listens on"),
    Setting(
        "DFS_AUTH",
        "auth",
        parse_choice("on", "off"),
        "on",
        "`on`: requests need an API key; as long as there is none, the node serves its own machine only, and refuses to start on another address than loopback. `off`: everybody who reaches it may do everything",
    ),
    Setting(
        "DFS_TLS_CERT_PATH",
        "tls_cert_path",
        parse_optional_path,
        "",
        "certificate, with its chain, in PEM: HTTPS instead of HTTP, TLS 1.2 or newer",
    ),
    Setting("DFS_TLS_KEY_PATH", "tls_key_path", parse_optional_path, "", "its private key, in PEM"),
    Setting("WEB_CONCURRENCY", "workers", parse_int(1), "2", "Gunicorn worker processes"),
    Setting("DFS_THREADS", "threads", parse_int(1), "16", "threads in each Gunicorn worker"),
    Setting(
        "DFS_ACCEL_PREFIX",
        "accel_prefix",
        parse_accel_prefix,
        "",
        "location of a reverse proxy on this machine in which it has the blob files of the primary, such as `/dfs-blobs/`: it sends those that dfs has found sound (`docs/nginx.md`). Unset: dfs sends and checks every byte itself",
    ),
    Setting(
        "DFS_ACCEL_VERIFIED_S",
        "accel_verified_s",
        parse_int(1),
        "3600",
        "seconds for which a blob file that was read whole and found sound counts as such for that proxy; bytes that rot on the disk meanwhile are not noticed by it",
    ),
    Setting(
        "DFS_SLOW_CLIENTS_MAX",
        "slow_clients_max",
        parse_int(0, 10_000),
        "512",
        "threads more, in each process, that may wait for clients that send or read slowly; each holds up to 2 MiB. Beyond, those clients are cut off",
    ),
    Setting(
        "DFS_CLIENT_GRACE_S",
        "client_grace_s",
        parse_int(2, 3600),
        "20",
        "seconds for which a client may send or read nothing in the middle of a request; then 408, or the connection is closed",
    ),
    Setting(
        "DFS_CLIENT_BYTES_PER_S_MIN",
        "client_bytes_per_s_min",
        parse_int(1),
        "1024",
        "rate that a client has to keep up, that grace aside",
    ),
    Setting(
        "DFS_HEAD_TIMEOUT_S",
        "head_timeout_s",
        parse_int(1, 3600),
        "10",
        "seconds that the head of a request may take, from its first byte or, on a new connection, from its start; then 408",
    ),
    Setting(
        "DFS_HEAD_BYTES_MAX",
        "head_bytes_max",
        parse_int(8192, MIB),
        "32768",
        "bytes of the first line and all headers of a request; the first line alone may have 8190",
    ),
    Setting(
        "DFS_HEADERS_MAX",
        "headers_max",
        parse_int(16, 1000),
        "100",
        "headers that a request may have",
    ),
    Setting(
        "DFS_CONNECTIONS_MAX",
        "connections_max",
        parse_int(64),
        "4096",
        "connections that each process keeps; beyond, the one that has been idle for longest is closed",
    ),
    Setting(
        "DFS_GUNICORN_CONTROL_SOCKET",
        "gunicorn_control_socket",
        str,
        "",
        "path of Gunicorn's control socket; empty = none",
    ),
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
    Setting(
        "DFS_INLINE_BLOB_BYTES_MAX",
        "inline_blob_bytes_max",
        parse_int(0, MIB),
        str(64 * KIB),
        "blobs up to this many bytes live inside the log, larger ones in a file of their own",
    ),
    Setting(
        "DFS_UPLOAD_BYTES_MAX",
        "upload_bytes_max",
        parse_int(0),
        "0",
        "largest accepted file in bytes; 0 = as large as the disk allows",
    ),
    Setting(
        "DFS_NAME_BYTES_MAX",
        "name_bytes_max",
        parse_int(1, 1024),
        "1024",
        "bytes of UTF-8 that the name of a file may have",
    ),
    Setting(
        "DFS_METADATA_BYTES_MAX",
        "metadata_bytes_max",
        parse_int(0, 8192),
        "8192",
        "bytes of UTF-8 that all names and values of a file's own metadata may have",
    ),
    Setting(
        "DFS_FORM_FILES_MAX",
        "form_files_max",
        parse_int(1, 100),
        "100",
        "files that one form may have",
    ),
    Setting(
        "DFS_FORM_FIELD_BYTES_MAX",
        "form_field_bytes_max",
        parse_int(64, MIB),
        "65536",
        "bytes of each other field of a form",
    ),
    Setting(
        "DFS_UPLOADS_PER_CALLER_MAX",
        "uploads_per_caller_max",
        parse_int(0),
        "128",
        "uploads that a caller (a key; without one, an address) may have in flight in each process; then 429. 0 = no limit",
    ),
    Setting(
        "DFS_RATE_PER_CALLER",
        "rate_per_caller",
        parse_rate,
        "",
        "requests that a caller may make of all processes of the node, such as `1000/second` or `5000/minute`; then 429. Unset: as many as the node can answer",
    ),
    Setting(
        "DFS_QUOTA_BYTES",
        "quota_bytes",
        parse_int(0),
        "0",
        "bytes that all files together may have, those in the trash included; 0 = no limit",
    ),
    Setting(
        "DFS_DELETE_GRACE_S",
        "delete_grace_s",
        parse_int(0),
        str(7 * 86400),
        "seconds for which a deleted file stays in the trash, from where it can be restored; 0 = not at all. Blob files that nobody knows are put aside at that age, but not before an hour",
    ),
    Setting(
        "DFS_WAL_SEGMENT_BYTES",
        "wal_segment_bytes",
        parse_int(64 * KIB, 1 << 31),
        str(64 * MIB),
        "size at which a segment of the log is sealed and the next begun",
    ),
    Setting(
        "DFS_WAL_PREALLOCATE_BYTES",
        "wal_preallocate_bytes",
        parse_int(0),
        str(4 * MIB),
        "zeros written ahead of the tail of the log, so that a sync need not grow the file",
    ),
    Setting(
        "DFS_COMMIT_BATCH_BYTES_MAX",
        "commit_batch_bytes_max",
        parse_int(MIB),
        str(8 * MIB),
        "bytes of log that one group commit takes at most",
    ),
    Setting(
        "DFS_COMMIT_BATCH_COUNT_MAX",
        "commit_batch_count_max",
        parse_int(1),
        "256",
        "changes that one group commit takes at most",
    ),
    Setting(
        "DFS_COMMIT_GATHER_US",
        "commit_gather_us",
        parse_int(0, 1_000_000),
        "10000",
        "microseconds a group commit waits at most for changes already on their way; never waits for a lone one",
    ),
    Setting(
        "DFS_RESERVE_BYTES",
        "reserve_bytes",
        parse_int(0),
        str(256 * MIB),
        "bytes that uploads leave free on each disk of the log, the primary and the index, so that deletes and the log go on. Uploads in flight may eat 1 MiB of it for each thread; 0 = none",
    ),
    Setting(
        "DFS_RESERVE_INODES",
        "reserve_inodes",
        parse_int(0),
        "1000",
        "inodes that uploads leave free on those disks; 0 = none",
    ),
    Setting(
        "DFS_TMP_AGE_S",
        "tmp_age_s",
        parse_int(60),
        "86400",
        "age in seconds after which a temporary file that nobody writes is swept while the node runs",
    ),
    Setting(
        "DEBUG",
        "debug",
        parse_bool,
        "false",
        "readable logs, more of them; never changes what is synced",
    ),
)


MORE_REPLICAS = re.compile(r"REPLICA([1-9][0-9]*)_PATH")
"""Settings that the table does not name one by one."""
