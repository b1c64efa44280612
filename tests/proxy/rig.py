"""A node behind nginx, and what nginx says of each request."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from bench.proxy import CERTIFICATE, Proxy, run_proxy
from bench.servers import HOST, Server, node_environ, run_node

PREFIX = "/dfs-blobs/"
TIMEOUT_S = 30.0
_LOG = "log_format test '$http_x_trace $uri $upstream_status'; access_log {path} test;"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and who sent its body: "nginx", "dfs", or "dfs after nginx"."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    sender: str

    @property
    def json(self) -> dict[str, str]:
        """The body as an object."""
        value: dict[str, str] = json.loads(self.body)
        return value


class ProxiedNode:
    """A node with one worker process, nginx in front of it, and a key for everything."""

    def __init__(self, directory: Path, node: Server, proxy: Proxy, token: str) -> None:
        self.directory = directory
        self.node = node
        self.proxy = proxy
        self.token = token
        self._traces = 0

    @property
    def replica(self) -> Path:
        """Where the replica is."""
        return self.directory / "replica1"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = None,
    ) -> Answer:
        """Ask nginx, over TLS. Waits for what nginx logs of it."""
        self._traces += 1
        trace = f"request-{self._traces}"
        sent = {"Authorization": f"Bearer {token or self.token}", "X-Trace": trace}
        connection = http.client.HTTPSConnection(
            HOST, self.proxy.tls.port, context=tls_context(), timeout=TIMEOUT_S
        )
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            received = answer.read()
        finally:
            connection.close()
        return Answer(answer.status, answer.headers, received, self._find_sender(trace))

    def ask_directly(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Get a path from the node itself."""
        connection = http.client.HTTPConnection(HOST, self.node.port, timeout=TIMEOUT_S)
        try:
            sent = {"Authorization": f"Bearer {self.token}", **headers}
            connection.request("GET", path, headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def store(self, body: bytes, content_type: str = "text/plain; charset=utf-8") -> str:
        """Store a file on both stores; return the path of its download."""
        headers = {"Content-Type": content_type, "DFS-Replication": "sync"}
        stored = self.ask("POST", "/upload?name=a.txt", body, headers)
        assert stored.status == 201, stored.body
        return f"/download/{stored.json['id']}"

    def store_verified(self, body: bytes) -> str:
        """Store a file and download it once, so that nginx may send it the next time."""
        path = self.store(body)
        assert (self.ask("GET", path).body, self.ask("GET", path).sender) == (body, "nginx")
        return path

    def blob_file(self, path: str) -> Path:
        """Return where the primary has the bytes of a download."""
        name = self.ask("HEAD", path).headers["ETag"].strip('"')
        return self.directory / "primary" / "blobs" / name[:2] / name[2:4] / name

    def temporaries(self) -> list[Path]:
        """Return uploads in flight."""
        tmp = self.directory / "primary" / "tmp"
        return [path for path in tmp.iterdir() if path.is_file()]

    def handed_over(self) -> int:
        """Return how many downloads the node says that it has left to nginx."""
        text = self.ask("GET", "/metrics").body.decode()
        match = re.search(r"^dfs_downloads_handed_over_total (\S+)$", text, re.MULTILINE)
        return int(float(match[1])) if match else 0

    def _find_sender(self, trace: str) -> str:
        log = self.directory / "access.log"

        def find() -> re.Match[str] | None:
            return re.search(rf"^{trace} (\S+) (.*)$", log.read_text(), re.MULTILINE)

        wait_until(lambda: find() is not None)
        line = find()
        assert line is not None
        if not line[1].startswith(PREFIX):
            return "dfs"
        return "dfs after nginx" if ":" in line[2] else "nginx"


def tls_context() -> ssl.SSLContext:
    """Return what a client of the proxy trusts; it offers HTTP/2 as well."""
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    context.check_hostname = False
    return context


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something is so. Fails after `TIMEOUT_S`."""
    end_s = monotonic() + TIMEOUT_S
    while not holds():
        assert monotonic() < end_s
        sleep(0.01)


def make_key(directory: Path, settings: Mapping[str, str]) -> str:
    """Make a key with all scopes for the node in a directory; return its token."""
    command = [sys.executable, "-m", "scripts.keys", "create", "--name", "test"]
    environ = {**node_environ(directory), **settings}
    done = subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[0]


@contextmanager
def proxied_node(
    directory: Path,
    *,
    blobs: Path | None = None,
    user: str = "root",
    has_key: bool = True,
    **settings: str,
) -> Iterator[ProxiedNode]:
    """Run a node with one replica, and nginx in front of it.

    Args:
        blobs: where nginx looks for blob files; those of the primary if None.
        user: as for `run_nginx_with`.
        has_key: make the key that is used.
    """
    chosen = {
        "WEB_CONCURRENCY": "1",
        "DFS_ACCEL_PREFIX": PREFIX,
        "REPLICA1_PATH": str(directory / "replica1"),
        **settings,
    }
    token = make_key(directory, chosen) if has_key else ""
    with (
        run_node(directory, settings=chosen) as node,
        run_proxy(
            node,
            directory=directory,
            blobs=blobs or directory / "primary" / "blobs",
            log=_LOG.format(path=directory / "access.log"),
            user=user,
        ) as proxy,
    ):
        yield ProxiedNode(directory, node, proxy, token)
