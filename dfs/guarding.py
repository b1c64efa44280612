"""Whether a node may start that strangers reach: secure unless it is told not to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from dfs.core.access import ALL_SCOPES, OPERATOR
from dfs.core.address import is_loopback
from dfs.core.errors import ConfigError, InvalidRequestError
from dfs.core.regular import read_start
from dfs.core.signing import TOKEN_PREFIX, is_strong_token
from dfs.services.keys import KeyService

FIRST_KEY_COMMAND = "python -m scripts.keys create --name admin"

GENERATE_COMMAND = "python -m scripts.keys generate"
FIRST_KEY_BYTES_MAX = 4096

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
            "then start again. Or give it one in DFS_FIRST_KEY. Or listen on 127.0.0.1; or say "
            "DFS_AUTH=off, and everybody may do everything.",
        )
    else:
        logger.info(
            "own_machine_only",
            meaning="There is no API key: only clients on this machine are served, all of them.",
            first_key=FIRST_KEY_COMMAND,
        )


def make_first_key(keys: KeyService, first_key: str) -> None:
    """Make the key that a node without any is given by its settings.

    Args:
        first_key: the setting DFS_FIRST_KEY.

    Raises:
        ConfigError: it is no key, or names no file that holds one. What it is stands in no error.
        And what `KeyService.create` raises.

    Durability: on return the key is in the log, synced.
    """
    token = read_first_key(first_key)
    try:
        made = keys.create(name="first", scopes=ALL_SCOPES, token=token, caller=OPERATOR)
    except InvalidRequestError:
        if not keys.list():
            raise
        return  # another start has made it at the same moment
    logger.info("first_key_made", key=made.key.id)


def read_first_key(first_key: str) -> str:
    """Return the key, from the file that holds it if it is not there itself. Raises ConfigError."""
    token = first_key
    if not first_key.startswith(TOKEN_PREFIX):
        try:
            start, _ = read_start(Path(first_key), FIRST_KEY_BYTES_MAX)
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "that is no path"
            raise _no_first_key(f"names no file that can be read: {reason}") from None
        token = start.decode("ascii", "replace").strip()
    if not is_strong_token(token):
        raise _no_first_key("holds no key")
    return token


def _no_first_key(fault: str) -> ConfigError:
    return ConfigError(
        f"DFS_FIRST_KEY {fault}.",
        hint=f"`{GENERATE_COMMAND}` prints one that can be used.",
    )
