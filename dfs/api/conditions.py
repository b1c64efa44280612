"""Conditional requests: entity tags and dates.

Source: RFC 9110 sections 8.8 and 13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from werkzeug.http import parse_date

from dfs.core.errors import PreconditionFailedError

_ETAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_CONDITIONS = (
    "HTTP_IF_MATCH",
    "HTTP_IF_UNMODIFIED_SINCE",
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_MODIFIED_SINCE",
)


def parse_if_match(header: str | None) -> frozenset[str] | None:
    """Return the strong entity tags of an `If-Match` header without quotes, or {"*"}.

    None when there is no header. Weak tags never match and are left out.
    """
    if header is None:
        return None
    if header.strip() == "*":
        return frozenset("*")
    return frozenset(tag for weak, tag in _ETAG.findall(header) if not weak)


def _lists_weakly(header: str, etag: str) -> bool:
    return header.strip() == "*" or any(tag == etag for _, tag in _ETAG.findall(header))


def _date_s(header: str | None) -> int | None:
    parsed = parse_date(header) if header else None
    return None if parsed is None else int(parsed.timestamp())


def has_conditions(environ: Mapping[str, Any]) -> bool:
    """Return whether a GET or HEAD has any preconditions; `If-Range` is none."""
    return any(name in environ for name in _CONDITIONS)


def is_unmodified(environ: Mapping[str, Any], etag: str, modified_s: int) -> bool:
    """Judge the preconditions of a GET or HEAD.

    Args:
        environ: the WSGI environment with the request's headers.
        etag: the file's entity tag, without quotes.
        modified_s: when the file was last changed, in whole seconds since 1970.

    Returns:
        True if the client has the file already (304), False if it is to be sent.

    Raises:
        PreconditionFailedError: `If-Match` or `If-Unmodified-Since` does not hold.
    """
    if not has_conditions(environ):
        return False
    wanted = parse_if_match(environ.get("HTTP_IF_MATCH"))
    if wanted is not None:
        if "*" not in wanted and etag not in wanted:
            raise PreconditionFailedError("The file is not the one named by If-Match.")
    else:
        limit_s = _date_s(environ.get("HTTP_IF_UNMODIFIED_SINCE"))
        if limit_s is not None and modified_s > limit_s:
            raise PreconditionFailedError("The file was changed after If-Unmodified-Since.")
    known = environ.get("HTTP_IF_NONE_MATCH")
    if known is not None:
        return _lists_weakly(known, etag)
    since_s = _date_s(environ.get("HTTP_IF_MODIFIED_SINCE"))
    return since_s is not None and modified_s <= since_s


def range_applies(environ: Mapping[str, Any], etag: str, modified_s: int) -> bool:
    """Return whether `Range` is to be honoured: there is no `If-Range`, or it names this file.

    A date counts as a strong validator: the bytes behind a file id never change.
    """
    validator = environ.get("HTTP_IF_RANGE")
    if validator is None:
        return True
    match = _ETAG.fullmatch(validator.strip())
    if match is not None:
        return not match.group(1) and match.group(2) == etag
    return _date_s(validator) == modified_s
