"""What the program knows of traces: where a span begins and ends, whoever may be told of it.

The layers below `dfs.telemetry` never see the library that records spans. They are handed `Spans`,
which by default are nobody's.

Source: W3C Trace Context.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ParamSpec, Protocol, TypeVar

TRACE_ID_KEY = "dfs.trace_id"
"""The environment of a request has the id of its trace, if it has one."""
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""How a span is named to another process."""

Attribute = str | int | float | bool
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Span(Protocol):
    """A piece of work that takes time."""

    def note(self, **attributes: Attribute) -> None:
        """Say more of it."""


class Spans(Protocol):
    """Who is told of pieces of work. Every method is thread-safe, quick, and raises nothing."""

    def here(self) -> object | None:
        """Return the span that the caller is in, for `origins`; None if it is in none."""

    def carry(self) -> str | None:
        """Return its name for another process or thread, a `TRACEPARENT`; None if there is none."""

    def span(
        self,
        name: str,
        *,
        origins: Sequence[object] | None = None,
        carried: str | None = None,
        **attributes: Attribute,
    ) -> AbstractContextManager[Span]:
        """Have a span as long as the block; what is begun inside it belongs to it.

        Args:
            origins: it is a part of the first of these, and linked with the others; of none if they
                are none. By default it is a part of the span that the caller is in.
            carried: it is a part of this one, of another process; junk is ignored.
            attributes: of `dfs.`; units are in their names.
        """


class _Nobody:
    """A span that nobody is told of."""

    def __enter__(self) -> _Nobody:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def note(self, **attributes: Attribute) -> None:
        """Tell nobody."""


_NOBODY = _Nobody()


class _NoSpans:
    def here(self) -> object | None:
        return None

    def carry(self) -> str | None:
        return None

    def span(
        self,
        name: str,
        *,
        origins: Sequence[object] | None = None,
        carried: str | None = None,
        **attributes: Attribute,
    ) -> AbstractContextManager[Span]:
        return _NOBODY


NO_SPANS: Spans = _NoSpans()


def in_context(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function that other threads may call as if the calling one did.

    What it logs has the same ids, and its spans belong to the same one.
    """
    context = contextvars.copy_context()

    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return context.copy().run(call, *args, **kwargs)  # a context is one thread's at a time

    return run
