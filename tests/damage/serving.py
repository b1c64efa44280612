"""Damage to a node that serves: a real Gunicorn, asked over HTTP and repaired by the script."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import urllib3

from scripts.embedded_redis import free_port
from tests.damage.asking import Asked, ask_all
from tests.damage.cases import Case, memory
from tests.damage.harm import list_harms
from tests.damage.look import COMMAND, Verdict
from tests.damage.store import Template
from torture.node import END_TIMEOUT_S, ROOT, program_environ

ALARMS = ("Traceback", "request_crashed")
ANSWER_TIMEOUT_S = 120


def try_served(template: Template, cases: Sequence[Case], *, sample: int) -> Verdict:
    """Damage files of a copy of a node, and see what becomes of it when it serves."""
    with memory() as directory:
        template.copy(directory)
        paths = [directory / case.path for case in cases]
        harms = [list_harms(path, sample=sample) for path in paths]
        for case, path, of_path in zip(cases, paths, harms, strict=True):
            of_path[case.harm](path)
        return _examine(directory, template)


def _examine(directory: Path, template: Template) -> Verdict:
    verdict = Verdict()
    environ = _environ(directory, template)
    log = directory / "node.log"
    for _ in range(3):  # as it was; after a command that it names; after damage of the index
        with _running(log, environ) as url:
            if url is None:
                said = log.read_text(errors="replace").strip().rpartition("\n")[2]
                verdict.words.append(said)
                if _follow(said, directory):
                    continue
                _judge_refusal(said, directory, template, verdict)
                break
            asked = _ask(url, template, verdict)
            if "index_damaged" in asked.codes.values():
                continue
            if template.has_replica:
                _repair(environ, verdict)
                asked = _ask(url, template, verdict)
        verdict.outcome = "told" if asked.codes else "whole"
        if asked.codes and template.has_replica:
            verdict.faults.append(f"is not mended, though a replica has all: {asked.codes}")
        break
    verdict.faults += [
        line for line in log.read_text(errors="replace").splitlines() if line.startswith(ALARMS)
    ]
    return verdict


def _judge_refusal(said: str, directory: Path, template: Template, verdict: Verdict) -> None:
    verdict.outcome = "refused"
    if str(directory) not in said or "Hint: " not in said:
        verdict.faults.append(f"says too little: {said}")
    elif template.has_replica:
        verdict.faults.append(f"refuses, though a replica has all: {said}")


def _follow(said: str, directory: Path) -> bool:
    """Run the command that an error names; return whether it names one."""
    command = COMMAND.search(said)
    if command is None or not Path(command[1]).is_relative_to(directory):
        return False
    Path(command[1]).rename(command[2])
    return True


def _ask(url: str, template: Template, verdict: Verdict) -> Asked:
    with urllib3.PoolManager(retries=False, timeout=ANSWER_TIMEOUT_S) as pool:

        def request(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
            kind = "application/json" if method == "PATCH" else "text/plain"
            answer = pool.request(method, url + path, body=body, headers={"Content-Type": kind})
            return answer.status, answer.data

        asked = ask_all(request, template.files)
    verdict.words += [f"{request}: {code}" for request, code in asked.codes.items()]
    verdict.faults += asked.faults
    return asked


def _repair(environ: dict[str, str], verdict: Verdict) -> None:
    """Run the script beside the node; then it has to find all clean."""
    for arguments in (["--apply"], []):
        done = subprocess.run(
            [sys.executable, "-m", "scripts.repair_replicas", *arguments],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        said = f"repair {arguments}: {done.stdout} {done.stderr}"
        if "Traceback" in said:
            verdict.faults.append(said)
        elif done.returncode and not arguments:  # a store may wait for a command that is named
            (verdict.words if COMMAND.search(said) else verdict.faults).append(said)


def _environ(directory: Path, template: Template) -> dict[str, str]:
    config = template.config(directory)
    settings = {
        "PORT": str(free_port()),
        "WEB_CONCURRENCY": "1",
        "DATABASE_URL": config.database_url,
        "STORAGE_PATH": str(config.storage_path),
        "WAL_PATH": str(config.wal_path),
        "DFS_RUN_PATH": str(config.run_path),
        "DFS_INLINE_BLOB_BYTES_MAX": str(config.inline_blob_bytes_max),
        "DFS_RESERVE_BYTES": "0",
        "DFS_RESERVE_INODES": "0",
        "REPLICA1_PATH": dict(config.replicas).get("replica1", ""),
        "REPLICA2_PATH": "",
        "REDIS_URL": "",
    }
    return program_environ(directory, settings)


@contextmanager
def _running(log: Path, environ: dict[str, str]) -> Iterator[str | None]:
    """Run a node inside the block; yield its address, or None if it has refused to start."""
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), "wsgi:app"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environ, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{environ['PORT']}"
    try:
        yield url if _answers(url, process) else None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=END_TIMEOUT_S)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a node answers or ends; return whether it answers."""
    while process.poll() is None:
        try:
            urllib3.request("GET", f"{url}/health", retries=False, timeout=ANSWER_TIMEOUT_S)
        except urllib3.exceptions.HTTPError:
            time.sleep(0.02)
        else:
            return True
    return False
