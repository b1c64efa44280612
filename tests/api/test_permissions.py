"""Which scope each route needs."""

from __future__ import annotations

import re
from typing import Any

from flask import Flask

from dfs.api.permissions import ADMIN, NEEDED, PUBLIC, SOMEBODY, find_needed
from dfs.core.access import ALL_SCOPES, Scope
from dfs.wiring import Services
from tests.api.conftest import MakeApp
from tests.api.keys import bearer_of, make_key

SETTINGS = {"REDIS_URL": "redis://127.0.0.1:1"}
_METHODS_AUTOMATIC = {"HEAD", "OPTIONS"}


def routes_of(app: Flask) -> set[tuple[str, str]]:
    """Return (rule, method) of all that the application answers."""
    return {
        (rule.rule, method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - _METHODS_AUTOMATIC
    }


def test_every_route_is_in_the_table_and_nothing_else_is(make_app: MakeApp) -> None:
    """A route that somebody adds has to be given its scope."""
    listed = {(rule, method) for rule, methods in NEEDED.items() for method in methods}
    assert listed == routes_of(make_app(**SETTINGS))


def test_all_below_admin_and_the_metrics_need_the_scope_admin() -> None:
    """And only what watchers need is public."""
    for rule, methods in NEEDED.items():
        if rule.startswith("/admin") or rule == "/metrics":
            assert set(methods.values()) == {ADMIN}, rule
    public = {rule for rule, methods in NEEDED.items() if PUBLIC in methods.values()}
    assert public == {"/health", "/ready"}


def test_route_that_is_not_in_the_table_needs_everything() -> None:
    """Forgetting one closes it."""
    assert find_needed("/forgotten", "GET") == ALL_SCOPES
    assert find_needed("/files", "PUT") == ALL_SCOPES
    assert find_needed("/files", "HEAD") == Scope.READ
    assert find_needed("/files", "OPTIONS") == SOMEBODY


def test_each_route_asks_for_the_scope_of_the_table(make_app: MakeApp) -> None:
    """Strangers get 401, a key without the scope 403, the key with it neither."""
    app = make_app(**SETTINGS)
    client = app.test_client()
    services = app.extensions["dfs"].services
    keys = {scopes: bearer_of(make_key(services, scopes)) for scopes in range(1, ALL_SCOPES + 1)}
    for rule, method, needed in [
        (rule, *entry) for rule, methods in NEEDED.items() for entry in methods.items()
    ]:
        path = re.sub("<[^>]+>", "01K00000000000000000000000", rule)
        if needed == PUBLIC:
            assert client.open(path, method=method).status_code in (200, 503)
            continue
        answer: Any = client.open(path, method=method)
        assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
        assert answer.headers.getlist("WWW-Authenticate") == [
            'Bearer realm="dfs"',
            'Basic realm="dfs", charset="UTF-8"',
        ]
        if needed:
            other = keys[ALL_SCOPES & ~needed]
            refused: Any = client.open(path, method=method, headers=other)
            assert (refused.status_code, refused.json["code"]) == (403, "forbidden"), path
        with client.open(path, method=method, headers=keys[needed or 1]) as allowed:
            assert allowed.status_code not in (401, 403, 500), path


def test_expiry_of_a_file_that_is_there_is_set_only_by_who_may_delete(make_app: MakeApp) -> None:
    """Else whoever may only write could have every file gone a second later."""
    app = make_app()
    services: Services = app.extensions["dfs"].services
    writer = bearer_of(make_key(services, Scope.WRITE))
    both = bearer_of(make_key(services, Scope.WRITE | Scope.DELETE))
    client = app.test_client()
    stored: Any = client.post("/upload?name=a&ttl_s=3600", data=b"hello", headers=writer)
    path, later = stored.headers["Location"], {"expires_at": "2999-01-01T00:00:00Z"}
    assert client.patch(path, json=later, headers=writer).status_code == 403
    assert client.patch(path, json=later, headers=both).status_code == 200
    kept: Any = client.patch(path, json={"expires_at": None, "name": "b"}, headers=writer)
    assert (kept.status_code, kept.json["expires_at"]) == (200, None)
