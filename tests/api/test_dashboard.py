"""The dashboard of the queue: what it shows, and to whom."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from dfs.core.access import OPERATOR, Scope
from dfs.queue.rq_queue import name_job, queue_name
from dfs.services.hints import REPLICATE
from dfs.wiring import Services
from tests.api.conftest import MakeApp
from tests.api.keys import basic_of, make_key
from tests.redis_server import RedisServer, running_redis

HOME = "/admin/rq/"


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A queue server for the tests of this file."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(make_app: MakeApp, redis_server: RedisServer) -> FlaskClient:
    """Return a client, on the machine of the node, of a node whose queue is empty."""
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
    return make_app(REDIS_URL=redis_server.url).test_client()


def services_of(client: FlaskClient) -> Services:
    """Return the services behind a client."""
    services: Services = client.application.extensions["dfs"].services
    return services


def add_failed_job(url: str) -> str:
    """Put a job into the queue's list of those that failed. Returns its path in the dashboard."""
    with Redis.from_url(url) as redis:
        queue = Queue("dfs-test", connection=redis, serializer=JSONSerializer)
        job = queue.enqueue_call("workers.jobs.nothing", job_id="failed-1")
        queue.remove(job)
        queue.failed_job_registry.add(job, ttl=60, exc_string="broken")
    return "/admin/rq/requeue/dfs-test"


def count_queued(url: str) -> int:
    """Return how many jobs wait in that queue."""
    with Redis.from_url(url) as redis:
        return Queue("dfs-test", connection=redis, serializer=JSONSerializer).count


def test_dashboard_shows_the_jobs_of_the_node(client: FlaskClient) -> None:
    """Pages, their files and their data come from below the prefix."""
    services = services_of(client)
    REPLICATE.enqueue(services.queue, "replica1")
    page = client.get(HOME)
    assert page.status_code == 200
    assert "/admin/rq/static/js/jquery" in page.text
    assert page.headers["X-Request-ID"]
    for name in ("Content-Security-Policy", "X-Frame-Options"):
        assert page.headers[name]
    with client.get("/admin/rq/static/css/main.css") as asset:
        assert (asset.status_code, asset.mimetype) == (200, "text/css")
    (queue,) = client.get("/admin/rq/0/data/queues.json").get_json()["queues"]
    assert queue["count"] == 1
    data: Any = client.get(f"/admin/rq/0/data/jobs/{queue['name']}/queued/8/asc/1.json").get_json()
    job_id = name_job(queue["name"], "replicate-replica1")
    assert [job["id"] for job in data["jobs"]] == [job_id]
    job: Any = client.get(f"/admin/rq/0/data/job/{job_id}.json").get_json()
    assert (job["status"], job["origin"]) == ("queued", queue["name"])
    assert client.get("/admin/rq/0/view/workers").status_code == 200
    assert client.get("/admin/rq/0/data/workers.json").get_json() == {"workers": []}


def test_dashboard_begins_with_a_slash(client: FlaskClient) -> None:
    """Its links are relative to that."""
    response = client.get("/admin/rq")
    assert (response.status_code, response.headers["Location"]) == (308, "/admin/rq/")


def test_dashboard_without_a_queue_is_not_there(make_app: MakeApp) -> None:
    """There is nothing to show."""
    assert make_app().test_client().get(HOME).status_code == 404


def test_dashboard_is_imported_when_it_is_asked_for(tmp_path: Path) -> None:
    """An application that nobody asks for it does not pay for it."""
    code = (
        "import sys\n"
        "from dfs.app import create_app\n"
        "client = create_app().test_client()\n"
        "client.get('/health')\n"
        "assert not [name for name in sys.modules if name.startswith(('rq_dashboard', 'arrow'))]\n"
        "client.get('/admin/rq/static/css/main.css')\n"
        "assert 'rq_dashboard' in sys.modules\n"
    )
    environ = {
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "REDIS_URL": "redis://127.0.0.1:1",
        "WAL_PATH": str(tmp_path / "wal"),
    }
    subprocess.run([sys.executable, "-c", code], env=environ, cwd=tmp_path, check=True, timeout=60)


def test_dashboard_never_reads_pickle(client: FlaskClient, redis_server: RedisServer) -> None:
    """Whoever can write to Redis must not thereby run code in this process."""

    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return pytest.fail, ("a pickle was read",)

    with Redis.from_url(redis_server.url) as redis:
        queue = Queue("dfs-test", connection=redis, serializer=JSONSerializer)
        job = queue.enqueue_call("workers.jobs.nothing", job_id="trap")
        redis.hset(job.key, mapping={"data": pickle.dumps(Trap()), "meta": pickle.dumps(Trap())})
    for path in ("view/job/trap", "data/job/trap.json", "data/jobs/dfs-test/queued/8/asc/1.json"):
        assert client.get(f"/admin/rq/0/{path}").status_code in (200, 503)
    for path in ("job/trap/requeue", "job/trap/delete"):
        assert client.post(f"/admin/rq/{path}").status_code in (200, 503)


@pytest.mark.parametrize(
    ("scopes", "status"),
    [(Scope.ADMIN, 200), (Scope.READ | Scope.WRITE | Scope.DELETE, 403), (None, 401)],
)
def test_dashboard_with_keys_is_for_administrators(
    client: FlaskClient, scopes: Scope | None, status: int
) -> None:
    """The first key closes it to everybody else."""
    services = services_of(client)
    services.keys.create(name="other", scopes=Scope.ADMIN, caller=OPERATOR)
    headers = {} if scopes is None else basic_of(make_key(services, scopes))
    assert client.get(HOME, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("method", "headers", "is_done"),
    [
        ("POST", {"Sec-Fetch-Site": "same-origin"}, True),
        ("POST", {"Origin": "http://localhost"}, True),
        ("POST", {}, True),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, False),
        ("POST", {"Sec-Fetch-Site": "same-site"}, False),
        ("POST", {"Origin": "http://localhost.example"}, False),
        ("POST", {"Origin": "null"}, False),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, False),
        ("GET", {"Sec-Fetch-Site": "same-origin"}, True),
        ("GET", {"Sec-Fetch-Site": "none"}, False),
        ("GET", {}, False),
        ("HEAD", {}, False),
    ],
)
def test_dashboard_changes_nothing_for_other_sites(
    client: FlaskClient,
    redis_server: RedisServer,
    method: str,
    headers: dict[str, str],
    is_done: bool,
) -> None:
    """What a page of another site makes a browser send is refused, by GET too."""
    path = add_failed_job(redis_server.url)
    response = client.open(path, method=method, headers=headers)
    assert response.status_code == (200 if is_done else 403)
    assert count_queued(redis_server.url) == is_done


def test_dashboard_shows_pages_to_whoever_comes_from_another_site(client: FlaskClient) -> None:
    """Following a link changes nothing."""
    assert client.get(HOME, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nothing", 404),
        ("0/view/job/absent", 404),
        ("7/view", 404),
        ("0/data/job/absent.json", 404),
    ],
)
def test_dashboard_errors_are_problems(client: FlaskClient, path: str, status: int) -> None:
    """They look like those of all other routes."""
    response: Any = client.get(HOME + path)
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert response.json["request_id"] == response.headers["X-Request-ID"]


def test_dashboard_while_the_queue_is_down_is_503(
    make_app: MakeApp, free_port: Callable[[], int]
) -> None:
    """It says so, and does not wait for long."""
    client = make_app(REDIS_URL=f"redis://127.0.0.1:{free_port()}").test_client()
    response: Any = client.get("/admin/rq/0/data/queues.json")
    assert (response.status_code, response.json["code"]) == (503, "queue")


ATTACK = "');}});evil();$('#x').on('y',function(){if(0){('"
"""As the name of a queue it would leave the text in a script of the page that it is put into."""


def test_dashboard_page_whose_address_holds_a_script_has_it_as_text(client: FlaskClient) -> None:
    """Who follows a link of another site must not run what that site has written."""
    page = quote(f"view/jobs/{ATTACK}/queued/8/asc/1")
    response = client.get(f"{HOME}0/{page}", headers={"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 200
    assert "');}});evil();" not in response.text


@pytest.mark.parametrize("page", ["", "0/view/jobs", "0/view/job/{job}", "0/view/workers"])
def test_dashboard_pages_run_no_script_but_their_own(client: FlaskClient, page: str) -> None:
    """What Redis says is escaped wherever it is put in, and would not be run if it were not."""
    services = services_of(client)
    REPLICATE.enqueue(services.queue, "replica1")
    name = queue_name(cluster_id=services.recovered.cluster_id, node_id=services.config.node_id)
    path = HOME + page.format(job=name_job(name, "replicate-replica1"))
    answers = [client.get(path) for _ in range(2)]
    nonces = set()
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        (nonce,) = re.findall(r"script-src 'nonce-([\w-]{20,})' 'unsafe-eval';", policy)
        nonces.add(nonce)
        assert answer.text.count("<script") == answer.text.count(f'<script nonce="{nonce}"') > 5
        assert "<%=" not in answer.text
    assert len(nonces) == 2


@pytest.mark.parametrize(
    "page",
    [
        "data/jobs/default/queued/0/asc/1.json",
        "data/jobs/default/queued/x/asc/1.json",
        "data/jobs/default/queued/8/asc/0.json",
        "data/jobs/default/queued/8/asc/-1.json",
        "data/jobs/default/none/8/asc/1.json",
        "view/jobs/default/none/8/asc/1",
        "view/job/<img>",
    ],
)
def test_dashboard_page_that_cannot_be_is_not_there(client: FlaskClient, page: str) -> None:
    """The dashboard itself would fail."""
    assert client.get(f"{HOME}0/{page}").status_code == 404


def test_dashboard_that_cannot_show_what_redis_holds_says_so(
    client: FlaskClient, redis_server: RedisServer
) -> None:
    """Whoever writes there crashes nothing here."""
    with Redis.from_url(redis_server.url) as redis:
        redis.sadd("rq:queues", "rq:queue:bad")
        redis.rpush("rq:queue:bad", "no id", "late")
        redis.hset("rq:job:late", mapping={"created_at": "never", "data": "[]"})
    for page in ("data/jobs/bad/queued/8/asc/1.json", "data/job/late.json"):
        response: Any = client.get(f"{HOME}0/{page}")
        assert (response.status_code, response.json["code"]) == (503, "queue")
