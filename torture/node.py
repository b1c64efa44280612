"""A node whose processes are started one by one, to be killed one by one."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from scripts.embedded_redis import bundled_server, free_port

ROOT = Path(__file__).resolve().parents[1]
END_TIMEOUT_S = 45
WEB, WORKER, REDIS = "web", "worker", "redis"


class ChaosNode:
    """A node in a directory: a web server, a worker process, and a queue server of its own.

    Args:
        directory: for its data, and the output of each process as `<name>.log`.
        settings: of the node, but for its addresses.

    Attributes:
        restarts: processes that ended by themselves and were started again, by name.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.port, self.redis_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.environ = program_environ(
            directory, {"PORT": str(self.port), "REDIS_URL": self.redis_url, **settings}
        )
        self.restarts: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, Sequence[str]] = {
            WEB: [
                sys.executable,
                "-m",
                "gunicorn",
                "-c",
                str(ROOT / "gunicorn.conf.py"),
                "wsgi:app",
            ],
            WORKER: [sys.executable, "-m", "workers.run"],
            REDIS: self._redis_command(),
        }

    def _redis_command(self) -> list[str]:
        """Return the command of a queue server that keeps nothing on disk."""
        place = ["--dir", str(self.directory), "--bind", "127.0.0.1"]
        port = ["--port", str(self.redis_port)]
        return [str(bundled_server()), *place, *port, "--save", "", "--appendonly", "no"]

    def start(self, name: str) -> None:
        """Start a process without waiting for it to be ready."""
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._commands[name],
                cwd=self.directory,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_all(self) -> None:
        """Start all that does not run."""
        for name in (REDIS, WEB, WORKER):
            if not self._runs(name):
                self.start(name)

    def look_after(self) -> None:
        """Start again what ended by itself, as whoever supervises a node does."""
        for name in self._processes:
            if not self._runs(name):
                self.restarts[name] = self.restarts.get(name, 0) + 1
                self.start(name)

    def _runs(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def kill(self, name: str) -> None:
        """Kill a process, and all that it started, at once."""
        process = self._processes[name]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def pid(self, name: str) -> int:
        """Return the id of a process that was started."""
        return self._processes[name].pid

    def kill_at_once(self) -> None:
        """Kill all processes, none of which sees another one die."""
        for name in self._processes:
            with suppress(ProcessLookupError):
                self.freeze(name)
        self.kill_all()

    def freeze(self, name: str) -> None:
        """Stop a process where it is, and all that it started; only `kill` ends that."""
        os.killpg(self._processes[name].pid, signal.SIGSTOP)

    def freeze_outside(self, lock: Path, name: str) -> None:
        """Stop a process as `freeze` does, but while it does not hold this lock.

        Whoever waits for a lock that is held by a process that stands still waits for ever.
        """
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.freeze(name)
            os.waitid(os.P_PID, self.pid(name), os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def web_workers(self) -> list[int]:
        """Return the process ids of the web workers."""
        pid = self._processes[WEB].pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except OSError:
            return []
        return [int(child) for child in children.split()]

    def flush_redis(self) -> bool:
        """Empty the queue server. Returns whether it was there."""
        with Redis.from_url(self.redis_url, socket_timeout=2) as redis:
            try:
                return bool(redis.flushall())
            except RedisError:
                return False

    def run_script(self, module: str, *arguments: str, timeout_s: float) -> tuple[int, str]:
        """Run a script with the settings of the node. Returns its status and what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.directory,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def stop(self) -> dict[str, int]:
        """Stop all in good order, the queue last. Returns the exit status of each."""
        statuses: dict[str, int] = {}
        for names in ((WEB, WORKER), (REDIS,)):
            processes = {name: self._processes[name] for name in names if name in self._processes}
            for process in processes.values():
                if process.poll() is None:
                    process.terminate()
            for name, process in processes.items():
                statuses[name] = process.wait(timeout=END_TIMEOUT_S)
        return statuses

    def kill_all(self) -> None:
        """Leave nothing running."""
        for name in self._processes:
            self.kill(name)

    def refusal(self) -> str:
        """Return why the web server did not start, as far as its log tells."""
        lines = (self.directory / f"{WEB}.log").read_text(errors="replace").splitlines()
        refusals = [line for line in lines if "recovery_failed" in line]
        return refusals[-1][:1000] if refusals else f"no answer; see {self.directory}"

    def tracebacks(self) -> list[str]:
        """Return the last line of each traceback in the logs: there should be none."""
        found: list[str] = []
        for path in sorted(self.directory.glob("*.log")):
            is_inside = False
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith("Traceback (most recent"):
                    is_inside = True
                elif is_inside and line and not line.startswith((" ", "\t")):
                    found.append(f"{path.stem}: {line[:300]}")
                    is_inside = False
        return found


def empty_directory(path: Path) -> None:
    """Remove what is in a directory, but not itself. What appears meanwhile may stay."""
    for entry in list(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def program_environ(directory: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with these settings and nothing of ours but what Python needs."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
