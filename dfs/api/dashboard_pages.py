"""Pages of rq-dashboard, made safe: nothing that stands in them is run but what came with them.

Its templates put names of queues, workers and jobs, results and errors into scripts and into HTML
as they are. Those come from Redis, which is not trusted, and from the address of a page, which
another site may choose. So the templates are changed as they are read: what is put in is always
escaped, and each script has a nonce, without which the browser runs none.

Source: Content Security Policy Level 3; https://underscorejs.org/#template.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import cast

from flask import Flask, Response, g, request
from jinja2 import BaseLoader, Environment
from werkzeug.exceptions import NotFound

from dfs.queue.dashboard import is_job_id

REGISTRIES = frozenset(
    ("queued", "scheduled", "deferred", "started", "finished", "failed", "canceled")
)
JOBS_PER_PAGE_MAX = 1000
_PAGE_MAX = 1_000_000_000
_CHANGES = (("<%=", "<%-"), ("<script", '<script nonce="{{ nonce() }}"'))
"""Underscore's mark for a text put in as it is, and the one for a text that is escaped."""
_HEADERS = {
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    # Templates become functions by eval. Not self: clients store files here, scripts among them.
    "script-src 'nonce-{nonce}' 'unsafe-eval'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

_Source = tuple[str, str | None, Callable[[], bool] | None]


class _EscapingLoader(BaseLoader):
    """Reads templates, and has them escape what they put in."""

    def __init__(self, loader: BaseLoader) -> None:
        self._loader = loader

    def get_source(self, environment: Environment, template: str) -> _Source:
        """Return the source, changed, where it is from, and whether it is still the same."""
        source, path, is_current = self._loader.get_source(environment, template)
        for old, new in _CHANGES:
            source = source.replace(old, new)
        return source, path, is_current


def make_pages_safe(app: Flask) -> None:
    """Have the pages of `app`, which is the dashboard, run nothing that is put into them."""
    jinja = app.jinja_env
    jinja.loader = _EscapingLoader(cast("BaseLoader", jinja.loader))
    jinja.autoescape = True  # Flask's own choice goes by the file's name: scripts were left out
    jinja.globals["nonce"] = _nonce
    app.before_request(_require_sane_arguments)
    app.after_request(_secure)


def _nonce() -> str:
    """Return what marks the scripts of the answer to this request."""
    if "nonce" not in g:
        g.nonce = secrets.token_urlsafe(16)
    return cast("str", g.nonce)


def _require_sane_arguments() -> None:
    """Raise NotFound for a page that cannot be: the dashboard would fail to make it."""
    given = request.view_args or {}
    try:
        per_page, page = int(given.get("per_page", 1)), int(given.get("page", 1))
    except ValueError:
        per_page = page = 0
    is_sane = 0 < per_page <= JOBS_PER_PAGE_MAX and 0 < page <= _PAGE_MAX
    is_sane = is_sane and given.get("registry_name", "queued") in REGISTRIES
    if not is_sane or not is_job_id(given.get("job_id", "-")):
        raise NotFound("The queue has no such page.")


def _secure(response: Response) -> Response:
    response.headers.extend(_HEADERS)
    response.headers["Content-Security-Policy"] = _POLICY.format(nonce=_nonce())
    return response
