"""Redis must be reached over TLS, and taken for it without a good certificate only if told to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.core.config import load_config
from dfs.core.errors import QueueError
from dfs.queue import rq_queue
from dfs.queue.rq_queue import RqQueue
from scripts.embedded_redis import free_port
from scripts.supervisor import start_child, stop_children
from tests.project.chaos_clients import wait_until

CERTIFICATE = Path(__file__).parents[1] / "data/tls/cert.pem"


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """The address of a server that speaks TLS alone, with the certificate of the tests."""
    port = free_port()
    command = ["redis-server", "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"]
    command += ["--tls-cert-file", str(CERTIFICATE), "--tls-auth-clients", "no", "--save", ""]
    command += ["--tls-key-file", str(CERTIFICATE.with_name("key.pem")), "--requirepass", "secret"]
    child = start_child("redis", command, environ=os.environ, directory=tmp_path)
    try:
        yield f"rediss://:secret@127.0.0.1:{port}"
    finally:
        stop_children([child])


def answers(settings: dict[str, str]) -> bool:
    """Tell whether the queue of these settings answers."""
    url = load_config(settings, env_file="").redis_url
    assert url is not None
    queue = RqQueue(url=url, name="test")
    try:
        queue.check()
    except QueueError:
        return False
    finally:
        queue.close()
    return True


def test_queue_over_tls_takes_any_certificate_only_if_told_to(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heroku's are self-signed; one's own may be named in the address instead."""
    monkeypatch.setattr(rq_queue, "ANSWER_TIMEOUT_S", 10)  # for machines under load
    assert wait_until(
        lambda: answers({"REDIS_URL": redis_url, "DFS_REDIS_VERIFY": "off"}), timeout_s=30
    )
    assert not answers({"REDIS_URL": redis_url})
    assert answers({"REDIS_URL": f"{redis_url}?ssl_ca_certs={CERTIFICATE}"})
