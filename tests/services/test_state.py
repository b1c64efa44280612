"""A node against a model, with crashes at random steps."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from dfs.core.access import OPERATOR
from dfs.core.errors import NoSuchFileError
from dfs.core.model import File
from dfs.db.repository import IndexRepository
from dfs.services.garbage import DropBlobs, PurgeFiles
from dfs.wiring import Services, open_services
from tests.services.compacting import compact
from tests.services.conftest import list_keys, list_whole, lose_index, make_config, store_bytes
from tests.services.recount import check_figures
from tests.services.test_crash import ROTATION_STEPS, STEPS

FAR_MS = 1 << 50
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A crash here ends no more than a process, and to sync a disk takes most of the time."""
SIZES = st.sampled_from([0, 1, 500, 3000, 5000])


class SimulatedCrashError(BaseException):
    """The process is gone: nothing of it runs any more but what the kernel does."""


class NodeMachine(RuleBasedStateMachine):
    """Uploads, changes, deletes, keys, crashes, restarts, rebuilds; the model is dictionaries."""

    ids = Bundle("ids")
    deleted_ids = Bundle("deleted_ids")

    @initialize()
    def begin(self) -> None:
        """Open an empty node with tiny segments."""
        self.directory = Path(tempfile.mkdtemp(prefix="dfs-state-", dir=MEMORY))
        self.fatal: tuple[str, int] | None = None
        self.files: dict[str, tuple[str, str]] = {}
        self.trash: dict[str, tuple[str, str]] = {}
        self.uncertain: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.nodes: list[Services] = []
        self.node = self.open()

    def open(self) -> Services:
        """Open the node as a new process would."""
        url = f"sqlite:///{self.directory / 'index.db'}"
        config = make_config(self.directory, url)
        config = replace(
            config,
            wal_segment_bytes=20_000,
            wal_preallocate_bytes=4096,
            inline_blob_bytes_max=4096,
            compact_dead_ratio=0.1,
            compact_bytes_per_s=1 << 40,
        )
        services = open_services(config, on_step=self.on_step)
        self.nodes.append(services)
        return services

    def on_step(self, name: str) -> None:
        """Crash at the chosen step."""
        if self.fatal is not None and name == self.fatal[0]:
            step, count = self.fatal
            self.fatal = (step, count - 1) if count > 1 else None
            if count == 1:
                raise SimulatedCrashError(name)

    def change(self, work) -> object:
        """Do a change; after a crash, start again and find out whether it happened."""
        try:
            return work()
        except SimulatedCrashError:
            self.node = self.open()
            return None

    @rule(target=ids, size=SIZES, seed=st.integers(0, 5), name=st.sampled_from("abc"))
    def upload(self, size: int, seed: int, name: str) -> str:
        """Store a file, often of bytes that are there already."""
        data = (b"%d" % seed * size)[:size]
        digest = hashlib.sha256(data).hexdigest()
        before = set(self.files)
        stored = self.change(lambda: store_bytes(self.node, name, data))
        if stored is not None:
            self.files[stored.files[0].id] = (name, digest)
            return stored.files[0].id
        found = {file.id: file for file in self.node.files.list(limit=1000).files}
        new = set(found) - before
        assert len(new) <= 1
        for file_id in new:
            assert (found[file_id].key, found[file_id].etag) == (name, digest)
            self.files[file_id] = (name, digest)
            return file_id
        return "0" * 26

    @rule(file_id=ids, name=st.sampled_from("xyz"))
    def rename(self, file_id: str, name: str) -> None:
        """Change a name."""
        if file_id not in self.files:
            return
        digest = self.files[file_id][1]
        done = self.change(lambda: self.node.files.update(file_id, {"key": name}))
        if done is None and self.node.files.find(file_id).key != name:
            return
        self.files[file_id] = (name, digest)

    @rule(target=deleted_ids, file_id=ids)
    def delete(self, file_id: str) -> str:
        """Put a file into the trash."""
        if file_id not in self.files:
            return file_id
        done = self.change(lambda: self.node.files.delete(file_id))
        if done is None:
            try:
                self.node.files.find(file_id)
                return file_id
            except NoSuchFileError:
                pass
        self.trash[file_id] = self.files.pop(file_id)
        return file_id

    @rule(file_id=deleted_ids)
    def restore(self, file_id: str) -> None:
        """Take a file out of the trash."""
        if file_id not in self.trash:
            return
        done = self.change(lambda: self.node.files.restore(file_id))
        if done is None and file_id in {file.id for file in self.list_trash()}:
            return
        self.files[file_id] = self.trash.pop(file_id)

    @rule(prefix=st.sampled_from("abc"))
    def make_key(self, prefix: str) -> None:
        """Make an API key."""
        terms = {"name": "key", "scopes": 1, "prefix": prefix, "caller": OPERATOR}
        before = set(self.keys)
        self.change(lambda: self.node.keys.create(**terms))
        new = [key for key in self.node.keys.list() if key.id not in before]
        assert len(new) <= 1
        self.keys.update((key.id, prefix) for key in new)

    @rule(place=st.integers(0, 3))
    def revoke_key(self, place: int) -> None:
        """Revoke one of the keys."""
        if not self.keys:
            return
        key_id = sorted(self.keys)[place % len(self.keys)]
        terms = {"caller": OPERATOR, "may_be_last": True}
        self.change(lambda: self.node.keys.revoke(key_id, **terms))
        if self.node.keyring.find(key_id) is None:
            del self.keys[key_id]

    @rule()
    def purge(self) -> None:
        """Empty the trash."""
        command = PurgeFiles(self.list_trash(), deleted_by_ms=FAR_MS)
        done = self.change(lambda: self.node.committer.submit(command))
        if done is not None or not self.list_trash():
            self.trash.clear()

    @rule()
    def drop(self) -> None:
        """Drop the blob files that no file needs, and have them removed."""
        unused = IndexRepository(self.node.index).unused_blobs(limit=100)
        self.change(lambda: self.node.committer.submit(DropBlobs(unused)))
        self.node.replication.work("primary", budget_s=0)

    @rule()
    def compact(self) -> None:
        """Move what is alive out of segments that are mostly dead, and drop them."""
        self.change(lambda: compact(self.node))

    def list_trash(self) -> list[File]:
        """Return the files in the trash."""
        return list_whole(self.node, deleted=True)

    @rule(step=st.sampled_from(STEPS + ROTATION_STEPS), count=st.integers(1, 2))
    def plan_crash(self, step: str, count: int) -> None:
        """Crash when a later change comes to this step."""
        self.fatal = (step, count)

    @rule()
    def restart(self) -> None:
        """Stop and start."""
        self.fatal = None
        self.node = self.open()

    @rule()
    def reboot(self) -> None:
        """Start without anything that the processes shared in memory."""
        self.fatal = None
        (self.directory / "wal" / "control").unlink()
        self.node = self.open()

    @rule()
    def rebuild(self) -> None:
        """Lose the index, and all who had it open."""
        self.fatal = None
        lose_index(self.node)
        while self.nodes:
            self.nodes.pop().close()
        self.node = self.open()

    @rule(junk=st.binary(min_size=1, max_size=200))
    def tear(self, junk: bytes) -> None:
        """Find the bytes of half a write behind the log, after a reboot."""
        self.fatal = None
        end = self.node.log.position
        (self.directory / "wal" / "control").unlink()
        with (self.directory / "wal" / "wal.active").open("r+b") as file:
            file.seek(end.offset)
            file.write(junk)
        self.node = self.open()

    @invariant()
    def node_equals_model(self) -> None:
        """The node has exactly the files of the model, whole, and no temporary file."""
        found = list_keys(self.node)
        assert found == {file_id: digest for file_id, (_, digest) in self.files.items()}
        names = {file.id: file.key for file in self.node.files.list(limit=1000).files}
        assert names == {file_id: name for file_id, (name, _) in self.files.items()}
        trash = {file.id: (file.key, file.etag) for file in self.list_trash()}
        assert trash == self.trash
        assert {key.id: key.prefix for key in self.node.keys.list()} == self.keys
        check_figures(self.node)
        assert list((self.directory / "primary" / "tmp").iterdir()) == []

    def teardown(self) -> None:
        """Close all and remove the directory."""
        for services in getattr(self, "nodes", []):
            services.close()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)


TestNode = NodeMachine.TestCase
TestNode.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
