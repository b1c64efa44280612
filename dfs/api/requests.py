"""What every request has: an id, and the services that serve it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from flask import current_app
from structlog.contextvars import bind_contextvars

from dfs.api.errors import REQUEST_ID_KEY
from dfs.core.errors import InvalidRequestError, NoSuchFileError
from dfs.core.ulid import UlidFactory

if TYPE_CHECKING:
    from dfs.wiring import Services

REPLICATION_MODES = ("sync", "async")

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_FILE_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def begin_request(environ: dict[str, Any], ulids: UlidFactory) -> str:
    """Give the request its id, in the environment and in the log; return it.

    The client's `X-Request-ID` is taken if it is 1 to 128 of the characters A-Z a-z 0-9 . _ -
    """
    request_id = environ.get("HTTP_X_REQUEST_ID")
    if request_id is None or not _SANE_ID.fullmatch(request_id):
        request_id = ulids.make()
    environ[REQUEST_ID_KEY] = request_id
    bind_contextvars(request_id=request_id)
    return cast("str", request_id)


def is_file_id(text: str) -> bool:
    """Return whether the text can be the id of a file at all."""
    return _FILE_ID.fullmatch(text) is not None


def checked_file_id(text: str) -> str:
    """Return the id of a file. Raises NoSuchFileError if it cannot be one."""
    if not is_file_id(text):
        raise NoSuchFileError("There is no file of that id.")
    return text


def read_replication(environ: Mapping[str, Any]) -> str | None:
    """Return what the header `DFS-Replication` asks of a write; None without it.

    Raises:
        InvalidRequestError: it is neither "sync" nor "async".
    """
    mode: str | None = environ.get("HTTP_DFS_REPLICATION")
    if mode is not None and mode not in REPLICATION_MODES:
        raise InvalidRequestError(
            "A write is replicated sync or async.",
            fields={"DFS-Replication": ["must be sync or async"]},
        )
    return mode


def services() -> Services:
    """Return the services of this process, opened at first use."""
    return cast("Services", current_app.extensions["dfs"].services)
