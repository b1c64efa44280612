"""Answers, built in one go: bodies and headers are complete when an answer is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from flask import Response
from gunicorn.http.wsgi import Response as GunicornResponse
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


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
            if status not in (204, 304):
                headers.append(("Content-Length", str(len(body))))
            body = [body]
        if close:
            headers.append(("Connection", "close"))
        # Headers() would look at each value for line breaks, which Gunicorn does once more. Values
        # come from `headers.py` and validated types, never straight from a request.
        listed = Headers()
        listed._list = headers
        super().__init__(body, status, listed, direct_passthrough=True)
        self._closes = close

    # Flask's own class fills in a type for answers that have none, such as 204 and 304.
    default_mimetype = None

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the headers as they are: they are complete."""
        return self.headers

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Send the answer.

        That the connection is to be closed has to be told to Gunicorn's response object, whose
        method `start_response` is, since it drops an application's `Connection` header.
        """
        server = getattr(start_response, "__self__", None)
        if self._closes and isinstance(server, GunicornResponse):
            server.force_close()
        return super().__call__(environ, start_response)


def answer_json(
    value: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()
) -> Answer:
    """Return an answer with a JSON body."""
    listed = [("Content-Type", "application/json"), *headers]
    return Answer(status, listed, msgspec.json.encode(value))
