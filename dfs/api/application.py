"""Flask without what dfs does not use: a request costs a third less of the processor."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.globals import request_ctx
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter

from dfs.api.access_log import AccessLog
from dfs.api.errors import REQUEST_ID_KEY
from dfs.api.headers import guard_answer
from dfs.api.parking import PARKING_KEY, Course, Parked, begin_course, finish_course
from dfs.api.requests import begin_request
from dfs.core.ulid import UlidFactory

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class NoSession(SessionInterface):
    """dfs keeps no sessions; Flask's own look at cookies on every request."""

    def open_session(self, app: Flask, request: Request) -> SessionMixin:
        """Return what Flask takes for a session and never looks into."""
        return _EMPTY_SESSION

    def is_null_session(self, obj: object) -> bool:
        """Return that there is nothing to save."""
        return True


class _EmptySession(dict[str, Any], SessionMixin):
    """A session that is never written."""


_EMPTY_SESSION = _EmptySession()


class DfsFlask(Flask):
    """Flask with an id for every request, and without signals, sessions, and hooks of blueprints.

    A view may be a generator, see `dfs.api.parking`.

    Functions given to `before_request`, `after_request` and the teardowns of the application itself
    are called as ever; those that belong to a blueprint are not.

    Attributes:
        access_log: told of every request, if anything is.
    """

    session_interface = NoSession()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._request_ids = UlidFactory()
        self.access_log: AccessLog | None = None

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what matches the path. Flask's own parses the Host header, which dfs ignores."""
        if request is None:
            return None
        environ = request.environ
        return MapAdapter(
            self.url_map,
            server_name="",
            script_name=environ.get("SCRIPT_NAME", ""),
            subdomain="",
            url_scheme=environ["wsgi.url_scheme"],
            path_info=request.path,
            default_method=environ["REQUEST_METHOD"],
            query_args=environ.get("QUERY_STRING", ""),
        )

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: no view of dfs is a coroutine, and asking costs on every call."""
        return func

    def wsgi_app(  # type: ignore[override] # see Parked
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes] | Parked:
        """Answer a request; see `dfs.api.parking`."""
        course = self._serve(environ, start_response)
        if self.access_log is not None:
            course = self.access_log.watch(course, environ)
        if PARKING_KEY in environ:
            return begin_course(course)
        # What is said of this request must not be said of the next one of the thread.
        return contextvars.copy_context().run(finish_course, course)

    def _serve(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Course[Iterable[bytes]]:
        """Do what Flask's own `wsgi_app` does."""
        context = self.request_context(environ)
        error: BaseException | None = None
        try:
            try:
                context.push()
                response = yield from self._dispatch()
            except Exception as fault:
                error = fault
                response = self.handle_exception(fault)
            return response(environ, start_response)
        finally:
            context.pop(error)

    def _dispatch(self) -> Course[Response]:
        """Answer a request, its errors included."""
        self._got_first_request = True
        try:
            answer = self.preprocess_request()
            if answer is None:
                answer = self.dispatch_request()
                if isinstance(answer, Generator):
                    answer = yield from answer
        except Exception as error:
            answer = self.handle_user_exception(error)
        return self.process_response(self.make_response(answer))

    def preprocess_request(self) -> Any:
        """Give the request its id before anything else can fail, then ask the hooks."""
        begin_request(request_ctx.request.environ, self._request_ids)
        for hook in self.before_request_funcs.get(None, ()):
            answer = hook()
            if answer is not None:
                return answer
        return None

    def process_response(self, response: Response) -> Response:
        """Put the id into every answer, and what keeps browsers safe; then show it to the hooks."""
        environ = request_ctx.request.environ
        request_id = environ.get(REQUEST_ID_KEY)
        if request_id is not None:
            response.headers.add("X-Request-ID", request_id)
        guard_answer(response.headers, environ)
        for hook in reversed(self.after_request_funcs.get(None, ())):
            response = hook(response)
        return response

    def do_teardown_request(self, exc: BaseException | None = None) -> None:
        """Call the hooks at the end of a request, if there are any."""
        if self.teardown_request_funcs:
            super().do_teardown_request(exc)

    def do_teardown_appcontext(self, exc: BaseException | None = None) -> None:
        """Call the hooks at the very end, if there are any."""
        if self.teardown_appcontext_funcs:
            super().do_teardown_appcontext(exc)
