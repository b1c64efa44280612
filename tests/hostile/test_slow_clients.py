"""Two hundred slow clients stop nobody, and are gone after a bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.slow import median_s, serve_honest, slow_clients
from tests.hostile.target import Target, read_answer, running_target

pytestmark = pytest.mark.integration

SLOW = 200
READERS = 80  # each costs the work of a download first; 200 of them are for `tests.hostile.siege`
HONEST = 8


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A node with as many threads as usual and little patience."""
    settings = {"DFS_CLIENT_GRACE_S": "3", "DFS_HEAD_TIMEOUT_S": "2", "DFS_THREADS": "16"}
    settings["DFS_UPLOADS_PER_CALLER_MAX"] = "0"  # else slow ones from one address are refused
    with running_target(tmp_path_factory.mktemp("slow"), WEB_CONCURRENCY="2", **settings) as node:
        yield node


@pytest.mark.parametrize("kind", ["nothing", "heads", "bodies", "readers"])
def test_slow_clients_stop_nobody(target: Target, kind: str) -> None:
    """Others are served about as fast as without them. Then all are cut off and nothing is left."""
    alone_s = median_s(serve_honest(target, clients=HONEST, seconds=0.4))
    with slow_clients(target, kind, READERS if kind == "readers" else SLOW) as slow:
        taken = serve_honest(target, clients=HONEST, seconds=1.2)
        assert median_s(taken) < 4 * alone_s + 0.02
        assert max(taken) < 2.5
        answers = [read_answer(connection) for connection in slow.connections[::10]]
        assert target.footprint().temporary == 0
    if kind in ("heads", "bodies"):
        assert {(answer.status, answer.problem()["code"]) for answer in answers} == {
            (408, "slow_client")
        }
    elif kind == "readers":
        assert {answer.status for answer in answers} == {200}
    else:
        assert {answer.status for answer in answers} == {0}
    target.check()


def test_connections_too_many_close_the_oldest(tmp_path: Path) -> None:
    """Idle connections cannot use up those that a process keeps."""
    with running_target(tmp_path, WEB_CONCURRENCY="1", DFS_CONNECTIONS_MAX="64") as target:
        with slow_clients(target, "nothing", SLOW) as idle:
            assert len(serve_honest(target, clients=HONEST, seconds=0.2)) > 0
            assert read_answer(idle.connections[0]).status == 0
            assert target.footprint().sockets < 80
        target.check()
