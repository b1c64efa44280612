"""The files of a deployment must fit the program: its settings, its paths, its processes."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from deploy.check.build import list_context
from deploy.check.compose import read_compose
from deploy.check.dockerfile import Step, is_ignored, read_pairs, read_stages
from dfs.core.config import Config, load_config
from dfs.core.settings import MORE_REPLICAS, SETTINGS
from torture.node import ROOT

CERTIFICATES = ROOT / "tests/data/tls"
GRACEFUL_S = 32
NODE = ("web", "worker", "scheduler")
FOREIGN = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
MADE_BY_OPERATORS = {"deploy/certs": "/", "deploy/prometheus/dfs.key": ""}
"""Mounted by docker-compose.yml, and not in the repository; with a slash behind directories."""


def image_steps() -> list[Step]:
    """Return the steps of the image, not of those that it is built from."""
    return read_stages((ROOT / "Dockerfile").read_text())[-1].steps


def image_environ() -> dict[str, str]:
    """Return the environment that the image gives its processes."""
    found: dict[str, str] = {}
    for step in image_steps():
        if step.word == "ENV":
            found |= read_pairs(step.text, {})
    return found


def compose() -> dict[str, Any]:
    """Return docker-compose.yml as it is without a file `.env`."""
    return read_compose(ROOT / "docker-compose.yml", {})


def compose_environ() -> dict[str, str]:
    """Return what docker-compose.yml sets for the processes of the node."""
    return {name: str(value) for name, value in compose()["services"]["web"]["environment"].items()}


def manifest() -> dict[str, Any]:
    """Return the pod of the manifests."""
    node = yaml.safe_load((ROOT / "deploy/kubernetes/node.yaml").read_text())
    pod: dict[str, Any] = node["spec"]["template"]["spec"]
    return pod


def read_pairs_of(path: str) -> dict[str, str]:
    """Return the pairs of a file with a setting a line."""
    lines = (ROOT / path).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and line[0] != "#")


def units() -> dict[str, str]:
    """Return the services of systemd by the name of their process."""
    paths = (ROOT / "deploy/systemd").glob("dfs-*.service")
    return {path.stem.removeprefix("dfs-"): path.read_text() for path in paths}


def procfile() -> dict[str, list[str]]:
    """Return the commands of the Procfile."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    return {name: shlex.split(line) for name, _, line in (line.partition(": ") for line in lines)}


DEPLOYMENTS = {
    "image": ({}, ("/data",)),
    "compose": (compose_environ(), ("/data", "/replica")),
    "kubernetes": (read_pairs_of("deploy/kubernetes/settings.env"), ("/data", "/replica")),
    "systemd": (read_pairs_of("deploy/systemd/dfs.env"), ("/var/lib/dfs", "/srv/dfs")),
}


def config_of(name: str) -> Config:
    """Return the settings that a deployment ends up with."""
    given = DEPLOYMENTS[name][0]
    return load_config(given if name == "systemd" else image_environ() | given, env_file="")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_variables_of_a_deployment_are_settings(name: str) -> None:
    """No misspelt name is passed over, and no setting that was removed stays."""
    known = FOREIGN | {setting.name for setting in SETTINGS}
    given = image_environ() | DEPLOYMENTS[name][0]
    assert {one for one in given if one not in known and not MORE_REPLICAS.fullmatch(one)} == set()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_node_of_a_deployment_writes_where_it_may(name: str) -> None:
    """All else is read-only there. In a container it listens for others, elsewhere not."""
    config = config_of(name)
    places = [config.storage_path, config.wal_path, config.run_path]
    places += [Path(config.database_url.removeprefix("sqlite:///"))]
    places += [Path(place) for _, place in config.replicas]
    writable = [PurePosixPath(path) for path in DEPLOYMENTS[name][1]]
    assert [place for place in places if not {*place.parents, place} & {*writable}] == []
    assert (config.host == "127.0.0.1") == (name == "systemd")
    assert (config.redis_url is None) == (name == "image")


def test_image_runs_as_nobody_and_is_told_of_the_end() -> None:
    """A number that Kubernetes sees not to be root; commands without a shell in between."""
    words = {step.word: step.text for step in image_steps()}
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", words["USER"])
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert words["CMD"].startswith("[")
    assert "scripts.health" in words["HEALTHCHECK"]
    assert "AS" not in words


def test_image_has_the_program_and_nothing_else() -> None:
    """Neither data nor secrets nor tests get into it, whatever lies in the working directory."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    for path in (".env", "data/wal/wal.active", ".git/config", "tests/x.py", "deploy/certs/x",
                 "dfs/__pycache__/x.pyc", "dfs/core/x.pyc", ".venv/bin/python"):  # fmt: skip
        assert is_ignored(PurePosixPath(path), patterns), path
    kept = set(map(str, list_context(ROOT)))
    needed = {"wsgi.py", "gunicorn.conf.py", "Procfile", "LICENSE", "requirements.txt"}
    assert needed <= kept
    assert {path.partition("/")[0] for path in kept} - needed == {
        "dfs",
        "workers",
        "scripts",
        "constraints.txt",
    }
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "dfs").rglob("*.py")}
    assert sources <= kept


@pytest.mark.parametrize("process", NODE)
def test_process_is_started_alike_everywhere(process: str) -> None:
    """The Procfile's command is that of the container, of the unit and of the pod."""
    command = procfile()[process]
    assert compose()["services"][process]["command"] == command
    if process != "scheduler":  # in a pod the worker does its work
        (container,) = [one for one in manifest()["containers"] if one["name"] == process]
        assert container["command"] == command
    (started,) = re.findall(r"^ExecStart=/opt/dfs/.venv/bin/(.*)$", units()[process], re.MULTILINE)
    assert shlex.split(started) == command
    if command[0] == "python":
        assert find_spec(command[2]) is not None
    else:
        assert (ROOT / command[2]).is_file()


def test_platform_that_builds_the_image_starts_all_of_the_node() -> None:
    """On Heroku one dyno has all processes: what starts there is there."""
    found = yaml.safe_load((ROOT / "heroku.yml").read_text())
    assert (ROOT / found["build"]["docker"]["web"]).is_file()
    program, flag, module = found["run"]["web"].split()
    assert (program, flag) == ("python", "-m")
    assert find_spec(module) is not None
    assert f"scripts/{module.partition('.')[2]}.py" in map(str, list_context(ROOT))


def test_every_container_is_confined() -> None:
    """No root file system can be written, no capability is there, none can be had."""
    services = compose()["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert not service.get("privileged"), name
    for container in manifest()["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_requests_in_flight_have_their_time_at_a_stop() -> None:
    """Whoever stops a node waits longer than Gunicorn does."""
    conf = (ROOT / "gunicorn.conf.py").read_text()
    assert f"graceful_timeout = {GRACEFUL_S} " in conf
    assert int(compose()["services"]["web"]["stop_grace_period"].removesuffix("s")) > GRACEFUL_S
    assert manifest()["terminationGracePeriodSeconds"] > GRACEFUL_S + 5
    (unit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", units()["web"], re.MULTILINE)
    assert int(unit_s) > GRACEFUL_S


def test_units_are_hardened_alike() -> None:
    """What holds for one process of the node holds for all."""
    hardening = {
        unit[unit.index("LimitNOFILE=") : unit.index("[Install]")] for unit in units().values()
    }
    assert len(units()) == len(NODE)
    assert len(hardening) == 1


def test_what_containers_mount_is_there() -> None:
    """A path that is missing would be made by the engine, as a directory of root's."""
    found = compose()
    mounted = [
        volume.partition(":")[0].removeprefix("./")
        for service in found["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    mounted += [secret["file"].removeprefix("./") for secret in found["secrets"].values()]
    assert mounted
    for path in mounted:
        assert path in MADE_BY_OPERATORS or (ROOT / path).exists(), path
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/{path}{slash}" for path, slash in MADE_BY_OPERATORS.items()} <= {*ignored}


@pytest.mark.integration
def test_nginx_of_the_compose_file_takes_its_configuration(tmp_path: Path) -> None:
    """What its command makes of deploy/nginx/dfs.conf asks the container, and nginx accepts it."""
    (_, _, command) = compose()["services"]["nginx"]["command"]
    made = tmp_path / "dfs.conf"
    command = command.replace("/etc/nginx/dfs.conf", str(ROOT / "deploy/nginx/dfs.conf"))
    command = command.replace("/etc/nginx/conf.d/dfs.conf", str(made))
    command, _, start = command.partition("&&")
    assert start.strip() == "exec nginx -g 'daemon off;'"
    subprocess.run(["/bin/sh", "-c", command], check=True)
    text = made.read_text()
    assert text.count("proxy_pass http://$dfs_node") == 2
    assert 'set $dfs_accel "";' in text
    assert "/dfs-blobs/;" not in text
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = re.sub(r"listen \[::\]:443.*", "", text).replace("listen 443", f"listen {port}")
    made.write_text(text.replace("/etc/dfs/", f"{CERTIFICATES}/"))
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; "
        f"include {made}; }}"
    )
    done = subprocess.run(
        ["nginx", "-t", "-p", str(tmp_path), "-c", str(whole)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
