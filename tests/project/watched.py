"""A node that has done a little of everything, and a Prometheus that watches it as configured."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from dfs.core.signing import make_token
from tests.project.chaos_clients import wait_until
from tests.project.nodes import running_node

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = ROOT / "deploy/grafana/dfs.json"
DEADLINE_S = 60.0
SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(slots=True)
class Watched:
    """The node and its Prometheus.

    Attributes:
        exposition: what the node told when it had done everything.
        url: of Prometheus.
    """

    exposition: str
    url: str

    @property
    def families(self) -> set[str]:
        """The metrics that the node tells."""
        return set(re.findall(r"^# TYPE (\S+) ", self.exposition, re.MULTILINE))

    def ask(self, path: str, **fields: str) -> Any:
        """Return what the interface of Prometheus says."""
        answer = urllib3.request("GET", f"{self.url}/api/v1/{path}", fields=fields, timeout=20)
        body = json.loads(answer.data)
        assert body["status"] == "success", f"{fields}: {body}"
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression, as they are now."""
        series: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return series

    def await_series(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression once there are any; none when that takes too long."""
        wait_until(lambda: bool(self.query(expression)), timeout_s=DEADLINE_S)
        return self.query(expression)

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules, as Prometheus has read them."""
        groups = self.ask("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]


@dataclass(slots=True)
class _Client:
    """Asks the node, with a key."""

    url: str
    token: str
    statuses: list[int] = field(default_factory=list)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """Return the body of the answer; note its status."""
        answer = urllib3.request(
            method,
            self.url + path,
            body=body,
            headers={"Authorization": f"Bearer {self.token}", "Connection": "close", **headers},
            timeout=20,
            retries=False,
        )
        self.statuses.append(answer.status)
        return answer.data


def find_families(expression: str) -> set[str]:
    """Return the metrics of dfs that an expression names."""
    names = re.findall(r"\b(?:dfs|flask)_\w+", re.sub(r'"[^"]*"', "", expression))
    return {strip_suffix(name) for name in names}


def strip_suffix(name: str) -> str:
    """Return the histogram that a series belongs to; the name itself for any other."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def find_selectors(expression: str) -> set[str]:
    """Return the parts of an expression that choose series."""
    return set(re.findall(r"\b(?:(?:dfs|flask)_\w+|up)(?:\{[^}]*\})?", expression))


def dashboard_expressions() -> dict[str, str]:
    """Return the queries of the dashboard, by panel and letter, for any node and a minute."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        f"{panel['title']}/{target['refId']}": target["expr"]
        .replace("$instance", ".+")
        .replace("$__rate_interval", "1m")
        for panel in panels
        for target in panel.get("targets", ())
    }


@contextmanager
def watching(directory: Path) -> Iterator[Watched]:
    """Run a node with a key and two replicas, let it work, and have Prometheus watch it."""
    token = make_token()
    settings = {"DFS_FIRST_KEY": token, "DFS_QUOTA_BYTES": "500000"}
    with running_node(directory, **settings) as node:
        client = _Client(node.url, token)
        with running_prometheus(directory / "prometheus", node.url, token) as url:
            exposition = let_work(client)
            yield Watched(exposition, url)


def let_work(client: _Client) -> str:
    """Have the node do a little of everything; return what it tells of it."""
    file = json.loads(client.ask("POST", "/upload?name=large", bytes(200_000)))
    client.ask("POST", "/upload?name=small", b"small")
    client.ask("GET", f"/download/{file['id']}")
    client.ask("POST", "/upload?name=full", bytes(400_000))
    assert client.statuses == [201, 201, 200, 507]
    told = ""

    def has_worked() -> bool:
        nonlocal told
        told = client.ask("GET", "/metrics").decode()
        return (
            told.count("\ndfs_scrub_finished_timestamp_seconds{") == 3
            and told.count('state="current",store="replica') == 2
            and 'dfs_debts_paid_total{kind="blob",store="replica2"} 1.0' in told
        )

    assert wait_until(has_worked, timeout_s=DEADLINE_S), told
    return told


@contextmanager
def running_prometheus(directory: Path, node_url: str, token: str) -> Iterator[str]:
    """Run Prometheus with the configuration of the project, only faster; yield its URL."""
    shutil.copytree(PROMETHEUS, directory)
    (directory / "dfs.key").write_text(token)
    targets = (directory / "targets.yml").read_text()
    assert "127.0.0.1:8000" in targets
    address = node_url.removeprefix("http://")
    (directory / "targets.yml").write_text(targets.replace("127.0.0.1:8000", address))
    config = (directory / "prometheus.yml").read_text()
    (directory / "prometheus.yml").write_text(config.replace("15s", "1s"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = f"127.0.0.1:{server.getsockname()[1]}"
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={listen}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, cwd=directory) as process:
        try:
            assert wait_until(lambda: is_ready(f"http://{listen}"), timeout_s=DEADLINE_S)
            yield f"http://{listen}"
        finally:
            process.terminate()
            process.wait(timeout=DEADLINE_S)


def is_ready(url: str) -> bool:
    """Tell whether Prometheus serves."""
    try:
        return urllib3.request("GET", f"{url}/-/ready", retries=False, timeout=5).status == 200
    except urllib3.exceptions.HTTPError:
        return False
