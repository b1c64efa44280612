"""Runs nginx in front of a node, by the very configuration that operators get."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.servers import HOST, ROOT, Server, find_free_port, run_nginx_with

CONFIGURATION = ROOT / "deploy" / "nginx" / "dfs.conf"
CERTIFICATE = ROOT / "tests" / "data" / "tls" / "cert.pem"
_HTTP = "default_type application/octet-stream; keepalive_requests 1000000;"


class TlsServer(Server):
    """A server that speaks HTTPS."""

    @property
    def url(self) -> str:
        """Its address without a path."""
        return f"https://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """nginx in front of a node.

    Attributes:
        plain: where it speaks HTTP. tls: where it speaks HTTPS, with `CERTIFICATE`.
        directory: where its `error.log` and its temporary files are.
    """

    plain: Server
    tls: Server
    directory: Path


def proxy_block(*, node_port: int, plain_port: int, tls_port: int, blobs: Path) -> str:
    """Return `deploy/nginx/dfs.conf` with other ports and paths, and a listener without TLS.

    Raises:
        BenchError: the file does not have one of them.
    """
    text = CONFIGURATION.read_text()
    changes = {
        "server 127.0.0.1:8000;": f"server {HOST}:{node_port};",
        "listen 443 ssl http2;": f"listen {HOST}:{tls_port} ssl http2; listen {HOST}:{plain_port};",
        "listen [::]:443 ssl http2;": "",
        "/etc/dfs/cert.pem": str(CERTIFICATE),
        "/etc/dfs/key.pem": str(CERTIFICATE.with_name("key.pem")),
        "/var/lib/dfs/primary/blobs/": f"{blobs}/",
    }
    for old, new in changes.items():
        if text.count(old) != 1:
            raise BenchError(f"{CONFIGURATION} has {old!r} {text.count(old)} times, not once")
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def run_proxy(
    node: Server, *, directory: Path, blobs: Path, log: str = "access_log off;", user: str = "root"
) -> Iterator[Proxy]:
    """Run nginx in front of a node that has `DFS_ACCEL_PREFIX=/dfs-blobs/`.

    Args:
        directory: for its own files.
        blobs: where it finds the blob files.
        log: directives that say what is logged.
        user: as for `run_nginx_with`.
    """
    plain_port, tls_port = find_free_port(), find_free_port()
    block = proxy_block(node_port=node.port, plain_port=plain_port, tls_port=tls_port, blobs=blobs)
    with run_nginx_with(
        f"{_HTTP} {log}\n{block}", directory=directory, port=plain_port, user=user
    ) as plain:
        tls = TlsServer(plain.process, tls_port, plain.start_s)
        yield Proxy(plain, tls, directory / "nginx")
