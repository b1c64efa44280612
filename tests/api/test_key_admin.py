"""`/admin/keys` and `/signed-urls`."""

from __future__ import annotations

import time
from io import BytesIO
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from dfs.api import attempts
from dfs.api.key_spec import KeySchema, KeysSchema, MadeKeySchema, UrlSchema
from dfs.core.access import OPERATOR, Scope
from dfs.core.signing import URL_LIFE_S_MAX, sign_url
from dfs.services import keyring
from dfs.services.keys import NewKey
from dfs.wiring import Services
from tests.api.conftest import MakeApp
from tests.api.keys import basic, bearer, bearer_of, make_key


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An application."""
    return make_app()


@pytest.fixture
def services(app: Flask) -> Services:
    """The services behind it."""
    services: Services = app.extensions["dfs"].services
    return services


@pytest.fixture
def key(services: Services) -> NewKey:
    """A key with all scopes."""
    return make_key(services)


@pytest.fixture
def client(app: Flask, key: NewKey) -> FlaskClient:
    """A client of a node that has a key; without it."""
    return app.test_client()


BODY = {"name": "Jörg", "scopes": ["read", "write", "read"], "prefix": "a/"}


def test_key_made_is_shown_once_and_good_in_both_ways(client: FlaskClient, key: NewKey) -> None:
    """The secret comes in one answer, which nobody may keep."""
    made: Any = client.post("/admin/keys", json=BODY, headers=bearer_of(key))
    assert made.status_code == 201
    assert MadeKeySchema().validate(made.json) == {}
    assert made.headers["Cache-Control"] == "no-store"
    shown = dict(made.json)
    token, secret = shown.pop("token"), shown.pop("secret")
    for headers in (bearer(token), basic(shown["id"], secret)):
        assert client.get("/files", headers=headers).status_code == 200
    described: Any = client.get(made.headers["Location"], headers=bearer_of(key)).json
    assert KeySchema().validate(described) == {}
    assert described | {"last_used_at": None} == shown
    assert (shown["scopes"], shown["prefix"]) == (["read", "write"], "a/")
    assert (shown["created_by"], shown["expired"]) == (key.key.id, False)


def test_keys_are_listed_without_secrets(client: FlaskClient, key: NewKey) -> None:
    """Nor what follows from them; the log as administrators see it has none either."""
    listed = client.get("/admin/keys", headers=bearer_of(key))
    assert KeysSchema().validate(listed.json) == {}
    assert [found["id"] for found in listed.json["keys"]] == [key.key.id]  # type: ignore[index]
    log = client.get("/admin/wal/entries", headers=bearer_of(key))
    assert key.key.id in log.text
    for text in (listed.text, log.text):
        for secret in (key.secret, key.key.secret_hash.hex(), key.key.signing_key.hex()):
            assert secret not in text


WRONG_KEYS: list[tuple[dict[str, object], str]] = [
    ({"name": ""}, "name"),
    ({"name": "a\0"}, "name"),
    ({"scopes": []}, "scopes"),
    ({"scopes": ["fly"]}, "scopes.0"),
    ({"scopes": "read"}, "scopes"),
    ({"scopes": ["admin"]}, "prefix"),
    ({"prefix": "x" * 1025}, "prefix"),
    ({"prefix": "\U0001f5c4" * 1024}, "prefix"),
    ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": 7}, "expires_at"),
    ({"id": "mine"}, "id"),
    ({"secret": "mine"}, "secret"),
]


def test_key_that_cannot_be_is_422(client: FlaskClient, key: NewKey) -> None:
    """And none is made."""
    for change, field in WRONG_KEYS:
        answer: Any = client.post("/admin/keys", json=BODY | change, headers=bearer_of(key))
        assert (answer.status_code, list(answer.json["errors"])) == (422, [field])
    assert len(client.get("/admin/keys", headers=bearer_of(key)).json["keys"]) == 1  # type: ignore[index]


def test_key_revoked_is_gone_and_the_last_stays(client: FlaskClient, key: NewKey) -> None:
    """Deleting it again is 404, deleting the last 409."""
    made: Any = client.post("/admin/keys", json=BODY, headers=bearer_of(key)).json
    path = f"/admin/keys/{made['id']}"
    statuses = [client.delete(path, headers=bearer_of(key)).status_code for _ in range(2)]
    assert statuses == [204, 404]
    last: Any = client.delete(f"/admin/keys/{key.key.id}", headers=bearer_of(key))
    assert (last.status_code, last.json["code"]) == (409, "last_key")
    for strange in ("x", "%00", "%ed%a0%80", "0" * 3000, "../keys"):
        for method in ("GET", "DELETE"):
            answer = client.open(f"/admin/keys/{strange}", method=method, headers=bearer_of(key))
            assert answer.status_code == 404


def test_first_key_can_be_made_by_whoever_is_on_the_machine(make_app: MakeApp) -> None:
    """And is the last thing that anybody may do there."""
    app = make_app()
    client = app.test_client()
    assert client.post("/admin/keys", json={"name": "a", "scopes": ["admin"]}).status_code == 201
    app.extensions["dfs"].services.keyring._is_empty_until_s = 0.0
    assert client.get("/admin/keys").status_code == 401


WRONG_URLS: list[dict[str, object]] = [
    {},
    {"file_id": "x", "name": "y", "bytes_max": 1},
    {"name": "x"},
    {"name": "x", "bytes_max": 0},
    {"name": "a\nb", "bytes_max": 1},
    {"file_id": "x", "bytes_max": 1},
    {"file_id": "x", "ttl_s": URL_LIFE_S_MAX + 1},
    {"file_id": "x", "ttl_s": "60"},
    {"prefix": "a\nb", "bytes_max": 1},
]


class TestSignedUrls:
    """URLs for one download, or for uploads."""

    @pytest.fixture(autouse=True)
    def files(self, client: FlaskClient, key: NewKey) -> None:
        """Store two files."""
        self.client, self.key = client, key
        self.ids = [self.store(name)["id"] for name in ("a/1", "b/1")]

    def store(self, name: str) -> Any:
        """Store a file named like its contents."""
        return self.client.post(
            f"/upload?name={name}", data=name.encode(), headers=bearer_of(self.key)
        ).json

    def sign(self, key: NewKey | None = None, **body: object) -> Any:
        """Have a URL signed."""
        return self.client.post("/signed-urls", json=body, headers=bearer_of(key or self.key))

    def url(self, key: NewKey | None = None, **body: object) -> str:
        """Return such a URL."""
        answer = self.sign(key, **body)
        assert answer.status_code == 201
        assert UrlSchema().validate(answer.json) == {}
        return str(answer.json["url"])

    def test_download_is_good_for_that_file_alone(self) -> None:
        """In whole, in ranges, its head; nothing else."""
        url = self.url(file_id=self.ids[0])
        assert self.client.get(url).data == b"a/1"
        assert self.client.get(url, headers={"Range": "bytes=1-"}).data == b"/1"
        assert self.client.head(url).status_code == 200
        for method, path in (
            ("GET", f"/download/{self.ids[1]}"),
            ("GET", f"/files/{self.ids[0]}"),
            ("DELETE", f"/files/{self.ids[0]}"),
            ("GET", "/files"),
            ("POST", "/upload"),
            ("POST", "/signed-urls"),
            ("GET", "/admin/keys"),
        ):
            answer = self.client.open(f"{path}?{url.partition('?')[2]}", method=method)
            assert answer.status_code == 401, path

    def test_download_beside_credentials_of_a_browser_works(self) -> None:
        """It sends what it remembers, right or wrong."""
        url = self.url(file_id=self.ids[0])
        assert self.client.get(url, headers=basic("x", "y")).status_code == 200

    def test_upload_is_good_for_its_name_and_size(self) -> None:
        """Raw, without saying the name again, or as a form."""
        url = self.url(name="up", bytes_max=5)
        assert self.client.post(url, data=b"12345").json["name"] == "up"  # type: ignore[index]
        assert self.client.post(f"{url}&name=up&ttl_s=60", data=b"1").status_code == 201
        form = {"file": (BytesIO(b"12345"), "whatever.txt")}
        assert self.client.post(url, data=form).json["name"] == "up"  # type: ignore[index]
        assert self.client.post(url, data=b"123456").status_code == 413
        assert self.client.post(f"{url}&name=other", data=b"1").status_code == 403
        large = {"file": (BytesIO(b"123456"), "up")}
        assert self.client.post(url, data=large).status_code == 413

    def test_upload_is_good_for_its_prefix(self) -> None:
        """Each client chooses the rest of the name."""
        url = self.url(prefix="in/", bytes_max=5)
        assert self.client.post(f"{url}&name=in/x", data=b"1").status_code == 201
        assert self.client.post(f"{url}&name=out/x", data=b"1").status_code == 403
        form = {"file": [(BytesIO(b"1"), "in/a"), (BytesIO(b"2"), "elsewhere")]}
        assert self.client.post(url, data=form).status_code == 403
        assert self.client.post(url, data=b"1").status_code == 422

    def test_url_ends_with_its_time_and_with_its_key(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whichever ends first."""
        passing = make_key(services, Scope.READ)
        url = self.url(passing, file_id=self.ids[0], ttl_s=100)
        assert self.client.get(url).status_code == 200
        with monkeypatch.context() as later:
            later.setattr("dfs.api.auth.now_ms", lambda: int(1000 * (time.time() + 101)))
            answer: Any = self.client.get(url)
            assert (answer.status_code, answer.json["detail"]) == (
                401,
                "The signed URL has expired.",
            )
        services.keys.revoke(passing.key.id, caller=OPERATOR)
        moment_s = services.keyring._clock() + keyring.AGE_S_MAX
        monkeypatch.setattr(services.keyring, "_clock", lambda: moment_s)
        assert self.client.get(url).status_code == 401

    def test_key_signs_only_what_it_may_do(self, services: Services) -> None:
        """Its scopes and its prefix; what it does not see is not there."""
        reader = make_key(services, Scope.READ, prefix="a/")
        writer = make_key(services, Scope.WRITE, prefix="a/")
        assert self.client.get(self.url(reader, file_id=self.ids[0])).status_code == 200
        assert self.sign(reader, file_id=self.ids[1]).status_code == 404
        assert self.sign(writer, file_id=self.ids[0]).status_code == 403
        assert self.sign(reader, name="a/x", bytes_max=1).status_code == 403
        assert self.sign(writer, name="b/x", bytes_max=1).status_code == 403
        assert self.sign(writer, prefix="b/", bytes_max=1).status_code == 403
        assert self.sign(writer, prefix="", bytes_max=1).status_code == 403
        url = self.url(writer, prefix="a/in/", bytes_max=1)
        assert self.client.post(f"{url}&name=a/in/x", data=b"1").status_code == 201
        assert self.client.post(f"{url}&name=a/x", data=b"1").status_code == 403

    def test_key_cannot_sign_offline_what_it_may_not_do(self, services: Services) -> None:
        """The node holds what is signed against the key, whoever has signed it."""
        writer = make_key(services, Scope.WRITE, prefix="a/")
        until_s = int(time.time()) + 60

        def sign(method: str, path: str, **restrictions: str) -> str:
            return sign_url(
                writer.key.id,
                writer.key.signing_key,
                method=method,
                path=path,
                until_s=until_s,
                restrictions=restrictions,
            )

        assert self.client.get(sign("GET", f"/download/{self.ids[0]}")).status_code == 403
        for method, path in (("GET", "/files"), ("POST", f"/files/{self.ids[0]}/restore")):
            assert self.client.open(sign(method, path), method=method).status_code == 401
        for restrictions, status in (
            ({"sig_prefix": "b/", "sig_bytes": "9"}, 403),
            ({"sig_prefix": "", "sig_bytes": "9"}, 403),
            ({"sig_name": "b/x", "sig_bytes": "9"}, 403),
            ({"sig_prefix": "a/", "sig_name": "a/x", "sig_bytes": "9"}, 401),
            ({"sig_prefix": "a/"}, 401),
            ({"sig_prefix": "a/", "sig_bytes": "0"}, 401),
            ({"sig_prefix": "a/", "sig_bytes": "-1"}, 401),
            ({"sig_bytes": "9"}, 401),
            ({}, 403),
            ({"sig_prefix": "a/", "sig_bytes": "9"}, 201),
        ):
            url = sign("POST", "/upload", **restrictions)
            answer = self.client.post(f"{url}&name=a/x", data=b"1")
            assert answer.status_code == status, restrictions
        reader = make_key(services, Scope.READ)
        url = sign_url(
            reader.key.id,
            reader.key.signing_key,
            method="POST",
            path="/upload",
            until_s=until_s,
            restrictions={"sig_prefix": "", "sig_bytes": "9"},
        )
        assert self.client.post(f"{url}&name=a", data=b"1").status_code == 403
        until_s += URL_LIFE_S_MAX
        assert self.client.get(sign("GET", f"/download/{self.ids[0]}")).status_code == 401

    def test_url_changed_anywhere_is_401(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each parameter, the path, the method, the signature; missing, longer or repeated."""
        monkeypatch.setattr(attempts, "BURST", 1 << 20)
        url = self.url(prefix="in/", bytes_max=5) + "&name=in/x"
        path, _, query = url.partition("?")
        pairs = query.split("&")
        changed = [
            f"{path}?{'&'.join([*pairs[:place], other, *pairs[place + 1 :]])}"
            for place, pair in enumerate(pairs)
            if pair.startswith("sig")
            for other in (f"{pair}0", pair[:-1], f"{pair.partition('=')[0]}=", "x=1")
            if (pair[:4], other) != ("sig=", "x=1")
        ]
        for other in changed:
            assert self.client.post(other, data=b"1").status_code == 401, other
        assert self.client.post(f"{url}&sig=x", data=b"1").status_code == 422
        assert self.client.post(f"{url}&sig_other=x", data=b"1").status_code == 422
        unsigned = "&".join(pair for pair in pairs if not pair.startswith("sig="))
        assert self.client.post(f"{path}?{unsigned}", data=b"1").status_code == 401
        for strange in ("%00", "%ff", "\xe9", "%ed%a0%80", "0" * 4000):
            answer = self.client.post(
                f"{path}?name=in/x&sig_key={strange}&sig={strange}", data=b"1"
            )
            assert answer.status_code in (400, 401, 422)
        assert self.client.post(url, data=b"1").status_code == 201

    def test_wrong_signatures_are_slowed(self) -> None:
        """Like wrong secrets; right ones are not, whoever else knows the id of the key."""
        url = self.url(file_id=self.ids[0])
        statuses = [self.client.get(f"{url}{n}").status_code for n in range(attempts.BURST + 2)]
        assert (statuses[0], statuses[-1]) == (401, 429)
        assert self.client.get(url).status_code == 200
        assert self.client.get("/files", headers=bearer_of(self.key)).status_code == 200

    def test_request_invalid_is_422(self) -> None:
        """Naming what is wrong."""
        for body in WRONG_URLS:
            assert self.sign(**body).status_code == 422, body

    def test_last_use_of_the_key_is_told(self, services: Services) -> None:
        """Also when only its URLs were used."""
        reader = make_key(services, Scope.READ)
        url = self.url(reader, file_id=self.ids[0])
        assert self.client.get(url).status_code == 200
        assert reader.key.id in services.keyring._noted_ms


def test_whoever_has_no_key_cannot_sign(make_app: MakeApp) -> None:
    """A node without keys has nothing that a URL would be checked against."""
    answer: Any = make_app().test_client().post("/signed-urls", json={"prefix": "", "bytes_max": 1})
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")


def test_auth_off_takes_signed_urls_for_plain_ones(make_app: MakeApp) -> None:
    """Those that clients still have go on working."""
    client = make_app(DFS_AUTH="off").test_client()
    assert client.post("/upload?name=a&sig=x&sig_key=y", data=b"1").status_code == 201
