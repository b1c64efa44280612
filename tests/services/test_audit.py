"""Who has done what, on both databases."""

from __future__ import annotations

import pytest

from dfs.core.access import NODE_ID, OPERATOR, Caller
from dfs.core.errors import WalCorruptError
from dfs.services import audit
from dfs.services.audit import Deed
from dfs.services.changes import Upload
from dfs.wiring import Services
from tests.services.compacting import compact, purge, store_many, stub_ids
from tests.services.conftest import Clock, Opener

ALICE, BOB = Caller(key_id="ALICE"), Caller(key_id="BOB")


def store(node: Services, name: str, caller: Caller) -> str:
    """Store a file for somebody; return its id."""
    blob = node.files.new_blob()
    blob.write(name.encode())
    return node.files.store([Upload(blob, name, "a/b")], caller=caller).files[0].id


def read_all(node: Services, **query: object) -> list[Deed]:
    """Follow the pages."""
    deeds: list[Deed] = []
    after: int | None = 0
    while after is not None:
        page = node.audit.read(**{"after": after, "limit": 3, **query})  # type: ignore[arg-type]
        assert len(page.deeds) <= 3
        deeds += page.deeds
        assert page.next is None or page.next > after
        after = page.next
    return deeds


def test_deeds_of_everybody_are_told_in_order(node: Services, clock: Clock) -> None:
    """Uploads, changes, deletions, restorations, purges; keys made and revoked."""
    key = node.keys.create(name="Jörg", scopes=15, caller=OPERATOR).key
    joerg = Caller(key_id=key.id)
    other = node.keys.create(name="other", scopes=1, caller=joerg).key
    file_id = store(node, "a", joerg)
    node.files.update(file_id, {"key": "b"}, caller=BOB)
    node.files.delete(file_id, caller=joerg)
    node.files.restore(file_id, caller=BOB)
    nobody = store(node, "x", Caller())
    node.keys.revoke(other.id, caller=joerg)
    node.files.delete(nobody)
    clock.advance(seconds=2 * node.config.delete_grace_s)
    node.garbage.work(budget_s=60)
    told = [
        (deed.action, deed.by, deed.file_id or deed.key_id, deed.file_name or deed.key_name)
        for deed in read_all(node)
    ]
    assert told == [
        ("create_key", "operator", key.id, "Jörg"),
        ("create_key", key.id, other.id, "other"),
        ("upload", key.id, file_id, "a"),
        ("update", "BOB", file_id, "b"),
        ("delete", key.id, file_id, "b"),
        ("restore", "BOB", file_id, "b"),
        ("upload", None, nobody, "x"),
        ("revoke_key", key.id, other.id, None),
        ("delete", NODE_ID, nobody, None),
        ("purge", NODE_ID, nobody, None),
    ]
    lsns = [deed.lsn for deed in read_all(node)]
    assert lsns == sorted(set(lsns))
    assert {deed.by_name for deed in read_all(node, by=key.id)} == {"Jörg"}
    assert len(read_all(node, by=key.id)) == 4
    assert [deed.action for deed in read_all(node, by="BOB")] == ["update", "restore"]
    assert len(read_all(node, file_id=file_id)) == 4
    assert read_all(node, file_id=file_id, by="CAROL") == []
    assert not any(deed.is_copy for deed in read_all(node))


def test_page_ends_after_so_much_was_read(node: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for what is rare gets pages without it, and asks on."""
    store(node, "first", ALICE)
    for number in range(10):
        store(node, f"{number}", BOB)
    store(node, "last", ALICE)
    for name, most in (("LOOKED_AT_MAX", 5), ("READ_BYTES_MAX", 700)):
        with monkeypatch.context() as limited:
            limited.setattr(audit, name, most)
            page = node.audit.read(after=0, limit=100, by="ALICE")
            assert [deed.file_name for deed in page.deeds] == ["first"]
            assert page.next is not None
            assert [deed.file_name for deed in read_all(node, by="ALICE")] == ["first", "last"]
    assert node.audit.read(after=10**9, limit=1).next is None
    assert node.audit.read(after=0, limit=12).next is None


def test_who_stored_a_file_is_known_after_its_segment_was_dropped(open_node: Opener) -> None:
    """The snapshot says it; that somebody else changed it meanwhile is lost."""
    node = open_node(wal_segment_bytes=100_000, compact_bytes_per_s=1 << 40)
    file_id = store(node, "a", ALICE)
    node.files.update(file_id, {"key": "b"}, caller=BOB)
    ids: list[str] = []
    while node.log.position.segment_id <= 2:
        ids += store_many(node, 4, prefix=f"x{len(ids)}-")
    purge(node, *ids)
    compact(node)
    assert 1 in stub_ids(node)
    (deed,) = read_all(node, file_id=file_id)
    assert (deed.action, deed.by, deed.file_name, deed.is_copy) == ("upload", "ALICE", "b", True)


def test_damage_is_no_end_of_the_trail(node: Services) -> None:
    """It is told, instead of a page that seems to be the last."""
    store(node, "a", ALICE)
    store(node, "b", ALICE)
    path = node.log.path / "wal.active"
    data = bytearray(path.read_bytes())
    data[node.log.position.offset - 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(WalCorruptError):
        node.audit.read(after=0, limit=100)
