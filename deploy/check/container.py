"""Runs a service of docker-compose.yml as an engine would, by the kernel's own means.

Namespaces of its own for mounts, processes and IPC, a root that nobody can write to, the volumes
and the file systems in memory that the service names, the user of the image, no capabilities, and
no new privileges. All of them share one network namespace, that of the caller.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.check.build import Image, inside
from deploy.check.compose import Service

DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(slots=True)
class Container:
    """A service that runs."""

    service: Service
    image: Image
    process: subprocess.Popen[bytes]

    def pid(self) -> int | None:
        """Return the id, outside, of its first process; None while there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            return next(map(int, children.read_text().split()), None)
        return None

    def execute(self, command: Sequence[str]) -> int:
        """Run a command inside, as `docker exec` does. Returns its exit status, or 125."""
        pid = self.pid()
        if pid is None:
            return 125
        enter = ["nsenter", f"--target={pid}", "--mount", "--pid", "--ipc", "--root"]
        done = subprocess.run(
            [*enter, *as_user(self.service, self.image, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode

    def is_healthy(self) -> bool:
        """Run its health check."""
        return self.execute(self.service.health or self.image.health) == 0

    def stop(self) -> int:
        """Stop it as `docker stop` does. Returns its exit status; -9 if it did not end in time."""
        self._signal(signal.SIGTERM)
        try:
            return self.process.wait(self.service.stop_grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def kill(self) -> None:
        """Kill its first process, and with it all others."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        """Signal the first process: whoever started it would end without it."""
        while self.process.poll() is None:
            pid = self.pid()
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                return
            time.sleep(0.01)


def start(
    service: Service,
    image: Image,
    volumes: Path,
    *,
    command: Sequence[str] = (),
    output: int | None = None,
) -> Container:
    """Start a service.

    Args:
        volumes: the directory of the named volumes; one that is new gets what the image has there.
        command: in place of its own.
        output: file descriptor for what it says.
    """
    root = shlex.quote(str(image.root))
    script = [
        "mount --make-rprivate /",
        f"mount --bind {root} {root}",
        f"mount -o remount,bind,ro {root}",
        f"mount -t proc proc {root}/proc",
        f"mount -t tmpfs -o mode=0755 tmpfs {root}/dev",
    ]
    for name in DEVICES:
        script += [f"touch {root}/dev/{name}", f"mount --bind /dev/{name} {root}/dev/{name}"]
    for name, place in service.volumes:
        script.append(f"mount --bind {volume(volumes, name, image, place)} {root}{place}")
    for place, options in service.tmpfs:
        script.append(f"mount -t tmpfs -o {options or 'mode=1777'} tmpfs {root}{place}")
    inner = as_user(service, image, command or service.command)
    script.append(f"exec chroot {root} {shlex.join(inner)}")
    unshare = ["unshare", "--mount", "--pid", "--ipc", "--fork"]
    process = subprocess.Popen(
        [*unshare, "/bin/sh", "-e", "-c", "\n".join(script)], stdout=output, stderr=output
    )
    return Container(service, image, process)


def as_user(service: Service, image: Image, command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command inside as the image and the service say."""
    uid, _, gid = image.user.partition(":")
    environ = {**image.environ, **service.environment, "HOME": "/nonexistent"}
    return [
        "/usr/bin/setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
        "/usr/bin/env",
        "-i",
        f"--chdir={image.directory}",
        *(f"{name}={value}" for name, value in environ.items()),
        *command,
    ]


def volume(volumes: Path, name: str, image: Image, place: str) -> str:
    """Return where a named volume lies; made as an engine makes it, with the owner in the image."""
    path = volumes / name
    if not path.exists():
        path.mkdir(parents=True)
        model = inside(image.root, place).stat()
        os.chown(path, model.st_uid, model.st_gid)
        path.chmod(model.st_mode & 0o7777)
    return shlex.quote(str(path))


def wait_healthy(containers: Sequence[Container], *, timeout_s: float) -> None:
    """Wait until the health checks of all of them pass. Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    for container in containers:
        while not container.is_healthy():
            if container.process.poll() is not None or time.monotonic() > deadline_s:
                raise TimeoutError(f"{container.service.name} did not become healthy")
            time.sleep(0.5)
