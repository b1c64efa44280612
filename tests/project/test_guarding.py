"""Who reaches a node: none by mistake; and keys, made offline and beside a node that runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import structlog
import urllib3
from structlog.testing import capture_logs

from dfs.core.errors import ConfigError
from dfs.guarding import FIRST_KEY_COMMAND, GENERATE_COMMAND, read_first_key, require_guard
from scripts import keys
from tests.project.nodes import RunningNode, running_node
from torture.node import ROOT, program_environ

EVERYWHERE = "0.0.0.0"  # noqa: S104
CERTIFICATE = ROOT / "tests/data/tls/cert.pem"
TLS = {
    "DFS_TLS_CERT_PATH": str(CERTIFICATE),
    "DFS_TLS_KEY_PATH": str(CERTIFICATE.with_name("key.pem")),
}


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo what the script does to the logs of its process."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("auth", "hosts", "has_keys", "event"),
    [
        ("on", ["127.0.0.1", "::1"], False, "own_machine_only"),
        ("on", ["127.0.0.1"], True, None),
        ("on", [EVERYWHERE], True, None),
        ("off", ["127.0.0.1"], False, "auth_is_off"),
        ("off", [EVERYWHERE], True, "auth_is_off"),
    ],
)
def test_guard_says_whom_the_node_serves(
    auth: str, hosts: list[str], has_keys: bool, event: str | None
) -> None:
    """That authentication is off is said aloud; that there is no key, too."""
    with capture_logs() as logs:
        require_guard(auth, hosts, has_keys=has_keys)
    assert [entry["event"] for entry in logs] == ([] if event is None else [event])
    assert [entry["log_level"] for entry in logs].count("warning") == (auth == "off")


@pytest.mark.parametrize("hosts", [[EVERYWHERE], ["::"], ["127.0.0.1", "192.0.2.1"], ["/a.sock"]])
def test_guard_refuses_strangers_without_a_key(hosts: list[str]) -> None:
    """And says which command makes the first one."""
    with pytest.raises(ConfigError) as caught:
        require_guard("on", hosts, has_keys=False)
    assert hosts[-1] in str(caught.value)
    assert FIRST_KEY_COMMAND in str(caught.value)


def run_module(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m` with the settings of a node in `directory` that strangers reach."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        env=program_environ(directory, {"PORT": "0", "DFS_HOST": EVERYWHERE}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ask(node: RunningNode, token: str | None, path: str = "/files") -> int:
    """Return the status of an answer, over a connection of its own."""
    headers = {"Connection": "close"} | ({"Authorization": f"Bearer {token}"} if token else {})
    with urllib3.PoolManager(ca_certs=str(CERTIFICATE), retries=False, timeout=20) as http:
        return http.request("GET", node.url + path, headers=headers).status


@pytest.mark.integration
def test_node_for_strangers_starts_with_a_key_and_forgets_a_revoked_one_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused without; then with a key made offline; another is made, and revoked, beside it."""
    refused = run_module(tmp_path, "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), "wsgi:app")
    assert refused.returncode == 1
    assert FIRST_KEY_COMMAND in refused.stderr
    assert "Traceback" not in refused.stderr
    made = run_module(tmp_path, "scripts.keys", "create", "--name", "first")
    first = made.stdout.strip()
    assert made.returncode == 0, made.stderr
    assert first.startswith("dfs_")
    assert first[17:] not in made.stderr
    monkeypatch.chdir(tmp_path)
    with running_node(tmp_path, DFS_HOST=EVERYWHERE, DEBUG="true", **TLS) as node:
        assert node.url.startswith("https://")
        assert "need an API key" in node.read_until("  Requests")
        assert [ask(node, None), ask(node, "dfs_x"), ask(node, first)] == [401, 401, 200]
        assert ask(node, None, "/health") == 200
        assert keys.main(["create", "--name", "second", "--scopes", "read"]) == 0
        second = capsys.readouterr().out.strip()
        assert {ask(node, second) for _ in range(20)} == {200}
        assert ask(node, second, "/admin/usage") == 403
        check_revocation(node, second)
        assert ask(node, first) == 200
        capsys.readouterr()
        assert keys.main(["list"]) == 0
        check_modes(tmp_path)
        check_logs(node, first, second)
    listed = capsys.readouterr().out
    assert first[4:16] in listed
    assert second[4:16] not in listed


@pytest.mark.integration
def test_node_without_keys_makes_the_one_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file, at its first start only: later it may be missing, and another is nothing."""
    given = [generate_key(capsys) for _ in range(2)]
    secret = tmp_path / "secret"
    secret.write_text(given[0] + "\n")
    settings = {"DFS_HOST": EVERYWHERE, "REPLICA1_PATH": "", "REPLICA2_PATH": ""}
    with running_node(tmp_path, DFS_FIRST_KEY=str(secret), **settings) as node:
        assert [ask(node, token) for token in (None, *given)] == [401, 200, 401]
        _, output = node.end(signal.SIGTERM)
        assert given[0][17:] not in output
    secret.unlink()
    for first_key in (str(secret), given[1]):
        with running_node(tmp_path, DFS_FIRST_KEY=first_key, **settings) as node:
            assert [ask(node, token) for token in given] == [200, 401]


def generate_key(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the script makes up."""
    capsys.readouterr()
    assert keys.main(["generate"]) == 0
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("content", ["", "hunter2", "dfs_0123456789AB_hunter2", "x" * 9000])
@pytest.mark.parametrize("in_file", [True, False])
def test_first_key_that_somebody_thought_of_is_refused(
    tmp_path: Path, content: str, in_file: bool
) -> None:
    """Nor does the refusal say what it was: it ends up in logs."""
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_first_key(str(path) if in_file else content)
    assert GENERATE_COMMAND in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("path", ["/", "/missing/key", "a\0b", "/dev/zero", "fifo"])
def test_first_key_in_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """With the reason, without a traceback, and without waiting for who writes into a pipe."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(ConfigError, match="names no file"):
        read_first_key(path)


def test_first_key_is_the_setting_or_in_the_file_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an environment has it, or a mounted secret."""
    key = generate_key(capsys)
    (tmp_path / "key").write_text(f" {key}\r\n")
    assert read_first_key(str(tmp_path / "key")) == read_first_key(key) == key


@pytest.mark.integration
def test_node_on_a_path_is_closed_when_its_last_key_is_gone(tmp_path: Path) -> None:
    """Whoever comes over it may be from anywhere, whatever he says of the host."""
    made = run_module(tmp_path, "scripts.keys", "create", "--name", "last").stdout.strip()
    bound = f"unix:{tmp_path}/s"
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py")]
    with subprocess.Popen(
        [*command, "--bind", bound, "wsgi:app"],
        cwd=tmp_path,
        env=program_environ(tmp_path, {"WEB_CONCURRENCY": "1"}),
    ) as process:
        try:
            mine = {"Authorization": f"Bearer {made}"}
            assert ask_over(tmp_path / "s", mine) == 200
            run_module(tmp_path, "scripts.keys", "revoke", made[4:16], "--last")
            time.sleep(1)
            assert ask_over(tmp_path / "s", {"Host": "localhost"}) == 401
        finally:
            process.send_signal(signal.SIGTERM)


def ask_over(path: Path, headers: dict[str, str]) -> int:
    """Return the status of an answer over the socket of that path, once it is there."""
    deadline_s = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        connection = HTTPConnection("localhost")
        connection.sock = client
        connection.request("GET", "/files", headers=headers)
        return connection.getresponse().status


def check_logs(node: RunningNode, *tokens: str) -> None:
    """Whatever is asked, and whatever goes wrong: no secret and no contents are in the logs."""
    marker = "c0nfidential"
    with urllib3.PoolManager(ca_certs=str(CERTIFICATE), retries=False, timeout=20) as http:

        def send(method: str, path: str, body: bytes = b"", **headers: str) -> Any:
            return http.request(method, node.url + path, body=body, headers=headers)

        mine = {"Authorization": f"Bearer {tokens[0]}"}
        for size in (1, 200_000):
            send("POST", "/upload?name=a", marker.encode() * size, **mine)
        broken = {"Content-MD5": "x", "DFS-Metadata": f'{{"{marker}": 1}}'}
        send("POST", "/upload?name=a", marker.encode(), **mine, **broken)
        body = b'{"prefix": "", "bytes_max": 9000000}'
        signed = send("POST", "/signed-urls", body, **mine, **{"Content-Type": "application/json"})
        url = signed.json()["url"]
        send("POST", f"{url}&name=b", marker.encode())
        send("POST", f"{url}x&name=b", marker.encode())
        send("GET", "/files", Authorization=f"Bearer dfs_{'0' * 12}_{marker}")
        send("GET", f"/files?sig={marker}&sig_key={'0' * 12}")
        send("GET", f"/files/{marker}", Cookie=marker, **mine)
    status, output = node.end(signal.SIGTERM)
    assert status == 0
    assert "request_id" in output or "worker" in output, "nothing was logged at all"
    signature = url.partition("&sig=")[2]
    for secret in (marker, signature, *(token[17:] for token in tokens)):
        assert secret not in output


def check_modes(directory: Path) -> None:
    """Nobody but their owner may touch the files of a node, whatever made them."""
    found = [path for path in directory.rglob("*") if not path.is_symlink()]
    names = {path.name for path in found}
    assert {"wal.active", "dfs.db", "dfs.json", "run.pid", "metrics", "blobs"} <= names
    assert [path for path in found if path.stat().st_mode & 0o077] == []


def check_revocation(node: RunningNode, token: str) -> None:
    """Revoke a key while all workers use it; none takes it more than a second later."""
    used: list[tuple[float, int]] = []
    ended = threading.Event()

    def use() -> None:
        while not ended.is_set():
            began_s = time.monotonic()
            used.append((began_s, ask(node, token)))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    status = keys.main(["revoke", token[4:16]])
    revoked_s = time.monotonic()
    ended.wait(1.5)
    ended.set()
    for thread in threads:
        thread.join()
    assert status == 0
    late = [status for began_s, status in used if began_s > revoked_s + 1]
    assert {status for _, status in used} == {200, 401}
    assert len(late) >= 6
    assert set(late) == {401}


def test_keys_script_says_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a sentence, with a status that is not 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(os, "environ", {**os.environ, "REPLICA1_PATH": "", "REPLICA2_PATH": ""})
        assert keys.main(["create", "--name", "a", "--scopes", "admin", "--prefix", "x"]) == 1
        assert "prefix" in capsys.readouterr().err
        assert keys.main(["create", "--name", "only"]) == 0
        key_id = capsys.readouterr().out[4:16]
        assert keys.main(["revoke", key_id]) == 1
        assert "last key" in capsys.readouterr().err
        assert keys.main(["revoke", key_id, "--last"]) == 0
        assert keys.main(["revoke", key_id, "--last"]) == 1
        for wrong in (["create"], ["create", "--name", "a", "--scopes", "fly"], ["sing"]):
            with pytest.raises(SystemExit) as caught:
                keys.main(wrong)
            assert caught.value.code == 2
