"""Imports must go downwards only, and the check of that must be able to fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter with the contracts of `root` over the code there."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the program that a test may spoil."""
    ignore = shutil.ignore_patterns("__pycache__", "static")
    for folder in ("dfs", "workers", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_layers_of_the_program_are_kept() -> None:
    """The program keeps every contract."""
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("dfs/core/errors.py", "import dfs.wal", "Imports go downwards only"),
        ("dfs/wal/frame.py", "import dfs.storage", "Imports go downwards only"),
        ("dfs/queue/base.py", "import dfs.db", "Imports go downwards only"),
        ("dfs/services/files.py", "import dfs.api", "Imports go downwards only"),
        ("dfs/wiring.py", "import workers", "Imports go downwards only"),
        ("dfs/services/commit.py", "import dfs.telemetry", "Metrics are set up from above"),
        ("dfs/telemetry/metrics.py", "import dfs.services", "uses nothing of dfs but dfs.core"),
        ("dfs/services/commit.py", "import opentelemetry.trace", "OpenTelemetry only in"),
        ("workers/run.py", "import opentelemetry.sdk.trace", "OpenTelemetry only in"),
        ("dfs/services/files.py", "import peewee", "Databases only in dfs.db"),
        ("workers/jobs.py", "import sqlite3", "Databases only in dfs.db"),
        ("dfs/services/files.py", "import redis", "rq and redis only in dfs.queue"),
        ("dfs/services/files.py", "import obstore", "only in dfs.storage.object_client"),
        ("dfs/storage/object_store.py", "import obstore", "only in dfs.storage.object_client"),
        ("dfs/services/files.py", "import flask", "Flask only in dfs.api"),
    ],
)
def test_layers_forbidden_import_is_found(
    copy: Path, module: str, line: str, contract: str
) -> None:
    """An import that a contract forbids breaks that contract."""
    path = copy / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    result = lint_imports(copy)
    assert result.returncode == 1
    broken = [text for text in result.stdout.splitlines() if "BROKEN" in text]
    assert any(contract in text for text in broken), result.stdout
