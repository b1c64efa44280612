"""Settings must be documented, be read from where we say, and complain all at once."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from dfs.core.config import Config, load_config
from dfs.core.errors import ConfigError
from dfs.core.settings import SETTINGS
from scripts.run import child_environ


def test_settings_are_exactly_the_attributes_of_config() -> None:
    """A setting without an attribute, or the other way round, cannot exist."""
    attributes = dict.fromkeys(
        "replicas" if setting.name.startswith("REPLICA") else setting.attribute
        for setting in SETTINGS
    )
    assert set(attributes) == {field.name for field in fields(Config)}
    assert all(setting.help for setting in SETTINGS)


def test_load_config_reports_all_faults_together() -> None:
    """An operator sees every wrong setting at once, each with its value and the reason."""
    environ = {
        "PORT": "eighty",
        "DEBUG": "perhaps",
        "DATABASE_URL": "mysql://x",
        "DFS_THREADS": "0",
    }
    with pytest.raises(ConfigError) as raised:
        load_config(environ, env_file="")
    for name, value in environ.items():
        assert f"{name}={value!r} must be" in str(raised.value)


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_load_config_tells_no_password(name: str) -> None:
    """What is wrong with a setting ends up in logs."""
    with pytest.raises(ConfigError) as raised:
        load_config({name: "mysql://user:hunter2@host/db"}, env_file="")
    assert "hunter2" not in str(raised.value)
    assert "mysql://***@host/db" in str(raised.value)


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
@pytest.mark.parametrize(
    "password", ["hun/ter", "hun@ter", "hun:ter", "/hun", "hun/7:ter@", "hun?ter"]
)
@pytest.mark.parametrize("scheme", ["http", "redis", "postgresql"])
def test_load_config_tells_nothing_of_a_password_that_is_written_wrong(
    name: str, password: str, scheme: str
) -> None:
    """Neither does what fails later: it is told here that it is wrong."""
    said = ""
    try:
        load_config({name: f"{scheme}://user:{password}@host:1/0"}, env_file="")
    except ConfigError as error:
        said = str(error)
    assert said or not {"/", "?"} & {*password}
    assert "hun" not in said
    assert "ter" not in said


@pytest.mark.parametrize(
    ("url", "verify", "expected"),
    [
        ("rediss://:x@h:1", "off", "rediss://:x@h:1?ssl_cert_reqs=none"),
        ("rediss://h:1/0?a=b", "off", "rediss://h:1/0?a=b&ssl_cert_reqs=none"),
        ("rediss://h?ssl_cert_reqs=none", "off", "rediss://h?ssl_cert_reqs=none"),
        ("rediss://:x@h:1", "on", "rediss://:x@h:1"),
        ("redis://h:1", "off", "redis://h:1"),
        ("", "off", None),
    ],
)
def test_load_config_says_in_the_address_whether_redis_is_verified(
    url: str, verify: str, expected: str | None
) -> None:
    """So that all who connect to it do the same; said twice it is the same."""
    assert load_config({"REDIS_URL": url, "DFS_REDIS_VERIFY": verify}).redis_url == expected


def test_load_config_environment_wins_over_env_file(tmp_path: Path) -> None:
    """`.env` gives what the environment does not."""
    env_file = tmp_path / ".env"
    env_file.write_text("PORT=9001\nDFS_THREADS=3\n")
    config = load_config({"PORT": "9002"}, env_file=str(env_file))
    assert (config.port, config.threads) == (9002, 3)


def test_load_config_reads_env_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.env` is looked for where the program was started."""
    (tmp_path / ".env").write_text("DFS_NODE_ID=from-file\n")
    monkeypatch.chdir(tmp_path)
    assert load_config({}).node_id == "from-file"


def test_load_config_paths_start_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means the same after a change of directory as at the start."""
    monkeypatch.chdir(tmp_path)
    config = load_config({"STORAGE_PATH": "files", "WAL_PATH": "/var/log/dfs"}, env_file="")
    assert config.storage_path == tmp_path / "files"
    assert config.wal_path == Path("/var/log/dfs")
    assert config.database_url == f"sqlite:///{tmp_path}/data/dfs.db"


def test_load_config_empty_value_means_the_default() -> None:
    """`PORT=` in a file of variables is no fault."""
    assert load_config({"PORT": " "}, env_file="").port == 8000


def test_load_config_replicas_come_by_number(tmp_path: Path) -> None:
    """Any number of replicas can be set; one set to nothing is none, one unset has its default."""
    environ = {"REPLICA10_PATH": "s3://bucket/dfs/", "REPLICA3_PATH": "/c", "REPLICA1_PATH": ""}
    config = load_config(environ, env_file="")
    assert config.replicas == (
        ("replica2", str(Path("data/replica2").absolute())),
        ("replica3", "/c"),
        ("replica10", "s3://bucket/dfs"),
    )


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"REPLICA3_PATH": "ftp://x/y"}, "REPLICA3_PATH='ftp://x/y' must be"),
        ({"STORAGE_PATH": "/a", "REPLICA1_PATH": "/a"}, "two stores are at /a"),
        ({"DFS_REPLICATION": "sync", "DFS_WRITE_QUORUM": "4"}, "DFS_WRITE_QUORUM=4 cannot"),
        ({"DFS_REPLICATION": "maybe"}, "must be async or sync"),
        ({"DFS_TLS_CERT_PATH": "a"}, "belong together"),
        ({"DFS_AUTH": "no"}, "must be on or off"),
        ({"DFS_ACCEL_PREFIX": "dfs-blobs"}, "must be such as /dfs-blobs/"),
    ],
)
def test_load_config_refuses_what_contradicts(environ: dict[str, str], fault: str) -> None:
    """Stores that cannot be, or a quorum that could never be reached, are told at the start."""
    with pytest.raises(ConfigError) as raised:
        load_config(environ, env_file="")
    assert fault in str(raised.value)


def test_settings_reach_the_processes_of_a_node_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `make run` hands on to its children is read by them as the same configuration."""
    monkeypatch.chdir(tmp_path)
    config = load_config({"REPLICA2_PATH": "", "REPLICA3_PATH": "s3://bucket/prefix"})
    environ = child_environ(config, port=config.port, redis_url="redis://localhost:1")
    assert load_config(environ) == replace(config, redis_url="redis://localhost:1")
