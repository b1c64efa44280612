"""HTTP: where it listens, what it lets clients do."""

from __future__ import annotations

from dfs.core.parsers import (
    parse_accel_prefix,
    parse_choice,
    parse_int,
    parse_optional,
    parse_optional_path,
)
from dfs.core.settings.setting import MIB, Setting

SERVING: tuple[Setting, ...] = (
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
        "DFS_FIRST_KEY",
        "first_key",
        parse_optional,
        "",
        "the key that a node without any makes for itself at its start, as `python -m scripts.keys generate` prints one, or the path of a file that holds it. To a node that has keys it is nothing",
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
)
