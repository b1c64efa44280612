"""The table of settings."""

from __future__ import annotations

import re

from dfs.core.settings.limits import LIMITS
from dfs.core.settings.logs import LOGS
from dfs.core.settings.serving import SERVING
from dfs.core.settings.setting import Setting
from dfs.core.settings.stores import STORES

__all__ = ["MORE_REPLICAS", "SETTINGS", "Setting"]

SETTINGS: tuple[Setting, ...] = (*SERVING, *STORES, *LIMITS, *LOGS)

MORE_REPLICAS = re.compile(r"REPLICA([1-9][0-9]*)_PATH")
"""Settings that the table does not name one by one."""
