"""The settings of a node: one table, read once, into one frozen object.

The table below is also the README's (`python -m dfs.core.config` prints it as Markdown). A value
comes from the environment, else from `.env` in the working directory, else from the table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from dfs.core.errors import ConfigError
from dfs.core.parsers import (
    parse_bool,
    parse_choice,
    parse_database_url,
    parse_int,
    parse_location,
    parse_node_id,
    parse_optional,
    parse_path,
    parse_redis_url,
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
    Setting("WEB_CONCURRENCY", "workers", parse_int(1), "2", "Gunicorn worker processes"),
    Setting("DFS_THREADS", "threads", parse_int(1), "16", "threads in each Gunicorn worker"),
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
        "4000",
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
        "DFS_ADMIN_PASSWORD",
        "admin_password",
        parse_optional,
        "",
        "password for the dashboard of the queue at `/admin/rq` (HTTP Basic, any user name); empty = it is only for clients on the same machine",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The values of `SETTINGS`. Units are those of the table.

    Attributes:
        replicas: (name, location) of each replica, by number: ("replica1", "/mnt/b"), ...
    """

    port: int
    host: str
    workers: int
    threads: int
    gunicorn_control_socket: str
    database_url: str
    redis_url: str | None
    storage_path: Path
    replicas: tuple[tuple[str, str], ...]
    s3_endpoint: str | None
    s3_region: str | None
    s3_access_key_id: str | None
    s3_secret_access_key: str | None
    replication: str
    write_quorum: int
    quorum_timeout_s: int
    replica_timeout_s: int
    scrub_bytes_per_s: int
    scrub_interval_s: int
    wal_path: Path
    run_path: Path
    node_id: str
    inline_blob_bytes_max: int
    upload_bytes_max: int
    quota_bytes: int
    delete_grace_s: int
    wal_segment_bytes: int
    wal_preallocate_bytes: int
    commit_batch_bytes_max: int
    commit_batch_count_max: int
    commit_gather_us: int
    reserve_bytes: int
    reserve_inodes: int
    tmp_age_s: int
    admin_password: str | None
    debug: bool


def load_config(environ: Mapping[str, str] | None = None, env_file: str = ".env") -> Config:
    """Read the settings.

    Args:
        environ: the environment; the process's own when None.
        env_file: read for what `environ` does not set; a missing file is an empty one.

    Raises:
        ConfigError: naming every setting that is wrong, with its value and the reason.
    """
    from_file = {
        name: value for name, value in dotenv_values(env_file).items() if value is not None
    }
    given = {**from_file, **(os.environ if environ is None else environ)}
    values: dict[str, Any] = {}
    faults: list[str] = []
    locations: dict[int, str] = {}
    for setting in (*SETTINGS, *_more_replicas(given)):
        replica = MORE_REPLICAS.fullmatch(setting.name)
        text = given.get(setting.name, "").strip()
        if not (replica and setting.name in given):  # a replica set to nothing is none
            text = text or setting.default
        try:
            value = setting.parse(text)
        except ValueError as error:
            faults.append(f"{setting.name}={text!r} {error}")
            continue
        if replica is None:
            values[setting.attribute] = value
        elif value:
            locations[int(replica[1])] = value
    values["replicas"] = tuple((f"replica{n}", locations[n]) for n in sorted(locations))
    faults.extend(_contradictions(values))
    if faults:
        raise ConfigError("These settings are wrong: " + "; ".join(faults))
    return Config(**values)


def _more_replicas(given: Mapping[str, str]) -> list[Setting]:
    """Return settings for the replicas that are given and not in the table."""
    known = {setting.name for setting in SETTINGS}
    return [
        Setting(name, "", parse_location, "", "")
        for name in given
        if name not in known and MORE_REPLICAS.fullmatch(name)
    ]


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with settings that are each right."""
    places = [str(values.get("storage_path")), *(place for _, place in values["replicas"])]
    faults = [
        f"two stores are at {place}" for place in sorted(set(places)) if places.count(place) > 1
    ]
    if values.get("replication") == "sync" and values.get("write_quorum", 0) > len(places):
        faults.append(
            f"DFS_WRITE_QUORUM={values['write_quorum']} cannot be reached by {len(places)} stores"
        )
    return faults


def settings_table() -> str:
    """Return the table of settings in Markdown, as it stands in the README."""
    lines = ["| name | default | meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default else "unset"
        lines.append(f"| `{setting.name}` | {default} | {setting.help} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(settings_table())
