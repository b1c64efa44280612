"""OpenStack Swift from Debian's packages: one machine, three replicas on three devices.

All is below one directory: rings, settings, data and logs. Nothing of /etc is read, and no daemon
of the background is run: no replicator, auditor, updater or expirer takes time from the servers.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench.errors import BenchError
from bench.load import Destination
from bench.machine import first_line
from bench.servers import (
    HOST,
    WORKERS,
    Server,
    base_environ,
    find_free_port,
    get,
    run,
    traced,
)
from bench.stores import PAGE_NAMES, Kind, Store, find_program, list_by_pages

PYTHON = "/usr/bin/python3"  # Debian's packages are for Debian's Python
BACKENDS = ("account", "container", "object")
DEVICES = ("d1", "d2", "d3")
PARTITION_POWER = 8
CONTAINER = "/v1/AUTH_bench/files"
PACKAGES = "swift-proxy swift-account swift-container swift-object memcached"
_BOOT = """\
import runpy, sys
from swift.common.utils import set_swift_dir
set_swift_dir(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Starts one of Swift's programs with a swift.conf that is not in /etc/swift."""
_COMMON = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
workers = {workers}
user = {user}
swift_dir = {etc}
devices = {devices}
mount_check = false
log_level = ERROR
log_address = {etc}/no-syslog

[filter:healthcheck]
use = egg:swift#healthcheck
"""
_BACKEND = """\
[pipeline:main]
pipeline = healthcheck {role}-server

[app:{role}-server]
use = egg:swift#{role}
log_requests = false
keep_cache_size = 1073741824
"""
FILTERS = "catch_errors gatekeeper healthcheck cache listing_formats copy dlo versioned_writes"
"""Those that Swift wants, in the order of Debian's settings: before the cache it costs two more
requests inside for each upload."""
_PROXY = f"""\
[pipeline:main]
pipeline = {FILTERS} proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:cache]
use = egg:swift#memcache
memcache_servers = {{host}}:{{memcached}}
"""
_FILTER_SECTIONS = "".join(
    f"\n[filter:{name}]\nuse = egg:swift#{name}\n"
    for name in FILTERS.split()
    if name not in {"cache", "healthcheck"}
)


@contextlib.contextmanager
def run_swift(directory: Path, trace: bool) -> Iterator[Store]:
    """Run Swift with its data in `directory`, which must be on a file system with xattrs."""
    etc, devices = directory / "etc", directory / "devices"
    etc.mkdir()
    for device in DEVICES:
        (devices / device).mkdir(parents=True)
    ports = {role: find_free_port() for role in (*BACKENDS, "proxy", "memcached")}
    _write_settings(etc, devices, ports)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(ports)) as pool:
        list(pool.map(lambda role: _build_ring(etc / f"{role}.builder", ports[role]), BACKENDS))
        runs = [_run_memcached(directory, ports["memcached"])]
        runs += [_run_server(role, directory, ports[role], trace) for role in (*BACKENDS, "proxy")]
        servers = list(pool.map(stack.enter_context, runs))
        _create_container(servers[-1])
        yield _as_store(servers[-1], tuple(server.process.pid for server in servers))


def _run_memcached(directory: Path, port: int) -> AbstractContextManager[Server]:
    where = ["-l", HOST, "-p", str(port), "-U", "0", "-u", _user()]
    return run(
        [_program("memcached"), *where, "-P", str(directory / "memcached")],
        environ=base_environ(),
        directory=directory,
        port=port,
        path=None,
    )


def _run_server(
    role: str, directory: Path, port: int, trace: bool
) -> AbstractContextManager[Server]:
    etc = directory / "etc"
    program = [PYTHON, "-c", _BOOT, str(etc), _program(f"swift-{role}-server")]
    return run(
        traced(
            [*program, "-v", str(etc / f"{role}-server.conf")],
            directory / f"{role}.trace" if trace else None,
        ),
        environ=base_environ(),
        directory=directory,
        port=port,
        path="/healthcheck",
    )


def _create_container(proxy: Server) -> None:
    connection = http.client.HTTPConnection(HOST, proxy.port)
    with contextlib.closing(connection):
        connection.request("PUT", CONTAINER)
        status = connection.getresponse().status
    if status != http.client.CREATED:
        raise BenchError(f"PUT {CONTAINER}: {status}")


def _as_store(proxy: Server, pids: tuple[int, ...]) -> Store:
    def page(prefix: str, after: str) -> list[str]:
        query = f"limit={PAGE_NAMES}&prefix={prefix}&marker={after}"
        return get(proxy, f"{CONTAINER}?{query}")[1].decode().split()

    return Store(
        server=proxy,
        pids=pids,
        upload=Destination("PUT", f"{CONTAINER}/"),
        download=f"{CONTAINER}/",
        delete=f"{CONTAINER}/",
        page=f"{CONTAINER}?limit={PAGE_NAMES}&format=json",
        list_names=lambda prefix: list_by_pages(partial(page, prefix)),
    )


def _write_settings(etc: Path, devices: Path, ports: Mapping[str, int]) -> None:
    words = {"host": HOST, "user": _user(), "etc": etc, "devices": devices, "workers": WORKERS}
    (etc / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = bench\n")
    for role in (*BACKENDS, "proxy"):
        text = _COMMON + (_PROXY + _FILTER_SECTIONS if role == "proxy" else _BACKEND)
        values = {**words, "role": role, "port": ports[role], "memcached": ports["memcached"]}
        (etc / f"{role}-server.conf").write_text(text.format(**values))


def _build_ring(builder: Path, port: int) -> None:
    """Make a ring of as many replicas as there are devices, each in a zone of its own."""
    devices = [
        word
        for zone, name in enumerate(DEVICES, 1)
        for word in (f"r1z{zone}-{HOST}:{port}/{name}", "100")
    ]
    for words in (
        ["create", str(PARTITION_POWER), str(len(DEVICES)), "1"],
        ["add", *devices],
        ["rebalance"],
    ):
        command = [_program("swift-ring-builder"), str(builder), *words]
        done = subprocess.run(
            command, env=base_environ(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"{command}: {done.stdout} {done.stderr}")


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _program(name: str) -> str:
    path = find_program(name)
    if path is None:
        raise BenchError(f"{name} is not installed")
    return path


SWIFT = Kind(
    name="swift",
    title="Swift, three replicas",
    install=f"apt-get install --no-install-recommends {PACKAGES}",
    programs=(
        "swift-ring-builder",
        *(f"swift-{role}-server" for role in (*BACKENDS, "proxy")),
        "memcached",
    ),
    version=lambda: first_line("dpkg-query", "-W", "-f", "${Version}", "swift-proxy"),
    how=(
        f"Debian's packages; proxy, account, container and object server of {WORKERS} workers "
        f"each, and memcached; rings of {len(DEVICES)} replicas on {len(DEVICES)} devices "
        f"(directories), 2^{PARTITION_POWER} partitions; no authentication, no access log, no "
        "daemons of the background; objects it has read stay in the page cache up to 1 GiB instead "
        "of 5 MiB"
    ),
    durability=(
        "each replica's object file and its directory, at least on two of the three devices; the "
        "rows of the container's listing are not synced"
    ),
    run=run_swift,
)
