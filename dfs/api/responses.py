"""Answers, built in one go: bodies and headers are complete when an answer is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Response
from werkzeug.datastructures import Headers
from werkzeug.http import HTTP_STATUS_CODES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CLOSING_KEY = "dfs.close_connection"
"""The environment has what closes the connection after the answer, if the server offers that."""
_BODYLESS = (204, 304)


class Answer(Response):
    """A response that Werkzeug need not look over again before it is sent.

    Args:
        status: the status code.
        headers: all headers but Content-Length, which is added for a `bytes` body.
        body: the bytes, or an iterator over them whose `close` is called at the end.
        close: close the connection afterwards: the rest of the request is not worth receiving.
    """

    def __init__(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes | Iterable[bytes],
        *,
        close: bool = False,
    ) -> None:
        if isinstance(body, bytes):
            if status not in _BODYLESS:
                headers.append(("Content-Length", str(len(body))))
            body = [body]
        if close:
            headers.append(("Connection", "close"))
        # What Werkzeug's constructors do, without asking what may be given in which form. Headers()
        # would look at each value for line breaks, which the server does once more. Values come
        # from `headers.py` and validated types, never straight from a request.
        self.headers = Headers()
        self.headers._list = headers
        self._status, self._status_code = _describe(status)
        self._on_close: list[Callable[[], Any]] = []
        self.direct_passthrough = True
        self.response = body
        self._closes = close

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the headers as they are: they are complete."""
        return self.headers

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Send the answer.

        Gunicorn drops an application's `Connection` header, so it has to be told otherwise that the
        connection is to be closed.
        """
        if self._closes and CLOSING_KEY in environ:
            environ[CLOSING_KEY]()
        if environ["REQUEST_METHOD"] == "HEAD" or self._status_code in _BODYLESS:
            return super().__call__(environ, start_response)
        start_response(self._status, self.headers._list)
        return self.response  # type: ignore[return-value] # bytes, see `__init__`


def answer_json(
    value: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()
) -> Answer:
    """Return an answer with a JSON body."""
    listed = [("Content-Type", "application/json"), *headers]
    return Answer(status, listed, msgspec.json.encode(value))


@lru_cache
def _describe(status: int) -> tuple[str, int]:
    """Return the status as it is sent, and its code."""
    return f"{status} {HTTP_STATUS_CODES[status].upper()}", status
