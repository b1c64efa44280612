"""What the program imports must be what `requirements.txt` brings, and only that."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("dfs", "workers", "scripts")
NEEDED_UNIMPORTED = {
    "hiredis",  # redis uses it by itself: replies parsed in C
    "psycopg",  # peewee uses it for postgresql:// addresses
}
_LINE = re.compile(r"([a-z0-9-]+)(\[[a-z]+\])?==([0-9][^ ]*) +# \S.*")


def requirements() -> dict[str, str]:
    """Return name and version of each package that a node needs."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line]
    matches = [(line, _LINE.fullmatch(line)) for line in lines if not line.startswith("#")]
    assert not [line for line, match in matches if match is None]
    found = [(match[1], match[3]) for _, match in matches if match is not None]
    assert len(dict(found)) == len(found)
    return dict(found)


def imported_packages() -> set[str]:
    """Return the distributions that the program imports."""
    files = [path for folder in PROGRAM for path in (ROOT / folder).rglob("*.py")]
    modules: set[str] = set()
    for path in [*files, ROOT / "wsgi.py", ROOT / "gunicorn.conf.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    foreign = modules - sys.stdlib_module_names - {*PROGRAM, "_typeshed"}
    known = packages_distributions()
    return {re.sub(r"[._]", "-", known[module][0]).lower() for module in foreign}


def test_requirements_cover_what_is_imported() -> None:
    """A fresh install can import everything: nothing is there only by luck."""
    through_another = {"werkzeug", "webargs", "prometheus-client"}  # Flask's, smorest's, exporter's
    assert imported_packages() - through_another <= requirements().keys()


def test_requirements_hold_nothing_unused() -> None:
    """No package is installed that nothing uses."""
    unused = requirements().keys() - imported_packages() - NEEDED_UNIMPORTED
    assert unused == set()


def test_constraints_agree_with_requirements() -> None:
    """The pinned set of all packages has exactly the versions that are asked for."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    normal = {re.sub(r"[._]", "-", name).lower(): version for name, version in pinned.items()}
    assert {name: normal[name] for name in requirements()} == requirements()
