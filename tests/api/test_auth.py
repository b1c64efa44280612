"""Who asks: keys, their prefixes, and a node that has none."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.api import attempts
from dfs.core.access import OPERATOR, Scope
from dfs.core.clock import now_ms
from dfs.core.signing import format_token
from dfs.services import keyring
from dfs.services.keys import NewKey
from dfs.wiring import Services
from tests.api.conftest import MakeApp
from tests.api.keys import basic, basic_of, bearer, bearer_of, make_key


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An application with a key that nobody uses."""
    app = make_app()
    make_key(services_of(app))
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of it, without a key."""
    return app.test_client()


def services_of(app: Flask) -> Services:
    """Return the services behind an application."""
    services: Services = app.extensions["dfs"].services
    return services


@pytest.fixture
def key(app: Flask) -> NewKey:
    """A key with all scopes."""
    return make_key(services_of(app))


def upload(client: FlaskClient, name: str, **options: Any) -> Any:
    """Upload a few bytes."""
    return client.post("/upload", query_string={"name": name}, data=b"x", **options)


def test_key_is_taken_as_bearer_and_as_basic(client: FlaskClient, key: NewKey) -> None:
    """In any case of the scheme's name."""
    token = format_token(key.key.id, key.secret)
    for headers in (bearer_of(key), basic_of(key), {"Authorization": f"bEARER  {token}"}):
        assert client.get("/files", headers=headers).status_code == 200


def test_credentials_wrong_are_401(
    client: FlaskClient, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with them, and with the same answer."""
    monkeypatch.setattr(attempts, "BURST", 1000)
    token = format_token(key.key.id, key.secret)
    other = key.secret[:-1] + ("A" if key.secret[-1] != "A" else "B")
    wrong = [
        bearer(""),
        bearer("x"),
        bearer(token[:-1]),
        bearer(token + "x"),
        bearer(token.lower()),
        bearer(format_token("0" * 12, key.secret)),
        bearer(format_token(key.key.id, other)),
        bearer("\xe9" * 60),
        basic(key.key.id, ""),
        basic(key.key.id, other),
        basic("", key.secret),
        basic("\0", "\0"),
        {"Authorization": "Basic %%%"},
        {"Authorization": "Basic"},
        {"Authorization": "Digest x"},
        {"Authorization": ""},
        {"Authorization": "x" * 5000},
        {"Authorization": f"Token {token}"},
        {"Authorization": key.key.secret_hash.hex()},
        bearer(format_token(key.key.id, key.key.signing_key.hex())),
    ]
    answers = [client.get("/files", headers=headers) for headers in wrong]
    assert [answer.status_code for answer in answers] == [401] * len(wrong)
    assert len({answer.json["detail"] for answer in answers}) == 1  # type: ignore[index]


def test_key_that_has_expired_is_401(app: Flask, client: FlaskClient) -> None:
    """From the very moment."""
    soon = make_key(services_of(app), expires_at_ms=now_ms() + 3_600_000)
    assert client.get("/files", headers=bearer_of(soon)).status_code == 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyring, "now_ms", lambda: soon.key.expires_at_ms)
        assert client.get("/files", headers=bearer_of(soon)).status_code == 401


def test_key_revoked_is_401_within_a_second(
    app: Flask, client: FlaskClient, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process remembers of it is half a second old at most."""
    moment = [1000.0]
    monkeypatch.setattr(services_of(app).keyring, "_clock", lambda: moment[0])
    assert client.get("/files", headers=bearer_of(key)).status_code == 200
    services_of(app).keys.revoke(key.key.id, caller=OPERATOR)
    moment[0] += keyring.AGE_S_MAX
    assert client.get("/files", headers=bearer_of(key)).status_code == 401
    assert keyring.AGE_S_MAX <= 0.5


def test_key_new_is_good_at_once(app: Flask, client: FlaskClient) -> None:
    """Also if somebody has just tried it in vain."""
    assert client.get("/files").status_code == 401
    assert client.get("/files", headers=bearer_of(make_key(services_of(app)))).status_code == 200


def test_first_key_closes_a_node_in_use(make_app: MakeApp) -> None:
    """Within half a second."""
    app = make_app()
    client = app.test_client()
    moment = [1000.0]
    services_of(app).keyring._clock = lambda: moment[0]
    assert client.get("/files").status_code == 200
    made = make_key(services_of(app))
    moment[0] += keyring.AGE_S_MAX
    assert client.get("/files").status_code == 401
    assert client.get("/files", headers=bearer_of(made)).status_code == 200


FROM_WHERE: list[tuple[str, dict[str, str], int]] = [
    ("127.0.0.1", {}, 200),
    ("localhost", {"Host": "localhost:8000"}, 200),
    ("::1", {"Host": "[::1]:8000"}, 200),
    ("127.0.0.1", {"Host": "127.0.0.2"}, 200),
    ("127.0.0.1", {"Host": "rebound.example"}, 403),
    ("127.0.0.1", {"Host": "localhost.example:8000"}, 403),
    ("127.0.0.1", {"Host": "[::1"}, 403),
    ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
    ("127.0.0.1", {"Forwarded": "for=192.0.2.1"}, 403),
    ("127.0.0.1", basic("admin", "x"), 401),
    ("0.0.0.0", {}, 401),  # noqa: S104
    ("::", {}, 401),
    ("192.0.2.1", {"Host": "localhost"}, 401),
    ("node.example", {}, 401),
]


def test_node_without_keys_is_for_its_own_machine(make_app: MakeApp) -> None:
    """It goes by the address it listens on: behind a proxy all clients seem to be local."""
    client = make_app().test_client()
    for server, headers, status in FROM_WHERE:
        place = {"SERVER_NAME": server}
        answer = client.get("/files", headers=headers, environ_overrides=place)
        assert answer.status_code == status, (server, headers)


FROM_ELSEWHERE = [
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec-Fetch-Site": "same-origin"}, 201),
    ({"Origin": "http://localhost"}, 201),
    ({}, 201),
]


@pytest.mark.parametrize("mode", ["basic", "open", "off"])
def test_writes_of_other_sites_are_refused(make_app: MakeApp, mode: str) -> None:
    """A browser sends what it remembers, or needs nothing: whatever page asks for it."""
    app = make_app(DFS_AUTH="off" if mode == "off" else "on")
    shown = basic_of(make_key(services_of(app))) if mode == "basic" else {}
    for headers, status in FROM_ELSEWHERE:
        answer = upload(app.test_client(), "a", headers=shown | headers)
        assert answer.status_code == status, headers


def test_writes_of_other_sites_with_a_token_are_theirs_to_make(
    client: FlaskClient, key: NewKey
) -> None:
    """No browser adds a token by itself."""
    headers = bearer_of(key) | {"Sec-Fetch-Site": "cross-site"}
    assert upload(client, "a", headers=headers).status_code == 201


def test_auth_off_lets_everybody_do_everything(make_app: MakeApp) -> None:
    """Whatever they show, by whatever name they ask, and with keys there are."""
    app = make_app(DFS_AUTH="off")
    make_key(services_of(app))
    client = app.test_client()
    for headers in ({}, bearer("x"), {"Host": "node.example"}, {"X-Forwarded-For": "::1"}):
        place = {"SERVER_NAME": "0.0.0.0"}  # noqa: S104
        assert (
            client.get("/admin/usage", headers=headers, environ_overrides=place).status_code == 200
        )


def test_watchers_without_a_key_learn_nothing_of_the_node(
    app: Flask, client: FlaskClient, key: NewKey
) -> None:
    """Only that it lives and serves; an administrator sees why."""
    reader = make_key(services_of(app), Scope.READ)
    assert client.get("/health").json == {"status": "ok"}
    for headers in ({}, bearer_of(reader)):
        answer: Any = client.get("/ready", headers=headers)
        assert (answer.status_code, answer.json) == (200, {"status": "ready"})
    told: Any = client.get("/ready", headers=bearer_of(key)).json
    assert set(told) == {"status", "reasons", "disks"}
    assert client.get("/ready", headers=bearer("x")).status_code == 401
    assert client.get("/health", headers=bearer("x")).status_code == 200


class TestPrefix:
    """A key that is good for names beginning with `a/`, beside files of others."""

    @pytest.fixture(autouse=True)
    def files(self, app: Flask, client: FlaskClient, key: NewKey) -> None:
        """Store files, and put one of each kind into the trash."""
        self.client = client
        self.all = bearer_of(key)
        scopes = Scope.READ | Scope.WRITE | Scope.DELETE
        self.mine = bearer_of(make_key(services_of(app), scopes, prefix="a/"))
        self.ids = {
            name: upload(client, name, headers=self.all).json["id"]
            for name in ("a/1", "a/2", "a", "ab", "b/1", "b/2")
        }
        for name in ("a/2", "b/2"):
            client.delete(f"/files/{self.ids[name]}", headers=self.all)

    def names(self, **query: str) -> list[str]:
        """Return what the key lists."""
        answer: Any = self.client.get("/files", query_string=query, headers=self.mine)
        assert answer.status_code == 200
        return [file["name"] for file in answer.json["files"]]

    def test_listings_show_no_other_names(self) -> None:
        """Whatever is asked for."""
        assert self.names() == ["a/1"]
        assert (
            self.names(prefix="a") == self.names(prefix="a/") == self.names(name="a/1") == ["a/1"]
        )
        assert self.names(prefix="a/1") == ["a/1"]
        assert self.names(prefix="b/") == self.names(name="b/1") == self.names(name="a") == []
        assert self.names(prefix="ab") == self.names(prefix="a/9") == []
        assert self.names(deleted="true") == ["a/2"]
        page: Any = self.client.get("/files?limit=1&prefix=a", headers=self.all).json
        assert self.names(after=page["next"]) == ["a/1"]

    def test_files_of_others_are_as_if_they_were_not_there(self) -> None:
        """The answers differ in nothing from those for an id that nobody has."""
        requests: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/download/{}", {}),
            ("HEAD", "/download/{}", {}),
            ("GET", "/files/{}", {}),
            ("PATCH", "/files/{}", {"json": {"name": "a/new"}}),
            ("DELETE", "/files/{}", {"headers": {"If-Match": '"x"'}}),
            ("DELETE", "/files/{}", {}),
            ("POST", "/files/{}/restore", {"headers": {"If-Match": '"x"'}}),
            ("POST", "/files/{}/restore", {}),
        ]
        for method, path, options in requests:
            headers = self.mine | options.pop("headers", {}) | {"X-Request-ID": "same"}
            for name in ("b/1", "b/2", "ab"):
                answers = []
                for file_id in (self.ids[name], "01K00000000000000000000000"):
                    answer = self.client.open(
                        path.format(file_id), method=method, headers=headers, **options
                    )
                    answers.append((answer.status_code, answer.data.replace(file_id.encode(), b"")))
                assert answers[0] == answers[1]
                assert answers[0][0] == 404
        assert self.client.get(f"/files/{self.ids['b/1']}", headers=self.all).json["name"] == "b/1"  # type: ignore[index]

    def test_own_files_can_be_used_in_every_way(self) -> None:
        """Read, change, delete, restore, store."""
        own, trashed = self.ids["a/1"], self.ids["a/2"]
        for method, path, options, status in (
            ("GET", f"/download/{own}", {}, 200),
            ("HEAD", f"/download/{own}", {}, 200),
            ("GET", f"/files/{own}", {}, 200),
            ("PATCH", f"/files/{own}", {"json": {"name": "a/renamed"}}, 200),
            ("DELETE", f"/files/{own}", {}, 204),
            ("POST", f"/files/{trashed}/restore", {}, 200),
        ):
            answer = self.client.open(path, method=method, headers=self.mine, **options)
            assert answer.status_code == status
        assert upload(self.client, "a/3", headers=self.mine).status_code == 201

    def test_names_elsewhere_cannot_be_given(self) -> None:
        """By no way, and whether the name is taken makes no difference."""
        for name in ("b/1", "b/new", "a", "ab", "A/1"):
            self.check_name(name)
        assert self.names() == ["a/1"]

    def check_name(self, name: str) -> None:
        """Try to give a name in every way."""
        asked = [
            upload(self.client, name, headers=self.mine),
            upload(self.client, name, headers=self.mine | {"If-None-Match": "*"}),
            self.client.post("/upload", headers=self.mine, data=_form("a/ok", name)),
            self.client.patch(f"/files/{self.ids['a/1']}", json={"name": name}, headers=self.mine),
        ]
        assert [answer.status_code for answer in asked] == [403] * 4
        assert len({answer.json["detail"] for answer in asked}) == 1

    def test_large_upload_elsewhere_is_refused_before_it_is_received(self) -> None:
        """The name says enough."""
        answer = self.client.post("/upload?name=b/1", headers=self.mine, data=b"x" * (1 << 20))
        assert (answer.status_code, answer.headers["Connection"]) == (403, "close")


def _form(*names: str) -> dict[str, Any]:
    from io import BytesIO

    return {"file": [(BytesIO(b"x"), name) for name in names]}


def test_wrong_credentials_are_slowed_for_their_address_and_key_alone(
    client: FlaskClient, key: NewKey, app: Flask
) -> None:
    """Right ones from elsewhere are answered, and other keys, and what was right before."""
    here, there = {"REMOTE_ADDR": "192.0.2.1"}, {"REMOTE_ADDR": "192.0.2.2"}
    target, other = make_key(services_of(app)), make_key(services_of(app))

    def guess(key_id: str) -> list[int]:
        return [
            client.get("/files", headers=basic(key_id, str(n)), environ_base=here).status_code
            for n in range(attempts.BURST + 5)
        ]

    assert client.get("/files", headers=bearer_of(key), environ_base=here).status_code == 200
    for key_id in ("unknown", target.key.id, key.key.id):
        statuses = guess(key_id)
        assert statuses[: attempts.BURST] == [401] * attempts.BURST
        assert statuses[-1] == 429
    slowed = client.get("/files", headers=bearer_of(target), environ_base=here)
    assert (slowed.status_code, slowed.json["code"]) == (429, "too_many_attempts")  # type: ignore[index]
    assert int(slowed.headers["Retry-After"]) >= 1
    for made, place in ((key, here), (other, here), (target, there)):
        assert client.get("/files", headers=bearer_of(made), environ_base=place).status_code == 200
    assert client.get("/files", environ_base=here).status_code == 401, "nothing was tried"


LATIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=80)
HEADERS = st.one_of(
    LATIN,
    st.builds("{}{}".format, st.sampled_from(["Bearer ", "Basic ", "BEARER dfs_"]), LATIN),
    st.binary(max_size=60).map(lambda data: f"Basic {base64.b64encode(data).decode()}"),
)
SIGNED = st.dictionaries(
    st.sampled_from(["sig", "sig_key", "sig_until", "sig_name", "sig_prefix", "sig_bytes", "name"]),
    st.text(max_size=20),
)


def test_credentials_of_any_form_are_refused_without_a_fault(
    client: FlaskClient, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in header or query: never 500, and nobody gets in by it."""
    monkeypatch.setattr(attempts, "BURST", 1 << 30)

    @given(header=HEADERS, signed=SIGNED)
    @settings(max_examples=150, deadline=None, derandomize=True)
    def check(header: str, signed: dict[str, str]) -> None:
        assert client.get("/files", headers={"Authorization": header}).status_code == 401
        query = urlencode(signed | {"sig_key": key.key.id} if "sig" in signed else signed)
        answer = client.post(f"/upload?{query}", data=b"x")
        assert answer.status_code in (400, 401, 422)

    check()
