"""Problems as they are sent: the body of every answer that is no success.

Source: RFC 9457.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from werkzeug.http import HTTP_STATUS_CODES

MEDIA_TYPE = "application/problem+json"


def reason_of(status: int) -> str:
    """Return the words for a status."""
    return HTTP_STATUS_CODES.get(status, "Error")


def encode_problem(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    fields: Mapping[str, list[str]] | None = None,
    *,
    trace_id: str | None = None,
) -> bytes:
    """Return the body of a problem.

    Args:
        code: stable, for programs.
        detail: one sentence for the reader.
        fields: messages for each offending field.
        trace_id: of the request, if it is traced.
    """
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": reason_of(status),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if trace_id is not None:
        body["trace_id"] = trace_id
    if fields:
        body["errors"] = fields
    # Lone surrogates, which JSON cannot carry, come only from what a client sent in a field's name.
    return msgspec.json.encode(body)
