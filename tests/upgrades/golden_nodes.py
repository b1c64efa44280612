"""Data directories written by the programs that were in use when a format changed.

    python -m tests.upgrades.golden_nodes NAME [COMMIT]

runs the node of a commit (of this working tree, without one) as `make run` does, stores, changes
and deletes files, stops it, and packs its data with what it had answered into
`tests/data/nodes/NAME.tar.xz`. What is there belongs to programs that were in use: it is never
written anew, and `tests/data/nodes/README.md` says which they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from torture.node import ROOT, program_environ

NODES_PATH = Path(__file__).parent.parent / "data" / "nodes"
SETTINGS = {
    "PORT": "0",
    "WEB_CONCURRENCY": "1",
    "REPLICA2_PATH": "",
    "DATABASE_URL": "sqlite:///./data/dfs.db",
    "WAL_PATH": "./data/wal",
    "DFS_WAL_SEGMENT_BYTES": str(1 << 20),
    "DFS_WAL_PREALLOCATE_BYTES": str(1 << 16),
}
MIB = 1 << 20
WAIT_S = 60
EXPECTED_NAME = "expected.json"


class OldNode:
    """A node of some commit that runs."""

    def __init__(self, process: subprocess.Popen[str], url: str, token: str | None) -> None:
        self.process = process
        self.url = url
        self.token = token
        self._http = urllib3.PoolManager(retries=False, timeout=WAIT_S)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        """Return the answer as JSON or bytes; None if the node knows nothing of the kind."""
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["Connection"] = "close"
        answer = self._http.request(method, self.url + path, body=body, headers=named)
        if answer.status in (404, 405) or (answer.status == 422 and method == "GET"):
            return None
        assert answer.status < 300, (method, path, answer.status, answer.data)
        if "json" not in answer.headers.get("Content-Type", ""):
            return answer.data
        return json.loads(answer.data)

    def stop(self) -> None:
        """Stop it in good order."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_S) == 0


@contextmanager
def running_old_node(
    code: Path, directory: Path, *, token: str | None = None, **settings: str
) -> Iterator[OldNode]:
    """Run the node of a working tree with its data in a directory; stop it in good order."""
    environ = {**program_environ(directory, SETTINGS | settings), "PYTHONPATH": str(code)}
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.run"],
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=(directory / "node.log").open("ab"),
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "dfs is ready:" in line:
                    break
            node = OldNode(process, line.split()[3], token)
            yield node
            node.stop()
        finally:
            process.kill()


def store_much(node: OldNode) -> None:
    """Fill a segment with what is deleted again, so that it can be dropped."""
    for number in range(24):
        body = b"%06d\n" % number * 9000
        stored = node.ask("POST", f"/upload?name=gone/{number}", body)
        node.ask("DELETE", f"/files/{stored['id']}")


def wait_for_dropped(node: OldNode) -> None:
    """Wait until a segment was dropped, unless the node has no compaction."""
    for _ in range(WAIT_S):
        segments = node.ask("GET", "/admin/wal/segments")["segments"]
        if any(segment["state"] == "dropped" for segment in segments):
            return
        time.sleep(1)
    raise AssertionError("no segment was dropped")


def store_all_kinds(node: OldNode) -> None:
    """Store files of all kinds, change some, delete some."""
    ids = []
    for number in range(12):
        body = b"small file %d\n" % number * number
        ids.append(node.ask("POST", f"/upload?name=small/{number:02d}.txt", body)["id"])
    metadata = json.dumps({"Autor": "Jörg", "empty": ""})
    unicode_name = "Gr%C3%BC%C3%9Fe/%E6%97%A5%E6%9C%AC.txt"
    node.ask("POST", f"/upload?name={unicode_name}", b"hello", DFS_Metadata=metadata)
    node.ask("POST", "/upload?name=expiring&ttl_s=3000000000", b"hello")
    large = bytes(range(250)) * (5 * MIB // 2 // 250)
    for name in ("large", "the same again"):
        ids.append(node.ask("POST", f"/upload?name={name}", large + b"!")["id"])
    ids.append(node.ask("POST", "/upload?name=two", large[: 2 * MIB])["id"])
    part = '--b\r\nContent-Disposition: form-data; name="file"; filename="form %d"\r\n\r\nf%d\r\n'
    body = "".join(part % (n, n) for n in range(3)) + "--b--\r\n"
    node.ask("POST", "/upload", body.encode(), Content_Type="multipart/form-data; boundary=b")
    change = json.dumps({"name": "renamed.txt", "metadata": {"colour": "red"}}).encode()
    node.ask("PATCH", f"/files/{ids[1]}", change, Content_Type="application/json")
    for file_id in (ids[2], ids[3], ids[-1]):
        node.ask("DELETE", f"/files/{file_id}")
    node.ask("POST", f"/files/{ids[3]}/restore")


def make_keys(node: OldNode) -> None:
    """Make two keys and revoke one, if the node knows any; ask with the other from now on."""
    scopes = ["read", "write", "delete", "admin"]
    body = json.dumps({"name": "first", "scopes": scopes}).encode()
    made = node.ask("POST", "/admin/keys", body, Content_Type="application/json")
    if made is None:
        return
    node.token = made["token"]
    body = json.dumps({"name": "second", "scopes": ["read"], "prefix": "small/"}).encode()
    second = node.ask("POST", "/admin/keys", body, Content_Type="application/json")
    node.ask("DELETE", f"/admin/keys/{second['id']}")
    node.ask("POST", "/upload?name=by%20a%20key", b"hello")


def describe(node: OldNode) -> dict[str, Any]:
    """Return what the node answers."""
    files = node.ask("GET", "/files?limit=1000")["files"]
    for file in files:
        content = node.ask("GET", f"/download/{file['id']}")
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    trash = node.ask("GET", "/files?limit=1000&deleted=true")
    keys = node.ask("GET", "/admin/keys")
    return {
        "files": files,
        "trash": trash and trash["files"],
        "keys": keys and keys["keys"],
        "token": node.token,
        "last_lsn": max(
            segment["last_lsn"] for segment in node.ask("GET", "/admin/wal/segments")["segments"]
        ),
    }


def write_node(code: Path, directory: Path) -> dict[str, Any]:
    """Have the program of a working tree write its data. Returns what it answered in the end."""
    with running_old_node(code, directory, DFS_DELETE_GRACE_S="0") as node:
        store_much(node)
        if (code / "dfs" / "services" / "compaction.py").exists():
            wait_for_dropped(node)
    with running_old_node(code, directory) as node:
        store_all_kinds(node)
        make_keys(node)
        node.ask("POST", f"/admin/replicas/sync?wait={WAIT_S}")
        return describe(node)


def pack(directory: Path, expected: dict[str, Any], path: Path) -> None:
    """Pack the data of a node, and what it answered."""
    document = json.dumps(expected, indent=1, ensure_ascii=False).encode()
    shutil.rmtree(directory / "data" / "run")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for file in sorted((directory / "data").rglob("*")):
            archive.add(file, str(file.relative_to(directory)), recursive=False)
        member = tarfile.TarInfo(EXPECTED_NAME)
        member.size = len(document)
        archive.addfile(member, io.BytesIO(document))


def extract(archive: tarfile.TarFile, directory: Path) -> None:
    """Unpack an archive of our own; with what Python 3.11.4 and later do against those of others.

    Source: https://docs.python.org/3/library/tarfile.html#supporting-older-python-versions
    """
    archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
    archive.extractall(directory)  # noqa: S202


def main(name: str, commit: str | None = None) -> None:
    """Write the data of a node, by this program or by that of a commit."""
    with tempfile.TemporaryDirectory() as scratch:
        directory, code = Path(scratch, "node"), ROOT
        directory.mkdir()
        if commit is not None:
            code = Path(scratch, "code")
            archive = subprocess.run(
                ["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True
            ).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
                extract(packed, code)
        expected = write_node(code, directory)
        pack(directory, expected, NODES_PATH / f"{name}.tar.xz")


if __name__ == "__main__":
    main(*sys.argv[1:])
