"""The client of the scripts shows its key."""

from __future__ import annotations

import contextlib
import threading

import pytest
from werkzeug.serving import make_server

from dfs.core.signing import format_token
from scripts.client import Client, StatusError
from tests.api.conftest import MakeApp
from tests.api.keys import make_key


def test_client_shows_its_key_with_every_request(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given, or stands in the environment, where no other user of the machine sees it."""
    app = make_app()
    made = make_key(app.extensions["dfs"].services)
    token = format_token(made.key.id, made.secret)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with contextlib.closing(Client(url, connections=1)) as stranger:
            assert stranger.is_alive()
            with pytest.raises(StatusError, match="401"):
                stranger.upload([b"x"], 1, "a")
        with contextlib.closing(Client(url, connections=1, key=token)) as client:
            ids = [client.upload([b"x"], 1, "a", multipart=form).id for form in (False, True)]
            assert client.download(ids[0])[1] == 1
        monkeypatch.setenv("DFS_KEY", token)
        with contextlib.closing(Client(url, connections=1)) as client:
            assert len(list(client.list_files(""))) == 2
            client.delete(ids[0])
            assert len(list(client.list_files(""))) == 1
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
