"""Each check of the torture can fail, and for the right reason."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.wiring import Services
from tests.services.conftest import store_bytes
from tests.services.replicated import ReplicatedNode, replicate
from torture.checks import check_stores, compare_listing
from torture.ledger import TOKEN, Begun, Findings, Ledger, State
from torture.rebuild import find_differences

STORES = ("primary", "replica1", "replica2")
BLOB = os.urandom(100_000)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    yield ledger
    ledger.close()


def make_file(name: str, upload: str = "t1", **changes: Any) -> dict[str, Any]:
    """Return a file as the node lists it."""
    return {
        "id": f"id-{name}",
        "name": name,
        "sha256": "aa",
        "size": 1,
        "metadata": {TOKEN: upload, "note": ""},
        "deleted_at": None,
        **changes,
    }


def found(ledger: Ledger) -> set[str]:
    """Return the kinds of what was found."""
    return {kind for kind, texts in dataclasses.asdict(ledger.findings).items() if texts}


def test_listing_that_is_as_told_is_no_finding(ledger: Ledger) -> None:
    """What was acknowledged is there."""
    ledger.store("t1", [make_file("a")])
    compare_listing([make_file("a")], ledger)
    assert not ledger.findings


def test_acknowledged_file_that_is_not_listed_is_lost(ledger: Ledger) -> None:
    """And one whose deletion had no answer may be there or not, but then stays so."""
    ledger.store("t1", [make_file("a")])
    entry = ledger.entries["id-a"]
    ledger.doubt(entry, State("a", "", is_deleted=True), "no answer")
    compare_listing([make_file("a")], ledger)
    assert not ledger.findings
    compare_listing([], ledger)
    assert found(ledger) == {"lost"}


def test_deleted_file_that_is_listed_is_resurrected(ledger: Ledger) -> None:
    """Whether the deletion was acknowledged, or seen."""
    for name in ("a", "b"):
        ledger.store(name, [make_file(name)])
    ledger.change(ledger.entries["id-a"], State("a", "", is_deleted=True), "DELETE")
    ledger.doubt(ledger.entries["id-b"], State("b", "", is_deleted=True), "no answer")
    compare_listing([], ledger)
    assert not ledger.findings
    compare_listing([make_file("a"), make_file("b")], ledger)
    assert len(ledger.findings.resurrected) == 2


@pytest.mark.parametrize("change", [{"name": "b"}, {"sha256": "bb"}, {"size": 2}])
def test_file_listed_as_another_is_corrupt(ledger: Ledger, change: dict[str, Any]) -> None:
    """Name, bytes and size are those that were acknowledged."""
    ledger.store("t1", [make_file("a")])
    compare_listing([{**make_file("a"), **change}], ledger)
    assert found(ledger) == {"corrupt"}


FORM = Begun("t1", (("a", "aa", 1), ("b", "aa", 1)))


def test_upload_without_answer_is_there_as_a_whole_or_not_at_all(ledger: Ledger) -> None:
    """Half of a form is a broken promise."""
    ledger.begin(FORM)
    compare_listing([make_file("a"), make_file("b")], ledger)
    assert not ledger.findings
    assert set(ledger.entries) == {"id-a", "id-b"}
    ledger.begin(Begun("t2", FORM.files))
    compare_listing([make_file("a"), make_file("b"), make_file("c", "t2")], ledger)
    assert found(ledger) == {"corrupt"}


def test_upload_that_did_not_happen_never_appears(ledger: Ledger) -> None:
    """One that was not there after a round stays away; so does one that was refused."""
    ledger.begin(FORM)
    compare_listing([], ledger)
    ledger.begin(Begun("t2", (("c", "aa", 1),)))
    ledger.refuse("t2", "507 no_space")
    compare_listing([make_file("a"), make_file("b"), make_file("c", "t2")], ledger)
    assert len(ledger.findings.resurrected) == 2


def test_file_that_nobody_uploaded_is_unexplained(ledger: Ledger) -> None:
    """It bears no token of ours."""
    compare_listing([make_file("a", "t9")], ledger)
    assert found(ledger) == {"unexplained"}


# The files of a node at rest


@pytest.fixture(scope="module")
def rested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped node with two replicas, a small file, a large one and a deleted one."""
    directory = tmp_path_factory.mktemp("rested")
    node = ReplicatedNode(directory, f"sqlite:///{directory / 'index' / 'dfs.db'}")
    services = node.open()
    for name, data in (("small", b"small"), ("large", BLOB), ("gone", b"gone")):
        store_bytes(services, name, data, metadata={TOKEN: name, "note": ""})
    (gone,) = [file for file in listed(services) if file["name"] == "gone"]
    services.files.delete(gone["id"])
    replicate(services)
    node.close()
    return directory


def listed(services: Services) -> list[dict[str, Any]]:
    """Return all files of an open node as it would list them."""
    return [
        make_file(file.key, file.key, id=file.id, sha256=file.etag, size=file.size)
        for file in services.files.list(limit=100).files
    ]


@pytest.fixture
def node(rested: Path, tmp_path: Path) -> ReplicatedNode:
    """A copy of it that a test may spoil."""
    directory = Path(shutil.copytree(rested, tmp_path / "node"))
    return ReplicatedNode(directory, f"sqlite:///{directory / 'index' / 'dfs.db'}")


def judge(node: ReplicatedNode, ledger: Ledger, *, is_late: bool = True) -> Findings:
    """Hold the files of a stopped node against what the ledger would know of them."""
    if not ledger.entries:
        services = node.open()
        for file in listed(services):
            ledger.store(file["name"], [file])
        node.close()
    check_stores(
        node.wal, {name: node.directory / name for name in STORES}, ledger, is_late=is_late
    )
    return ledger.findings


def blob_path(node: ReplicatedNode, store: str) -> Path:
    """Return the blob file in a store."""
    (path,) = (node.directory / store / "blobs").glob("*/*/*")
    return path


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_sound_node_is_found_sound(node: ReplicatedNode, ledger: Ledger) -> None:
    """Nothing is found where nothing is wrong."""
    assert not judge(node, ledger)


HARMS: dict[str, tuple[Callable[[ReplicatedNode], object], str, str]] = {
    "log damaged": (
        lambda node: flip(node.wal / "wal.active", 120),
        "corrupt",
        "the log does not verify",
    ),
    "blob of the primary gone": (
        lambda node: blob_path(node, "primary").unlink(),
        "corrupt",
        "primary: large",
    ),
    "blob of a replica damaged": (
        lambda node: flip(blob_path(node, "replica2"), 70_000),
        "corrupt",
        "replica2: large",
    ),
    "replica lags": (
        lambda node: os.truncate(node.segment(1, "replica1"), 80),
        "corrupt",
        "replica1: segment 1",
    ),
    "temporary file left": (
        lambda node: (node.directory / "replica1" / "tmp" / "1-ab").touch(),
        "unexplained",
        "replica1: left behind: tmp/1-ab",
    ),
    "orphan left": (
        lambda node: (blob_path(node, "replica1").parent / ("0" * 64)).touch(),
        "unexplained",
        "orphan 0000",
    ),
    "stranger in the log": (
        lambda node: (node.wal / "core").touch(),
        "unexplained",
        "log: left behind: core",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_harmed_store_is_found(node: ReplicatedNode, ledger: Ledger, harm: str) -> None:
    """Whatever is wrong with the files of any store is a finding."""
    do_harm, kind, text = HARMS[harm]
    assert not judge(node, ledger)
    do_harm(node)
    judge(node, ledger)
    assert any(text in finding for finding in getattr(ledger.findings, kind)), ledger.findings


def test_log_that_tells_otherwise_than_the_node_is_found(
    node: ReplicatedNode, ledger: Ledger
) -> None:
    """A file only in the ledger, one only in the log, one that is another."""
    judge(node, ledger)
    small, large = sorted(ledger.entries.values(), key=lambda entry: entry.size)
    small.states = {State("small", "", is_deleted=True)}
    large.states = {State("other", "")}
    ledger.store("never", [make_file("never")])
    findings = judge(node, ledger)
    assert [len(findings.lost), len(findings.resurrected), len(findings.corrupt)] == [1, 1, 1]


def test_index_that_is_not_what_its_log_says_is_found(node: ReplicatedNode, tmp_path: Path) -> None:
    """Compared with one that is rebuilt, row by row."""
    for number, statement in enumerate(("", "UPDATE dfs_file SET size = size + 1")):
        if statement:
            services = node.open()
            with services.index.begin() as transaction:
                services.index.write(statement)
                transaction.commit()
            node.close()
        scratch = tmp_path / f"scratch{number}"
        scratch.mkdir()
        url = f"sqlite:///{scratch / 'index' / 'dfs.db'}"
        assert bool(list(find_differences(node.config, scratch, url))) == bool(statement)
