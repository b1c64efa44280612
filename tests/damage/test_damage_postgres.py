"""Damage to a node whose index is in PostgreSQL: it is there still when files are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from dfs.services.recovery import REBUILD_NAME
from tests.damage.cases import Case, bounded, list_cases, memory, quiet
from tests.damage.harm import list_harms
from tests.damage.look import Verdict, examine
from tests.damage.store import Template, build
from torture.postgres import PostgresServer

SAMPLE = 2
STRIDE = 50
"""One of so many cases is tried here."""


@pytest.fixture(scope="module", params=[True, False], ids=["replica", "alone"])
def template(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[Template]:
    """A node of each kind, to be copied; without a replica it was killed."""
    with memory() as directory, quiet(), postgres_server.new_database() as url:
        yield build(
            directory, has_replica=request.param, is_killed=not request.param, index_url=url
        )


def try_case(template: Template, case: Case, server: PostgresServer) -> Verdict:
    """Damage a copy of a node, its index included, and see what comes of it."""
    assert template.index_url is not None
    name = template.index_url.rpartition("/")[2]
    with memory() as directory, quiet(), server.new_database(like=name) as url:
        template.copy(directory)
        path = directory / case.path
        list_harms(path, sample=SAMPLE)[case.harm](path)
        return examine(directory, replace(template, index_url=url))


@pytest.mark.slow
def test_damaged_file_beside_an_index_in_postgresql_is_mended_or_told_of(
    template: Template, postgres_server: PostgresServer
) -> None:
    """As with SQLite."""
    cases = list_cases(template, sample=SAMPLE)
    with bounded():
        verdicts = {case: try_case(template, case, postgres_server) for case in cases[::STRIDE]}
    assert len(verdicts) > 5
    assert {case: verdict.faults for case, verdict in verdicts.items() if verdict.faults} == {}


def test_index_in_postgresql_is_rebuilt_when_it_is_asked_for(
    template: Template, postgres_server: PostgresServer
) -> None:
    """Tables that are gone, or say something else, come back from the log."""
    assert template.index_url is not None
    name = template.index_url.rpartition("/")[2]
    with memory() as directory, quiet(), postgres_server.new_database(like=name) as url:
        template.copy(directory)
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE dfs_file SET size = size + 1, key = 'x' || id")
            connection.execute("TRUNCATE dfs_blob")
        (directory / "wal" / REBUILD_NAME).touch()
        verdict = examine(directory, replace(template, index_url=url))
    assert (verdict.outcome, verdict.faults, verdict.words) == ("whole", [], [])
