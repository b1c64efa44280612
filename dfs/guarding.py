"""Whether a node may start that strangers reach: secure unless it is told not to be."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from dfs.core.address import is_loopback
from dfs.core.errors import ConfigError

FIRST_KEY_COMMAND = "python -m scripts.keys create --name admin"

logger = structlog.get_logger()


def require_guard(auth: str, hosts: Sequence[str], *, has_keys: bool) -> None:
    """Say in the log whom a node serves, and refuse a start that would serve everybody by mistake.

    Args:
        auth: the setting DFS_AUTH. hosts: addresses that the node listens on.

    Raises:
        ConfigError: it has no API key, and one of the addresses is not loopback.
    """
    distant = [host for host in hosts if not is_loopback(host)]
    if auth == "off":
        logger.warning("auth_is_off", meaning="Whoever reaches the node may do everything.")
    elif has_keys:
        return
    elif distant:
        raise ConfigError(
            f"The node would listen on {', '.join(distant)}, where others reach it, and has no API "
            "key.",
            hint=f"Make the first key with these settings: {FIRST_KEY_COMMAND} (it is shown once); "
            "then start again. Or listen on 127.0.0.1; or say DFS_AUTH=off, and everybody may do "
            "everything.",
        )
    else:
        logger.info(
            "own_machine_only",
            meaning="There is no API key: only clients on this machine are served, all of them.",
            first_key=FIRST_KEY_COMMAND,
        )
