"""What a node tells of itself."""

from __future__ import annotations

from dfs.core.parsers import parse_bool, parse_choice, parse_int
from dfs.core.settings.setting import Setting

LOGS: tuple[Setting, ...] = (
    Setting(
        "DFS_LOG_FORMAT",
        "log_format",
        parse_choice("auto", "json", "text"),
        "auto",
        "`json`: a line of JSON for each event; `text`: for people; `auto`: text on a terminal and with `DEBUG`, else JSON (`docs/tracing-and-logs.md`)",
    ),
    Setting(
        "DFS_LOG_LEVEL",
        "log_level",
        parse_choice("debug", "info", "warning", "error"),
        "info",
        "the lowest level that is told",
    ),
    Setting(
        "DFS_ACCESS_LOG",
        "access_log",
        parse_bool,
        "false",
        "an event `request` for each request, without what stands in its query or its credentials",
    ),
    Setting(
        "DFS_SLOW_REQUEST_MS",
        "slow_request_ms",
        parse_int(0),
        "0",
        "milliseconds from which on a request is worth a warning `request_slow`, the client's own slowness included; 0 = never",
    ),
    Setting(
        "DEBUG",
        "debug",
        parse_bool,
        "false",
        "readable logs, all of them; never changes what is synced",
    ),
)
