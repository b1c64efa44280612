"""What a node tells of itself."""

from __future__ import annotations

from dfs.core.parsers import parse_bool
from dfs.core.settings.setting import Setting

LOGS: tuple[Setting, ...] = (
    Setting(
        "DEBUG",
        "debug",
        parse_bool,
        "false",
        "readable logs, more of them; never changes what is synced",
    ),
)
