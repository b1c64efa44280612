"""Tries the image without a container engine: `make image-check`. Needs root, debootstrap, minutes.

1. A clean Debian root with Python is made by debootstrap, in place of the base image.
2. The steps of the Dockerfile are taken in copies of it.
3. In a network namespace of its own, web, worker and scheduler are run as docker-compose.yml says:
   the image's user, a root file system that is read-only, no capabilities. Without a key the node
   must refuse to start; with one, files go up and come down, all of it is killed and started again,
   the replica is caught up, and everything ends when it is told to.

Exit status: 0 all is as it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import urllib3

from deploy.check.build import Image, build_image
from deploy.check.compose import Service, read_compose, read_service
from deploy.check.container import Container, start, wait_healthy
from scripts.embedded_redis import bundled_server

CONTEXT = Path(__file__).parents[2]
SERVICES = ("web", "worker", "scheduler")
SIZES_BYTES = (0, 5, 70_000, 20 << 20)
URL = "http://127.0.0.1:8000"
TIMEOUT_S = 120.0
CREATE_KEY = ("python", "-m", "scripts.keys", "create", "--name", "admin")
READ_ONLY = "touch /app/x || touch /opt/dfs/x || touch /etc/x || touch /x"
BARE = "command -v gcc || command -v pip || command -v curl || id -u | grep -qx 0"
NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of unshare(2)."""


def main() -> int:
    """Build the image and check it. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--place", type=Path, default=CONTEXT / "build/image-check")
    place = parser.parse_args().place.absolute()
    place.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    image = build_image(CONTEXT, place)
    own_bytes = sum(size_of(image.root / name) for name in ("app", "opt/dfs"))
    tell(f"built in {time.monotonic() - began_s:.0f} s; {own_bytes >> 20} MiB beside the base")
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (image.root / "etc/hosts").write_text("127.0.0.1 localhost redis web\n")
    shutil.rmtree(place / "volumes", ignore_errors=True)
    check_node(image, place / "volumes", place / "output.log")
    tell("all is well")
    return 0


def check_node(image: Image, volumes: Path, output: Path) -> None:
    """Run the node of docker-compose.yml through its life."""
    document = read_compose(CONTEXT / "docker-compose.yml", {})
    services = [read_service(document, name) for name in SERVICES]
    key = make_key(services[0], image, volumes, output)
    with running_redis(volumes):
        with running(services, image, volumes, output) as containers:
            for container in containers:
                require(container.execute(["sh", "-c", READ_ONLY]) != 0, "its root can be written")
                require(
                    container.execute(["sh", "-c", BARE]) != 0, "there are tools, or it is root"
                )
            stored = {upload(size, key): size for size in SIZES_BYTES}
            check_files(stored, key)
            for container in containers:
                container.kill()
            tell("killed")
        with running(services, image, volumes, output) as containers:
            check_files(stored, key)
            answer = ask("POST", "/admin/replicas/sync?wait=60", key)
            require(answer.json()["done"], f"the replica was not caught up: {answer.data!r}")
            await_count('dfs_jobs_total{result="finished",task="replicate"}', key)
            for container in reversed(containers):
                began_s = time.monotonic()
                status = container.stop()
                took_s = time.monotonic() - began_s
                tell(f"{container.service.name} ended with {status} after {took_s:.1f} s")
                require(status == 0, "it did not end in good order")
    copies = sorted(path.name for path in (volumes / "replica").rglob("*") if path.is_file())
    require(len(copies) >= len(SIZES_BYTES) // 2, f"the replica has only {copies}")


def make_key(web: Service, image: Image, volumes: Path, output: Path) -> str:
    """Return the first key, made as docs/deploy.md says; the node must refuse to do without."""
    with output.open("wb") as log:
        refused = start(web, image, volumes, output=log.fileno()).process.wait(TIMEOUT_S)
    require(refused == 1 and b"has no API key" in output.read_bytes(), "it did without a key")
    tell("refused to start without a key")
    with output.open("wb") as log:
        made = start(web, image, volumes, command=CREATE_KEY, output=log.fileno())
        require(made.process.wait(TIMEOUT_S) == 0, output.read_text())
    return next(line for line in output.read_text().splitlines() if line.startswith("dfs_"))


@contextlib.contextmanager
def running(
    services: list[Service], image: Image, volumes: Path, output: Path
) -> Iterator[list[Container]]:
    """Run services until the end of the block, once they are healthy."""
    containers: list[Container] = []
    with output.open("ab") as log:
        try:
            for service in services:
                containers.append(start(service, image, volumes, output=log.fileno()))
                wait_healthy(containers, timeout_s=TIMEOUT_S)
            tell("web, worker and scheduler are healthy")
            yield containers
        except BaseException:
            print(output.read_text(errors="replace")[-6000:], file=sys.stderr)
            raise
        finally:
            for container in containers:
                container.kill()


@contextlib.contextmanager
def running_redis(directory: Path) -> Iterator[None]:
    """Run what stands in for the image of Redis."""
    command = [str(bundled_server()), "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def upload(size_bytes: int, key: str) -> tuple[str, str]:
    """Store random bytes. Returns id and SHA-256 of the file."""
    body = secrets.token_bytes(size_bytes)
    answer = ask("POST", f"/upload?name=file-{size_bytes}", key, body)
    return answer.json()["id"], sha256(body).hexdigest()


def check_files(stored: dict[tuple[str, str], int], key: str) -> None:
    """Read every file and compare it with what was sent."""
    for (file_id, digest), size_bytes in stored.items():
        data = ask("GET", f"/download/{file_id}", key).data
        require((len(data), sha256(data).hexdigest()) == (size_bytes, digest), "other bytes")
    tell(f"{len(stored)} files of up to {max(SIZES_BYTES) >> 20} MiB came back byte for byte")


def await_count(name: str, key: str) -> None:
    """Wait until the web server tells of what the worker counts, in files that they share."""
    deadline_s = time.monotonic() + TIMEOUT_S
    wanted = re.compile(rf"^{re.escape(name)} [1-9]".encode(), re.MULTILINE)
    while not wanted.search(ask("GET", "/metrics", key).data):
        require(time.monotonic() < deadline_s, f"{name} is not counted")
        time.sleep(1)


def ask(method: str, path: str, key: str, body: bytes | None = None) -> urllib3.BaseHTTPResponse:
    """Return the answer to a request, if it is a good one."""
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    answer = urllib3.request(
        method, URL + path, body=body, headers=headers, retries=False, timeout=TIMEOUT_S
    )
    require(answer.status in (200, 201, 202), f"{method} {path}: {answer.status} {answer.data!r}")
    return answer


def size_of(directory: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(path.lstat().st_size for path in directory.rglob("*"))


def require(is_so: bool, otherwise: str) -> None:
    """Raise AssertionError unless something is so."""
    if not is_so:
        raise AssertionError(otherwise)


def tell(text: str) -> None:
    """Say how far the check is."""
    print(f"image-check: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
