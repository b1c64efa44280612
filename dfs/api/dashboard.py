"""`/admin/rq`: the dashboard of the queue, an application of its own inside this one.

It has no protection against requests that other sites make a browser send; that is here. Who may
use it is settled before, as for any route. Importing it takes 0.3 s and 34 MB, so that is left to
the first request for it.
"""

from __future__ import annotations

import threading
from typing import cast

from flask import Flask, Response, request
from werkzeug.exceptions import NotFound

from dfs.api.dashboard_pages import make_pages_safe
from dfs.api.errors import (
    handle_dfs_error,
    handle_http_exception,
    install_error_handlers,
)
from dfs.api.origin import refuse_other_sites
from dfs.api.responses import Answer
from dfs.queue.dashboard import forbid_pickle, is_absent, limit_waiting, translate

PREFIX = "/admin/rq"
_CHANGES_BY_GET = "rq_dashboard.requeue_all"


class Dashboard:
    """The dashboard, made when it is first asked for."""

    def __init__(self, *, redis_url: str) -> None:
        self._redis_url = redis_url
        self._app: Flask | None = None
        self._lock = threading.Lock()

    def install(self, app: Flask) -> None:
        """Serve it below `PREFIX`."""
        rules = ((PREFIX, "rq_begin"), (f"{PREFIX}/", "rq_home"), (f"{PREFIX}/<path:path>", "rq"))
        for rule, endpoint in rules:
            app.add_url_rule(rule, endpoint, self._answer, methods=["GET", "POST"])

    def _answer(self, path: str = "") -> Response:
        environ = request.environ
        inner_path = environ["PATH_INFO"].removeprefix(PREFIX)
        if not inner_path:
            return Answer(308, [("Location", f"{PREFIX}/")], b"")
        inside = {
            **environ,
            "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + PREFIX,
            "PATH_INFO": inner_path,
        }
        return cast("Response", Response.from_app(self._find_app(), inside))

    def _find_app(self) -> Flask:
        with self._lock:
            if self._app is None:
                self._app = _make_app(self._redis_url)
        return self._app


def _make_app(redis_url: str) -> Flask:
    """Return the application of the dashboard. Connects to nothing yet."""
    forbid_pickle()
    from rq_dashboard.web import blueprint, setup_rq_connection  # noqa: PLC0415

    app = Flask("rq_dashboard")
    app.config["RQ_DASHBOARD_REDIS_URL"] = limit_waiting(redis_url)
    setup_rq_connection(app)
    app.register_blueprint(blueprint)
    app.before_request(_refuse_other_sites)
    make_pages_safe(app)
    install_error_handlers(app)
    app.register_error_handler(Exception, _handle_error)
    return app


def _refuse_other_sites() -> None:
    refuse_other_sites(request.environ, is_change=request.endpoint == _CHANGES_BY_GET)


def _handle_error(error: Exception) -> Answer:
    if is_absent(error):
        return handle_http_exception(NotFound("The queue has nothing of that name."))
    return handle_dfs_error(translate(error))
