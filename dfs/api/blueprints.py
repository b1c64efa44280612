"""Blueprints whose arguments are parsed strictly, and the pieces that document them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import wraps
from typing import Any, NoReturn, TypeVar, cast

import flask_smorest  # type: ignore[import-untyped]
from flask import Request, request
from marshmallow import RAISE, Schema, ValidationError
from webargs.core import is_json
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import UnsupportedMediaType

from dfs.api.schemas import (
    NoQuerySchema,
    decode_json,
    flatten_messages,
    load_checked,
    parse_query,
)
from dfs.api.streams import read_small_body
from dfs.core.errors import InvalidRequestError

JSON_BYTES_MAX = 1 << 20
_NO_LENGTH = (None, "", "0")
_NO_QUERY = NoQuerySchema()

View = TypeVar("View", bound=Callable[..., Any])


def read_json(req: Request, *, is_optional: bool = False) -> object:
    """Return the value of a JSON body; an empty object if there may be no body, and there is none.

    Raises:
        UnsupportedMediaType: the body is of another type.
        InvalidRequestError: it is no JSON.
        TooLargeError: it has more than `JSON_BYTES_MAX` bytes.
    """
    environ = req.environ
    is_sent = "HTTP_TRANSFER_ENCODING" in environ or environ.get("CONTENT_LENGTH") not in _NO_LENGTH
    if is_optional and not is_sent:
        return {}
    if not is_json(req.mimetype):
        raise UnsupportedMediaType("The body must be application/json.")
    return decode_json(read_small_body(environ, JSON_BYTES_MAX))


class StrictParser(FlaskParser):
    """Refuses unknown and repeated parameters, text that is no UTF-8, bodies of other types."""

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {"query": RAISE, "json": RAISE}  # noqa: RUF012

    def load_querystring(self, req: Request, schema: Schema) -> dict[str, str]:
        """Return the parameters of the query."""
        return parse_query(req.environ)

    def load_json(self, req: Request, schema: Schema) -> object:
        """Return the value of the body."""
        return read_json(req)

    def handle_error(
        self,
        error: ValidationError,
        req: Request,
        schema: Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        """Raise InvalidRequestError naming each offending field."""
        messages: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
        location, inner = next(iter(messages.items()))
        what = "query" if location == "query" else "body"
        raise InvalidRequestError(
            f"The {what} is not valid.", fields=flatten_messages(inner)
        ) from error


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """A blueprint of dfs."""

    ARGUMENTS_PARSER = StrictParser()

    def route(self, rule: str, **options: Any) -> Callable[[View], View]:
        """Register a view."""
        decorator: Callable[[View], View] = super().route(rule, **options)
        return decorator

    def arguments(self, schema: type[Schema], **options: Any) -> Callable[[View], View]:
        """Pass what the schema makes of query or body as first argument to a view."""
        decorator: Callable[[View], View] = super().arguments(schema(), **options)
        return decorator

    @staticmethod
    def without_query(view: View) -> View:
        """Refuse parameters in the query of a view that takes none."""

        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            environ = request.environ
            if environ.get("QUERY_STRING"):
                load_checked(_NO_QUERY, parse_query(environ), "query")
            return view(*args, **kwargs)

        return cast(View, checked)

    @staticmethod
    def doc(**kwargs: Any) -> Callable[[View], View]:
        """Describe a view. The inherited one wraps the view, which costs on every request."""

        def describe(view: View) -> View:
            documented = deepcopy(getattr(view, "_apidoc", {}))
            documented.setdefault("manual_doc", {}).update(kwargs)
            view._apidoc = documented  # type: ignore[attr-defined]
            return view

        return describe
