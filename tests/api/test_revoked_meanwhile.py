"""Requests that take their time are good for no longer than the key that they came with."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from dfs.core.access import OPERATOR
from dfs.core.errors import MetadataError
from dfs.services import keyring
from dfs.wiring import Services
from tests.api.conftest import MakeApp
from tests.api.keys import bearer_of, make_key

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="late"\r\n\r\nhello\r\n--b--\r\n'
)


class Interrupted(BytesIO):
    """A body in the middle of which something happens.

    Args:
        happen: does it.
    """

    def __init__(self, data: bytes, happen: Callable[[], None]) -> None:
        super().__init__(data)
        self._happen = happen

    def readinto(self, buffer: Any) -> int:
        """Read one byte, and the rest after that."""
        if self.tell() == 1:
            self._happen()
        return super().readinto(buffer if self.tell() else memoryview(buffer)[:1])


class TestKeyRevokedMeanwhile:
    """While it is in use."""

    @pytest.fixture(autouse=True)
    def _make_parts(self, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
        app = make_app()
        self.client = app.test_client()
        self.services: Services = app.extensions["dfs"].services
        self.moment = [1000.0]
        monkeypatch.setattr(self.services.keyring, "_clock", lambda: self.moment[0])
        make_key(self.services)
        self.key = make_key(self.services)

    def revoke(self) -> None:
        """Revoke the key, and wait until all processes know."""
        self.services.keys.revoke(self.key.key.id, caller=OPERATOR)
        self.moment[0] += keyring.AGE_S_MAX

    @pytest.mark.parametrize("kind", ["raw", "form", "signed"])
    def test_upload_is_not_stored(self, kind: str) -> None:
        """However late its body ends."""
        path, body, headers = "/upload?name=late", b"hello", bearer_of(self.key)
        if kind == "form":
            path, body = "/upload", FORM
            headers |= {"Content-Type": "multipart/form-data; boundary=b"}
        elif kind == "signed":
            asked = {"name": "late", "bytes_max": 5}
            signed: Any = self.client.post("/signed-urls", json=asked, headers=headers)
            path, headers = signed.json["url"], {}
        stream = Interrupted(body, self.revoke)
        length = str(len(body))
        answer = self.client.post(
            path, input_stream=stream, headers=headers | {"Content-Length": length}
        )
        assert answer.status_code == 401
        assert not self.services.files.list(limit=1).files

    @pytest.mark.parametrize("ranges", [None, "bytes=0-9,2000000-3000000"])
    def test_download_ends(self, ranges: str | None) -> None:
        """What is in hand may be sent; nothing more is."""
        large = bytes(3 << 20)
        stored = self.client.post("/upload?name=a", data=large, headers=bearer_of(self.key))
        headers = bearer_of(self.key) | ({"Range": ranges} if ranges else {})
        response = self.client.get(f"/download/{stored.json['id']}", headers=headers)  # type: ignore[index]
        pieces = iter(response.response)
        next(pieces)
        self.revoke()
        with pytest.raises(OSError, match="may not have"):
            next(pieces)

    def test_download_goes_on_while_the_index_is_away(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its bytes can be read without."""
        large = bytes(3 << 20)
        stored = self.client.post("/upload?name=a", data=large, headers=bearer_of(self.key))
        path = f"/download/{stored.json['id']}"  # type: ignore[index]
        response = self.client.get(path, headers=bearer_of(self.key))

        def fail(key_id: str) -> None:
            raise MetadataError("The index does not answer.")

        monkeypatch.setattr(self.services.keyring, "find", fail)
        assert sum(map(len, response.response)) == len(large)  # type: ignore[arg-type]


def test_upload_of_nobody_is_not_stored_once_there_is_a_key(make_app: MakeApp) -> None:
    """Whoever began before is nobody's guest any more."""
    app = make_app()
    services: Services = app.extensions["dfs"].services
    moment = [1000.0]

    def close_node() -> None:
        make_key(services)
        moment[0] += keyring.AGE_S_MAX

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services.keyring, "_clock", lambda: moment[0])
        stream = Interrupted(b"hello", close_node)
        answer = app.test_client().post(
            "/upload?name=late", input_stream=stream, headers={"Content-Length": "5"}
        )
    assert answer.status_code == 401
