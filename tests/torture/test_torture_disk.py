"""The layer itself: what a program has synced survives a power cut, and what it has not may not."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from torture.disk import FOR_EVER, NAME, SPACE, SYNC, WRITE, Disk, Rule, build_layer

COPIES, CUTS = 15, 2
Run = Callable[..., str]

PRELUDE = """
import os, sqlite3, sys, time
os.chdir(sys.argv[1])
def sync(path):
    fd = os.open(path, os.O_RDONLY); os.fsync(fd); os.close(fd)
def put(name, data, offset=0):
    fd = os.open(name, os.O_CREAT | os.O_RDWR); os.pwrite(fd, data, offset); return fd
def keep(name, data):
    fd = put(name, data); os.fsync(fd); os.close(fd); sync(os.path.dirname(name) or ".")
def tried(do, *arguments):
    try: do(*arguments)
    except OSError as error: print(error.errno)
    else: print("done")
"""
IN_COPIES = """
for number in range(int(sys.argv[2])):
    os.chdir(sys.argv[1]); os.mkdir(str(number)); sync("."); os.chdir(str(number))
    exec(sys.argv[3])
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer, compiled."""
    return build_layer(tmp_path_factory.mktemp("layer"))


@pytest.fixture
def disk(tmp_path: Path, library: Path) -> Iterator[Disk]:
    """A disk under the layer, with nothing on it."""
    disk = Disk(tmp_path / "torture", library=library, journaled=("index",))
    yield disk
    disk.close()


@pytest.fixture
def run(disk: Disk) -> Run:
    """Run a Python program on the disk. Returns what it printed."""

    def run_program(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + program, str(disk.path), *arguments],
            env={**os.environ, **disk.environ()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_program


def outcomes(disk: Disk, run: Run, program: str, look: Callable[[Path], object]) -> set[object]:
    """Run a program in many directories, cut the power and look; and all of that some times."""
    found: set[object] = set()
    for seed in range(CUTS):
        run(IN_COPIES, str(COPIES), program)
        disk.cut_power(random.Random(seed))
        found |= {look(disk.path / str(number)) for number in range(COPIES)}
        for number in range(COPIES):
            shutil.rmtree(disk.path / str(number))
        disk.settle()
    return found


def content(name: str) -> Callable[[Path], object]:
    """Return what tells the content of a file, or None if it is not there."""

    def look(path: Path) -> object:
        return (path / name).read_bytes() if (path / name).is_file() else None

    return look


def test_synced_file_with_synced_name_survives(disk: Disk, run: Run) -> None:
    """File and directory were synced: nothing of it is ever lost."""
    program = "keep('a', b'x' * 10_000)"
    assert outcomes(disk, run, program, content("a")) == {b"x" * 10_000}


def test_synced_file_without_synced_name_may_be_gone(disk: Disk, run: Run) -> None:
    """The sync of a file says nothing about its name."""
    program = "os.fsync(put('a', b'x'))"
    assert outcomes(disk, run, program, content("a")) == {b"x", None}


def test_unsynced_overwrite_is_old_new_or_torn(disk: Disk, run: Run) -> None:
    """Each page, and each sector of a torn one, is as it was or as it is."""
    program = "keep('a', b'o' * 8192); os.close(put('a', b'n' * 8192))"
    found = outcomes(disk, run, program, content("a"))
    assert {b"o" * 8192, b"n" * 8192} <= found
    assert any(b"o" in data and b"n" in data for data in found)
    sectors = {data[n : n + 512] for data in found for n in range(0, 8192, 512)}
    assert sectors == {b"o" * 512, b"n" * 512}


def test_unsynced_growth_may_be_missing_or_zeros(disk: Disk, run: Run) -> None:
    """The size may be there without the bytes."""
    program = "keep('a', b'o' * 100); os.close(put('a', b'n' * 9000, 100))"
    found = outcomes(disk, run, program, content("a"))
    assert {data[:100] for data in found} == {b"o" * 100}
    assert {len(data) for data in found} == {100, 9100}
    assert any(b"\0" in data for data in found)


def test_synced_bytes_beside_unsynced_ones_are_never_lost(disk: Disk, run: Run) -> None:
    """A record that was synced stays, though the next one shares its page and is torn."""
    program = "keep('a', bytes(8192)); fd = put('a', b'k' * 700); os.fdatasync(fd)\n"
    program += "os.pwrite(fd, b'n' * 5000, 700)"
    found = outcomes(disk, run, program, content("a"))
    assert {data[:700] for data in found} == {b"k" * 700}
    assert len({data[700:] for data in found}) > 2


def test_truncation_without_sync_may_be_undone(disk: Disk, run: Run) -> None:
    """And what was cut off is there again."""
    program = "keep('a', b'o' * 9000); os.truncate('a', 10)"
    assert outcomes(disk, run, program, content("a")) == {b"o" * 9000, b"o" * 10}


@pytest.mark.parametrize("call", ["os.fsync(fd)", "os.fdatasync(fd)"])
def test_both_syncs_keep_bytes_and_size(disk: Disk, run: Run, call: str) -> None:
    """Fdatasync leaves out nothing that is needed to read the file."""
    program = f"keep('a', b''); fd = put('a', b'x' * 5000); {call}"
    assert outcomes(disk, run, program, content("a")) == {b"x" * 5000}


def test_other_ways_to_write_are_seen(disk: Disk, run: Run) -> None:
    """Each call that changes a file can be undone."""
    program = """
keep('a', b'')
fd = os.open('a', os.O_RDWR)
os.write(fd, b'1' * 600); os.writev(fd, [b'2' * 300, b'3' * 300])
os.pwritev(fd, [b'4' * 600], 1200)
os.posix_fallocate(fd, 1800, 600)
source = os.open('/proc/self/exe', os.O_RDONLY)
os.lseek(fd, 2400, os.SEEK_SET); os.sendfile(fd, source, 0, 600)
"""
    found = outcomes(disk, run, program, content("a"))
    assert {len(data) for data in found} >= {0, 600, 3000}


@pytest.mark.parametrize("synced", ["new", "old", "both", "none"])
def test_rename_needs_the_sync_of_the_new_directory(disk: Disk, run: Run, synced: str) -> None:
    """It may be under the old name, the new one or both, but never under none."""
    program = "os.mkdir('old'); os.mkdir('new'); sync('.'); keep('old/a', b'x'); sync('old')\n"
    program += "os.rename('old/a', 'new/a')\n"
    program += {"both": "sync('new'); sync('old')", "none": ""}.get(synced, f"sync('{synced}')")

    def look(path: Path) -> object:
        return (path / "old/a").exists(), (path / "new/a").exists()

    found = outcomes(disk, run, program, look)
    assert (False, False) not in found
    assert (
        found
        == {
            "new": {(False, True), (True, True)},
            "old": {(False, True)},
            "both": {(False, True)},
            "none": {(True, False), (False, True), (True, True)},
        }[synced]
        or synced == "none"
    )
    assert synced != "none" or {(True, False), (False, True)} <= found


def test_unsynced_replacement_may_be_undone(disk: Disk, run: Run) -> None:
    """What a rename has replaced comes back whole."""
    program = "keep('a', b'old'); keep('b', b'new'); os.rename('b', 'a')"
    assert outcomes(disk, run, program, content("a")) == {b"old", b"new"}


def test_unsynced_removal_may_be_undone(disk: Disk, run: Run) -> None:
    """A file that was removed is there again, and one that was removed durably is not."""
    program = "keep('a', b'x'); os.unlink('a')"
    assert outcomes(disk, run, program, content("a")) == {b"x", None}
    assert outcomes(disk, run, f"{program}; sync('.')", content("a")) == {None}


def test_unsynced_directory_takes_its_files_along(disk: Disk, run: Run) -> None:
    """A file is as durable as all directories above it."""
    program = "os.mkdir('d'); keep('d/a', b'x')"
    assert outcomes(disk, run, program, content("d/a")) == {b"x", None}
    assert outcomes(disk, run, f"{program}; sync('.')", content("d/a")) == {b"x"}


def test_failed_sync_dooms_what_it_was_to_write(disk: Disk, run: Run) -> None:
    """The kernel takes the pages for clean: a later sync that succeeds does not write them."""
    program = """
keep('a', bytes(12_288)); fd = put('a', b'x' * 8192)
tried(os.fsync, fd)
os.fsync(fd)
"""

    def run_with_faults(program: str, copies: str, scenario: str) -> str:
        # The second sync of each file fails.
        files = [disk.path / str(number) / "a" for number in range(int(copies))]
        disk.order(Rule(SYNC, file, error=errno.EIO, skip=1) for file in files)
        return run(program, copies, scenario)

    found = outcomes(disk, run_with_faults, program, content("a"))
    assert any(data[:8192] != b"x" * 8192 for data in found)
    program += "os.pwrite(fd, b'x' * 8192, 0); os.fsync(fd)"
    found = outcomes(disk, run_with_faults, program, content("a"))
    assert {data[:8192] for data in found} == {b"x" * 8192}


def test_database_survives_with_what_it_had_synced(disk: Disk, run: Run) -> None:
    """SQLite, which relies on a file system with a journal for its names, is never damaged."""
    program = """
os.mkdir('index'); sync('.'); sync('index')
database = sqlite3.connect('index/x.db')
database.execute('PRAGMA journal_mode=wal'); database.execute('PRAGMA synchronous=FULL')
database.execute('CREATE TABLE t (n INTEGER)')
for n in range(30):
    database.execute('INSERT INTO t VALUES (?)', (n,)); database.commit()
os._exit(0)
"""
    count = "database = sqlite3.connect('index/x.db')\n"
    count += "print(database.execute('SELECT COUNT(*) FROM t').fetchone()[0])"
    for seed in range(CUTS):
        run(program)
        disk.cut_power(random.Random(seed))
        assert run(count).strip() == "30"
        shutil.rmtree(disk.path / "index")
        disk.settle()


def test_writing_keeps_the_locks_of_the_program(disk: Disk, run: Run) -> None:
    """To look at what was there before must not take the POSIX locks on the file away."""
    answer = run("""
import fcntl, subprocess
fd = put("locked", b"old")
fcntl.lockf(fd, fcntl.LOCK_EX)
os.pwrite(fd, b"new", 0)
ask = "import fcntl; fcntl.lockf(open('locked', 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
print(subprocess.run([sys.executable, "-c", ask], capture_output=True).returncode)
""")
    assert answer == "1\n"


def test_rules_have_operations_fail(disk: Disk, run: Run) -> None:
    """The nth matching operation below the path fails with the error that was ordered."""
    disk.order(
        [
            Rule(WRITE, disk.path / "w", error=errno.EIO, skip=1, times=1),
            Rule(SYNC, disk.path / "w", error=errno.ENOSPC, times=1),
            Rule(NAME, disk.path / "n", error=errno.EIO, times=FOR_EVER),
        ]
    )
    told = run(
        "fd = put('w', b'1')\n"
        "for _ in range(2): tried(os.pwrite, fd, b'2', 1)\n"
        "for _ in range(2): tried(os.fsync, fd)\n"
        "for _ in range(2): tried(os.rename, 'w', 'n')\n"
        "tried(os.mkdir, 'n'); tried(os.mkdir, 'other')"
    )
    wrong, full = str(errno.EIO), str(errno.ENOSPC)
    assert told.split() == [wrong, "done", full, "done", wrong, wrong, wrong, "done"]
    assert disk.fired()[:3] == [1, 1, 3]


def test_full_disk_takes_half_a_write_and_shows_no_room(disk: Disk, run: Run) -> None:
    """As a disk does that fills up: a short write, then errors, and `statvfs` says so."""
    full = Rule(WRITE, disk.path, error=errno.ENOSPC, times=FOR_EVER, is_short=True)
    disk.order([full, Rule(SPACE, disk.path, error=errno.ENOSPC, times=FOR_EVER)])
    told = run(
        "fd = os.open('a', os.O_CREAT | os.O_RDWR)\n"
        "print(os.pwrite(fd, b'1234', 0)); tried(os.pwrite, fd, b'1', 2)\n"
        "print(os.statvfs('.').f_bavail)"
    )
    assert told.split() == ["2", str(errno.ENOSPC), "0"]


def test_slow_disk_and_moved_clock_are_felt(disk: Disk, run: Run) -> None:
    """A delay delays, and the time is another one, but only of the clock on the wall."""
    disk.order([Rule(SYNC, disk.path, delay_us=200_000, times=1)])
    disk.shift_clock(-86_400)
    told = run(
        "before = time.monotonic(); sync('.'); print(time.monotonic() - before, time.time())"
    )
    took_s, clock_s = map(float, told.split())
    assert 0.2 <= took_s < 5
    assert abs(clock_s - (time.time() - 86_400)) < 60


def test_machine_has_another_boot_id_after_a_power_cut(disk: Disk, run: Run) -> None:
    """Who asks the kernel whether it was started anew is told so."""
    ask = "print(open('/proc/sys/kernel/random/boot_id').read())"
    before = run(ask)
    assert run(ask) == before
    disk.cut_power(random.Random(1))
    assert run(ask) != before


def test_file_moved_out_of_a_directory_that_is_lost_is_found(disk: Disk, run: Run) -> None:
    """The old name of a file whose new one went with its directory stands for it again."""
    program = "keep('a', b'x'); os.mkdir('d'); os.rename('a', 'd/a')"

    def look(path: Path) -> object:
        return tuple(name for name in ("a", "d/a") if (path / name).exists())

    found = outcomes(disk, run, program, look)
    assert () not in found
    assert ("a",) in found
