"""The configuration of a node: the table of settings, read once, into one frozen object.

The table is also that of the documentation (`scripts/doc_tables.py`). A value comes from the
environment, else from `.env` in the working directory, else from the table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from dfs.core.errors import ConfigError
from dfs.core.model import PRIMARY_NAME
from dfs.core.parsers import Rate, parse_location, trust_any_certificate
from dfs.core.settings import MORE_REPLICAS, SETTINGS, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The values of `SETTINGS`. Units are those of the table.

    Attributes:
        replicas: (name, location) of each replica, by number: ("replica1", "/mnt/b"), ...
    """

    port: int
    host: str
    auth: str
    first_key: str | None
    tls_cert_path: Path | None
    tls_key_path: Path | None
    workers: int
    threads: int
    accel_prefix: str
    accel_verified_s: int
    slow_clients_max: int
    client_grace_s: int
    client_bytes_per_s_min: int
    head_timeout_s: int
    head_bytes_max: int
    headers_max: int
    connections_max: int
    gunicorn_control_socket: str
    database_url: str
    redis_url: str | None
    redis_verify: str
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
    compact_dead_ratio: float
    compact_bytes_per_s: int
    wal_path: Path
    run_path: Path
    node_id: str
    inline_blob_bytes_max: int
    upload_bytes_max: int
    name_bytes_max: int
    metadata_bytes_max: int
    form_files_max: int
    form_field_bytes_max: int
    uploads_per_caller_max: int
    rate_per_caller: Rate | None
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
    log_format: str
    log_level: str
    access_log: bool
    slow_request_ms: int
    debug: bool

    @property
    def store_names(self) -> list[str]:
        """The names of all stores of the node, the primary's first."""
        return [PRIMARY_NAME, *(name for name, _ in self.replicas)]

    def copies(self, replication: str | None = None) -> int:
        """Return how many stores must have a change before it is acknowledged.

        Args:
            replication: "sync" or "async", what is asked of this one; None: what the setting says.
        """
        return self.write_quorum if (replication or self.replication) == "sync" else 1


_SETTLED = "DFS_SETTINGS_ARE_SETTLED"
"""In the environment of a process for which `.env` was read."""
_CREDENTIALS = re.compile(r"(?<=[:/])[^:/].*(?=@)")
"""User and password of a URL, coded as they must be or not: what is wrong ends up in logs."""


def load_config(environ: Mapping[str, str] | None = None, env_file: str = ".env") -> Config:
    """Read the settings.

    Args:
        environ: the environment; the process's own when None.
        env_file: read for what `environ` does not set; a missing file is an empty one.

    Raises:
        ConfigError: naming every setting that is wrong, with its value and the reason.
    """
    environ = os.environ if environ is None else environ
    given = {**settle_settings(environ, env_file), **environ}
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
            faults.append(f"{setting.name}={_CREDENTIALS.sub('***', text)!r} {error}")
            continue
        if replica is None:
            values[setting.attribute] = value
        elif value:
            locations[int(replica[1])] = value
    values["replicas"] = tuple((f"replica{n}", locations[n]) for n in sorted(locations))
    if values.get("redis_verify") == "off" and values.get("redis_url") is not None:
        values["redis_url"] = trust_any_certificate(values["redis_url"])
    faults.extend(_contradictions(values))
    if faults:
        raise ConfigError("These settings are wrong: " + "; ".join(faults))
    return Config(**values)


def settle_settings(environ: Mapping[str, str], env_file: str = ".env") -> dict[str, str]:
    """Return what `environ` lacks so that it says all settings, whatever becomes of the file.

    Whoever has that in its environment reads no file: a process that takes the place of another
    one must not find settings that nobody has looked at.
    """
    if _SETTLED in environ:
        return {}
    from_file = dotenv_values(env_file).items()
    settings = {
        name: value
        for name, value in from_file
        if value is not None and name not in environ and _is_setting(name)
    }
    return {**settings, _SETTLED: "1"}


def _is_setting(name: str) -> bool:
    return bool(MORE_REPLICAS.fullmatch(name)) or any(name == item.name for item in SETTINGS)


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
    if (values.get("tls_cert_path") is None) != (values.get("tls_key_path") is None):
        faults.append("DFS_TLS_CERT_PATH and DFS_TLS_KEY_PATH belong together")
    return faults
