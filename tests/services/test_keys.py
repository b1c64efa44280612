"""API keys, on both databases: in the log like everything else."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from dfs.core.access import ALL_SCOPES, NODE_ID, OPERATOR, Caller, Key, Scope
from dfs.core.clock import now_ms
from dfs.core.errors import InvalidRequestError, LastKeyError, NoSuchKeyError
from dfs.core.signing import KEY_ID_CHARS, hash_secret, make_token
from dfs.guarding import make_first_key
from dfs.services import keyring
from dfs.services.keys import NewKey
from dfs.wal.record import PutKey, RevokeKey
from dfs.wiring import Services
from tests.services.compacting import compact, metas, purge, store_many, stub_ids
from tests.services.conftest import Clock, Opener, lose_index, store_bytes
from tests.services.recount import check_figures
from tests.services.replicated import ReplicatedNode, replicate

ALICE = Caller(key_id="ALICE")


def create(node: Services, name: str = "key", scopes: int = ALL_SCOPES, **terms: object) -> NewKey:
    """Make a key."""
    return node.keys.create(name=name, scopes=scopes, caller=OPERATOR, **terms)  # type: ignore[arg-type]


def facts(node: Services) -> list[tuple[object, ...]]:
    """Return all that is known of keys, but for their places in the log."""
    places = {"lsn", "first_lsn", "segment_id", "length"}
    return [
        tuple(getattr(key, name) for name in Key.__struct_fields__ if name not in places)
        for key in node.keys.list()
    ]


def test_key_is_made_listed_and_found(node: Services) -> None:
    """With all that was asked for."""
    expires_at_ms = now_ms() + 10_000
    made = create(node, "Jörg", Scope.READ | Scope.WRITE, prefix="a/", expires_at_ms=expires_at_ms)
    assert node.keys.list() == [made.key]
    assert node.keys.find(made.key.id) == made.key
    key = made.key
    assert (key.name, key.scopes, key.prefix, key.expires_at_ms) == ("Jörg", 3, "a/", expires_at_ms)
    assert (key.created_by, key.last_used_at_ms) == ("operator", None)
    assert len(key.id) == KEY_ID_CHARS
    assert abs(key.created_at_ms - now_ms()) < 60_000


def test_secret_is_random_and_nowhere_on_disk(open_node: Opener, tmp_path, index_url: str) -> None:
    """256 bits, another each time; log and index hold its hash, from which nothing follows."""
    node = open_node()
    made = [create(node) for _ in range(20)]
    assert len({new.secret for new in made}) == 20
    assert {len(new.secret) for new in made} == {43}
    assert made[0].key.secret_hash == hashlib.sha256(made[0].secret.encode()).digest()
    assert len({made[0].key.secret_hash, made[0].key.signing_key}) == 2
    node.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(made[0].key.secret_hash in path.read_bytes() for path in files)
    for path in files:
        assert not any(new.secret.encode() in path.read_bytes() for new in made), path


def test_keyring_knows_a_key_by_its_secret_alone(node: Services) -> None:
    """Not by another's, by its hash, or by nothing."""
    one, other = create(node), create(node)
    ring = node.keyring
    assert ring.verify(one.key.id, hash_secret(one.secret)) == one.key
    for secret in (other.secret, "", one.key.secret_hash.hex(), one.secret[:-1]):
        assert ring.verify(one.key.id, hash_secret(secret)) is None
    assert ring.verify("0" * 12, bytes(32)) is None, "the hash that stands for no key"
    assert ring.verify("", hash_secret("")) is None


WRONG_TERMS: list[tuple[dict[str, object], str]] = [
    ({"name": ""}, "name"),
    ({"name": "x" * 129}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"name": "\ud800"}, "name"),
    ({"scopes": 0}, "scopes"),
    ({"scopes": 16}, "scopes"),
    ({"prefix": "a\nb", "scopes": 1}, "prefix"),
    ({"prefix": "x" * 1025, "scopes": 1}, "prefix"),
    ({"prefix": "a/", "scopes": ALL_SCOPES}, "prefix"),
    ({"expires_at_ms": 1}, "expires_at"),
]


def test_key_that_cannot_be_is_refused(node: Services) -> None:
    """Naming what is wrong; nothing is in the log."""
    before = node.log.position
    for terms, field in WRONG_TERMS:
        with pytest.raises(InvalidRequestError) as caught:
            create(node, **{"name": "key", **terms})  # type: ignore[arg-type]
        assert list(caught.value.fields) == [field]
    assert node.log.position == before


def test_key_revoked_is_gone(node: Services) -> None:
    """From the list, for the keyring, and for whoever revokes it again."""
    one, other = create(node), create(node)
    node.keys.revoke(one.key.id, caller=ALICE)
    assert node.keys.list() == [other.key]
    assert node.keyring.find(one.key.id) is None
    for key_id in (one.key.id, "nobody"):
        with pytest.raises(NoSuchKeyError):
            node.keys.revoke(key_id, caller=ALICE)
    with pytest.raises(NoSuchKeyError):
        node.keys.find(one.key.id)
    (revoked,) = [meta for meta in metas(node) if isinstance(meta, RevokeKey)]
    assert (revoked.id, revoked.by) == (one.key.id, "ALICE")
    check_figures(node)


def test_last_key_stays_unless_that_is_meant(node: Services) -> None:
    """Without any the node would be open to everybody on its machine again."""
    made = create(node)
    assert not node.keyring.is_empty()
    with pytest.raises(LastKeyError):
        node.keys.revoke(made.key.id, caller=ALICE)
    assert node.keys.list() == [made.key]
    node.keys.revoke(made.key.id, caller=OPERATOR, may_be_last=True)
    assert node.keys.list() == []


def test_keys_expired_are_forgotten_but_the_last(node: Services, clock: Clock) -> None:
    """After the grace time; a node all of whose keys have expired is not one that has none."""
    soon = now_ms() + 1000
    made = [create(node, expires_at_ms=soon) for _ in range(3)]
    assert node.keyring.find(made[0].key.id) is not None
    clock.advance(seconds=2)
    assert node.keyring.find(made[0].key.id) is None
    node.garbage.work(budget_s=60)
    assert len(node.keys.list()) == 3
    clock.advance(seconds=node.config.delete_grace_s)
    node.garbage.work(budget_s=60)
    assert len(node.keys.list()) == 1
    assert not node.keyring.is_empty()
    assert {meta.by for meta in metas(node) if isinstance(meta, RevokeKey)} == {NODE_ID}
    lasting = create(node)
    node.garbage.work(budget_s=60)
    assert node.keys.list() == [lasting.key]
    check_figures(node)


def test_rebuild_of_the_index_gives_the_same_keys(open_node: Opener) -> None:
    """All but when they were last used."""
    node = open_node()
    kept = [create(node, f"k{number}", Scope.READ, prefix=f"{number}/") for number in range(5)]
    gone = create(node)
    node.keys.revoke(gone.key.id, caller=OPERATOR)
    before = facts(node)
    assert len(before) == len(kept)
    lose_index(node)
    rebuilt = open_node()
    assert facts(rebuilt) == before
    check_figures(rebuilt)


def test_compaction_moves_keys_that_are_good_and_purges_the_others(open_node: Opener) -> None:
    """A key in a segment that is dropped is as good as before; a revoked one never comes back."""
    node = open_node(wal_segment_bytes=100_000, compact_bytes_per_s=1 << 40)
    kept, early, late = create(node, "kept"), create(node, "early"), create(node, "late")
    node.keys.revoke(early.key.id, caller=OPERATOR)
    for number in range(8):
        ids: list[str] = []
        while node.log.position.segment_id <= number + 1:
            ids += store_many(node, 4, prefix=f"{number}-{len(ids)}-")
        if number == 1:
            node.keys.revoke(late.key.id, caller=OPERATOR)
        purge(node, *ids)
        compact(node)
    assert len(stub_ids(node)) >= 4
    found = metas(node)
    puts = [meta for meta in found if isinstance(meta, PutKey)]
    assert {meta.id for meta in puts} == {kept.key.id}
    assert not [meta for meta in found if isinstance(meta, RevokeKey)], "nothing to take away"
    before = facts(node)
    assert [values[0] for values in before] == [kept.key.id]
    assert node.keys.find(kept.key.id).first_lsn == kept.key.first_lsn
    check_figures(node)
    lose_index(node)
    rebuilt = open_node()
    assert facts(rebuilt) == before
    assert rebuilt.keyring.verify(kept.key.id, hash_secret(kept.secret)) is not None
    assert rebuilt.keys.find(kept.key.id).first_lsn == kept.key.first_lsn
    check_figures(rebuilt)


def test_revocation_is_moved_while_the_key_may_come_back(open_node: Opener) -> None:
    """As long as the segment that put the key is there, what revokes it must be, too."""
    node = open_node(wal_segment_bytes=100_000, compact_bytes_per_s=1 << 40)
    create(node)
    gone = create(node)
    while node.log.position.segment_id <= 1:  # stays alive
        store_many(node, 4)
    node.keys.revoke(gone.key.id, caller=ALICE)
    ids: list[str] = []
    while node.log.position.segment_id <= 3:
        ids += store_many(node, 4, prefix=f"x{len(ids)}-")
    purge(node, *ids)
    compact(node)
    assert 1 not in stub_ids(node)
    assert 2 in stub_ids(node)
    (moved,) = [meta for meta in metas(node) if isinstance(meta, RevokeKey)]
    assert (moved.id, moved.by) == (gone.key.id, "ALICE")
    assert moved.at_lsn > 0
    check_figures(node)
    lose_index(node)
    assert len(open_node().keys.list()) == 1


def test_revocation_is_moved_while_a_segment_too_small_to_go_has_the_key(open_node: Opener) -> None:
    """Such a segment is never compacted, so what it puts could come back for ever."""
    node = open_node(wal_segment_bytes=100_000, compact_bytes_per_s=1 << 40)
    create(node)
    gone = create(node)
    with node.log.lock():
        node.committer._rotate_if_full(1 << 30)
    node.keys.revoke(gone.key.id, caller=ALICE)
    ids: list[str] = []
    while node.log.position.segment_id <= 3:
        ids += store_many(node, 4, prefix=f"x{len(ids)}-")
    purge(node, *ids)
    compact(node)
    assert 2 in stub_ids(node)
    assert 1 not in stub_ids(node)
    lose_index(node)
    assert len(open_node().keys.list()) == 1


def test_key_given_anew_outlives_its_old_revocation(open_node: Opener) -> None:
    """As DFS_FIRST_KEY gives it: what revoked it then, moved to the end, does not do so again."""
    node = open_node(wal_segment_bytes=100_000, compact_bytes_per_s=1 << 40)
    token = make_token()
    gone = create(node, token=token)
    while node.log.position.segment_id <= 1:  # stays alive
        store_many(node, 4)
    node.keys.revoke(gone.key.id, caller=ALICE, may_be_last=True)
    ids: list[str] = []
    while node.log.position.segment_id <= 2:
        ids += store_many(node, 4, prefix=f"x{len(ids)}-")
    again = create(node, token=token)
    while node.log.position.segment_id <= 3:  # stays alive
        store_many(node, 4, prefix="y")
    purge(node, *ids)
    compact(node)
    (moved,) = [meta for meta in metas(node) if isinstance(meta, RevokeKey)]
    assert moved.at_lsn > 0
    assert [key.id for key in node.keys.list()] == [again.key.id]
    check_figures(node)
    lose_index(node)
    assert [key.id for key in open_node().keys.list()] == [again.key.id]


def test_first_key_that_another_start_makes_meanwhile_is_no_fault(node: Services) -> None:
    """Both have seen before that there is none."""
    token = make_token()
    for _ in range(2):
        make_first_key(node.keys, token)
    assert [key.id for key in node.keys.list()] == [token[4:16]]


def test_last_use_is_noted_once_a_minute(node: Services, clock: Clock) -> None:
    """Without a record of the log; and nobody waits for it."""
    made = create(node)
    before = node.log.position
    for _ in range(3):
        node.keyring.note_use(made.key)
        clock.advance(seconds=25)
    node.hasher.submit(lambda: None).result()
    _await(lambda: node.keys.find(made.key.id).last_used_at_ms is not None)
    first = node.keys.find(made.key.id).last_used_at_ms
    assert first is not None
    assert abs(first - now_ms()) < 60_000
    node.keyring.note_use(made.key)
    _await(lambda: node.keys.find(made.key.id).last_used_at_ms != first)
    assert node.log.position == before
    check_figures(node)


def _await(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to be so")


def test_other_process_sees_new_and_revoked_keys(
    open_node: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of a node share the log and the index, and nothing else."""
    one, other = open_node(), open_node()
    moment = [1000.0]
    monkeypatch.setattr(other.keyring, "_clock", lambda: moment[0])
    assert other.keyring.is_empty()
    create(one)
    made = create(one)
    assert other.keyring.find(made.key.id) == made.key
    one.keys.revoke(made.key.id, caller=OPERATOR)
    moment[0] += keyring.AGE_S_MAX
    assert other.keyring.find(made.key.id) is None
    assert not other.keyring.is_empty()


def test_changes_say_who_asked_for_them(open_node: Opener) -> None:
    """In the record of each; and a file is known by who made it, wherever its record is moved."""
    node = open_node(wal_segment_bytes=100_000, compact_bytes_per_s=1 << 40)
    blob = node.files.new_blob()
    blob.write(b"x")
    from dfs.services.changes import Upload

    (file,) = node.files.store([Upload(blob, "a", "a/b")], caller=ALICE).files
    node.files.update(file.id, {"key": "b"}, caller=Caller(key_id="BOB"))
    node.files.delete(file.id, caller=Caller(key_id="CAROL"))
    node.files.restore(file.id, caller=Caller(key_id="DAVE"))
    doers = [meta.by for meta in metas(node) if getattr(meta, "by", "")]
    assert doers == ["ALICE", "BOB", "CAROL", "DAVE"]
    assert file.made_by == "ALICE"
    ids: list[str] = []
    while node.log.position.segment_id <= 2:
        ids += store_many(node, 4, prefix=f"x{len(ids)}-")
    purge(node, *ids)
    compact(node)
    assert 1 in stub_ids(node)
    assert node.files.find(file.id).made_by == "ALICE"
    assert "ALICE" in {getattr(meta, "by", "") for meta in metas(node)}
    lose_index(node)
    assert open_node().files.find(file.id).made_by == "ALICE"


def test_files_expired_are_deleted_by_the_node(node: Services, clock: Clock) -> None:
    """Nobody asked for it."""
    store_bytes(node, "a", b"x", expires_at_ms=now_ms() + 1000)
    clock.advance(seconds=2)
    node.garbage.work(budget_s=60)
    assert [meta.by for meta in metas(node) if type(meta).__name__ == "DeleteFile"] == [NODE_ID]


def test_key_id_that_cannot_be_is_never_asked_for(node: Services) -> None:
    """A database may refuse such texts, and that is nobody's fault but the client's."""
    for key_id in ("\0" * 12, "\ud800" * 12, "'; --" + "0" * 7, "", "x" * 5000):
        assert node.keyring.verify(key_id, bytes(32)) is None
        with pytest.raises(NoSuchKeyError):
            node.keys.find(key_id)
        with pytest.raises(NoSuchKeyError):
            node.keys.revoke(key_id, caller=OPERATOR)


def test_keys_are_back_after_the_loss_of_the_primary(tmp_path: Path, sqlite_url: str) -> None:
    """A replica has all of the log, so it has the keys, and which were revoked."""
    cluster = ReplicatedNode(tmp_path, sqlite_url)
    node = cluster.open()
    kept, gone = create(node, "kept"), create(node, "gone")
    node.keys.revoke(gone.key.id, caller=OPERATOR)
    before = facts(node)
    replicate(node)
    cluster.close()
    cluster.lose()
    node = cluster.open()
    assert facts(node) == before
    assert node.keyring.verify(kept.key.id, hash_secret(kept.secret)) is not None
    assert node.keyring.verify(gone.key.id, hash_secret(gone.secret)) is None
    cluster.close()
