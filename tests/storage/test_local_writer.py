"""Files are written whole, however their bytes come, and large ones past the kernel's cache."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.core.checksum import Buffer
from dfs.storage import local_writer
from dfs.storage.local_writer import BLOCK_BYTES, PAIRS_MAX, BufferPairs, FileWriter

CACHED = 2 * BLOCK_BYTES
BUFFER = 4 * BLOCK_BYTES
END = CACHED + 3 * BUFFER
"""Where the first three buffers of a file end."""
LENGTHS = st.one_of(
    st.integers(0, BUFFER + 1), st.sampled_from([1, BLOCK_BYTES, CACHED, BUFFER, END])
)


class Kernel:
    """What is asked of the kernel, and an error that it has for what goes past its cache.

    Attributes:
        direct: (offset, length, address) of each write past the cache.
        cached_bytes: written through it.
        asked: how often it was asked to go past it.
        before_direct: called before each write past it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.direct: list[tuple[int, int, int]] = []
        self.cached_bytes = 0
        self.asked = 0
        self.refuses_flag = False
        self.write_error: int | None = None
        self.before_direct: Callable[[], object] = lambda: None
        self._write, self._fcntl = os.write, fcntl.fcntl
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(fcntl, "fcntl", self.fcntl)

    def write(self, fd: int, data: Any) -> int:
        """Write, as `os.write` does."""
        if not self._fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            self.cached_bytes += len(data)
            return self._write(fd, data)
        self.before_direct()
        if self.write_error is not None:
            raise OSError(self.write_error, os.strerror(self.write_error))
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        self.direct.append((os.lseek(fd, 0, os.SEEK_CUR), len(data), address))
        return self._write(fd, data)

    def fcntl(self, fd: int, command: int, flags: int = 0) -> int:
        """Change the flags of a file, as `fcntl.fcntl` does."""
        self.asked += bool(flags & os.O_DIRECT)
        if self.refuses_flag and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._fcntl(fd, command, flags)


@pytest.fixture(autouse=True, scope="module")
def small_sizes() -> Iterator[None]:
    """A cache and a buffer of few blocks, so that examples are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_writer, "CACHED_BYTES", CACHED)
        patch.setattr(local_writer, "BUFFER_BYTES", BUFFER)
        patch.setattr(local_writer, "WRITEBACK_BYTES", BLOCK_BYTES)
        yield


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A new file, open for writing and reading."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor() as executor:
        yield executor


def write_file(fd: int, pieces: list[bytes], threads: Executor) -> None:
    """Write a file of these pieces."""
    writer = FileWriter(fd, BufferPairs(), threads)
    for piece in pieces:
        writer.write(piece)
    writer.finish()


@given(
    lengths=st.lists(LENGTHS, max_size=8), free_from=st.sets(st.integers(0, 7), max_size=PAIRS_MAX)
)
def test_file_is_whole_however_its_bytes_come(
    tmp_path_factory: pytest.TempPathFactory,
    threads: Executor,
    lengths: list[int],
    free_from: set[int],
) -> None:
    """Nothing is lost, doubled or moved where cache, buffer or block ends inside a piece.

    Nor where others have all the buffers for a while.
    """
    path = tmp_path_factory.mktemp("whole") / "file"
    pieces = [os.urandom(length) for length in lengths]
    pairs = BufferPairs()
    taken = [pair for _ in range(PAIRS_MAX) if (pair := pairs.take())]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        writer = FileWriter(fd, pairs, threads)
        for number, piece in enumerate(pieces):
            if number in free_from:
                pairs.give_back(taken.pop())
            writer.write(piece)
        writer.finish()
    finally:
        os.close(fd)

    assert path.read_bytes() == b"".join(pieces)


@pytest.mark.parametrize(("before", "direct"), [(END, END // BUFFER), (END + 1, 0)])
def test_memory_of_all_files_together_is_bounded(
    kernel: Kernel, file: int, threads: Executor, before: int, direct: int
) -> None:
    """Clients that wait in the middle of their files keep a pair each, and no more are made.

    A file that finds none goes past the cache later, if it stands at a whole block then.
    """
    pairs = BufferPairs()
    waiting = [FileWriter(file, pairs, threads) for _ in range(PAIRS_MAX)]
    for writer in waiting:
        writer.write(bytes(CACHED + 1))

    last = FileWriter(file, pairs, threads)
    last.write(bytes(before))

    assert kernel.direct == []
    waiting[0].release()
    last.write(bytes(END))
    last.release()
    assert len(kernel.direct) == direct


def test_what_comes_after_the_beginning_goes_past_the_cache(
    kernel: Kernel, file: int, threads: Executor
) -> None:
    """Whole blocks, at whole blocks, from memory at whole blocks: else the kernel refuses them."""
    content = os.urandom(END + BLOCK_BYTES + 7)

    write_file(file, [content[:5], content[5:-9], content[-9:]], threads)

    assert [offset for offset, _, _ in kernel.direct] == list(range(CACHED, END + 1, BUFFER))
    assert [length for _, length, _ in kernel.direct] == [BUFFER] * 3 + [BLOCK_BYTES]
    assert {address % BLOCK_BYTES for _, _, address in kernel.direct} == {0}
    assert kernel.cached_bytes == CACHED + 7
    assert os.pread(file, len(content) + 1, 0) == content


def test_small_file_stays_in_the_cache(kernel: Kernel, file: int, threads: Executor) -> None:
    """What is soon read need not come from the disk."""
    write_file(file, [bytes(CACHED)], threads)

    assert (kernel.cached_bytes, kernel.direct) == (CACHED, [])


@pytest.mark.parametrize("refused", ["flag", "write"])
def test_file_system_that_knows_no_other_way_is_written_to_through_the_cache(
    kernel: Kernel, file: int, threads: Executor, refused: str
) -> None:
    """It is asked once: it says so when it is asked, or only when something is to be written."""
    kernel.refuses_flag = refused == "flag"
    kernel.write_error = errno.EINVAL
    content = os.urandom(END + 7)

    write_file(file, [content], threads)

    assert (kernel.asked, kernel.direct, kernel.cached_bytes) == (1, [], len(content))
    assert os.pread(file, len(content) + 1, 0) == content


@pytest.mark.parametrize("length", [CACHED + BUFFER - 1, CACHED + BUFFER, END])
def test_fault_of_the_disk_is_no_refusal(
    kernel: Kernel, file: int, threads: Executor, length: int
) -> None:
    """A full disk is told of, at the end at the latest, and not tried in another way."""
    kernel.write_error = errno.ENOSPC

    with pytest.raises(OSError, match="No space left"):
        write_file(file, [bytes(length)], threads)

    assert kernel.cached_bytes == CACHED


def test_next_bytes_are_taken_while_the_disk_works(
    kernel: Kernel, file: int, threads: Executor
) -> None:
    """They are gathered in a second buffer."""
    taken = threading.Event()
    kernel.before_direct = lambda: taken.wait(10)
    writer = FileWriter(file, BufferPairs(), threads)

    writer.write(bytes(CACHED + 2 * BUFFER - 1))

    assert kernel.direct == []
    taken.set()
    writer.finish()
    assert [length for _, length, _ in kernel.direct] == [BUFFER, BUFFER - BLOCK_BYTES]


def test_nothing_is_written_to_a_file_that_was_let_go_of(
    kernel: Kernel, file: int, threads: Executor
) -> None:
    """Its descriptor is closed next, and may soon be that of another file."""
    released = threading.Event()
    too_late: list[bool] = []
    kernel.before_direct = lambda: too_late.append(released.wait(0.2))
    kernel.write_error = errno.EIO
    writer = FileWriter(file, BufferPairs(), threads)
    writer.write(bytes(CACHED + BUFFER))

    writer.release()
    released.set()

    assert too_late == [False]


@pytest.mark.parametrize("end", [FileWriter.finish, FileWriter.release])
@pytest.mark.parametrize("length", [CACHED, CACHED + 1, END + 1])
def test_memory_is_given_back_once_at_the_end(
    file: int, threads: Executor, length: int, end: Any
) -> None:
    """Two files never gather in the same memory, and there is as much for the next as before."""
    pairs = BufferPairs()
    others = pairs.take()
    writer = FileWriter(file, pairs, threads)
    writer.write(bytes(length))

    end(writer)
    writer.release()

    free = [pairs.take() for _ in range(PAIRS_MAX)]
    assert free.pop() is None
    buffers = [id(buffer) for pair in (others, *free) if pair for buffer in pair]
    assert len(set(buffers)) == 2 * PAIRS_MAX


def test_without_memory_a_file_goes_through_the_cache(
    kernel: Kernel, file: int, threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next goes past it, when there is some again."""
    content = os.urandom(END)
    pairs = BufferPairs()
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", raise_no_memory)
        for _ in range(PAIRS_MAX + 1):
            writer = FileWriter(file, pairs, threads)
            writer.write(content)
            writer.finish()

    assert kernel.direct == []
    assert os.pread(file, len(content), len(content)) == content
    assert pairs.take() is not None


def raise_no_memory(*_: object, **__: object) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@given(lengths=st.lists(LENGTHS, max_size=12))
def test_file_is_whole_where_bytes_are_put_into_its_memory(
    tmp_path_factory: pytest.TempPathFactory, threads: Executor, lengths: list[int]
) -> None:
    """What was put there stays until the next bytes are taken: it is hashed so long."""
    path = tmp_path_factory.mktemp("placed") / "file"
    content = b"".join(os.urandom(length) for length in lengths)
    rest = memoryview(content)
    before: tuple[Buffer, Buffer] = (b"", b"")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        writer = FileWriter(fd, BufferPairs(), threads)
        for length in lengths:
            room = writer.room()
            piece = rest[:length]
            if room is not None:
                piece = piece[: len(room)]
                room[: len(piece)] = piece
            assert before[0] == before[1]
            if room is None:
                writer.write(piece)
            else:
                before = (piece, room[: len(piece)])
                writer.fill(len(piece))
            rest = rest[len(piece) :]
        assert before[0] == before[1]
        writer.finish()
    finally:
        os.close(fd)

    assert path.read_bytes() == content[: len(content) - len(rest)]


def test_bytes_in_the_memory_of_a_file_are_written_from_there(
    kernel: Kernel, file: int, threads: Executor
) -> None:
    """The disk gets them from where they were put."""
    writer = FileWriter(file, BufferPairs(), threads)
    assert writer.room() is None
    writer.write(bytes(CACHED))
    room = writer.room()
    assert room is not None

    writer.fill(BUFFER)
    writer.finish()

    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    assert kernel.direct == [(CACHED, BUFFER, address)]


def test_room_is_filled_once_and_no_further_than_it_goes(file: int, threads: Executor) -> None:
    """Whoever writes something else meanwhile has put his bytes where others are now."""
    writer = FileWriter(file, BufferPairs(), threads)
    with pytest.raises(ValueError, match="no room"):
        writer.fill(0)
    writer.write(bytes(CACHED + 1))
    for count in (-1, BUFFER):
        assert writer.room() is not None
        with pytest.raises(ValueError, match="no room"):
            writer.fill(count)
    assert writer.room() is not None
    writer.write(b"x")
    with pytest.raises(ValueError, match="no room"):
        writer.fill(1)
    assert writer.room() is not None
    writer.fill(1)
    with pytest.raises(ValueError, match="no room"):
        writer.fill(1)
    writer.finish()

    assert os.fstat(file).st_size == CACHED + 3


def test_without_threads_a_file_is_written_by_its_own(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by no thread that comes later: the descriptor is that of another file by then."""

    def refuse_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    content = os.urandom(END + 7)
    with ThreadPoolExecutor() as none_yet:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse_thread)
            write_file(file, [content], none_yet)
        none_yet.submit(bool).result(10)

    assert os.pread(file, 2 * len(content), 0) == content


@pytest.mark.parametrize("length", [0, CACHED])
def test_file_without_bytes_in_memory_is_not_asked_to_go_past_the_cache(
    kernel: Kernel, file: int, threads: Executor, length: int
) -> None:
    """Not even where the memory for what did not come was there."""
    writer = FileWriter(file, BufferPairs(), threads)
    writer.write(bytes(length))
    writer.room()
    writer.finish()

    assert kernel.asked == 0
