"""What clients do with files, on both databases."""

from __future__ import annotations

import pytest

from dfs.core.errors import InvalidNameError, InvalidRequestError, NoSuchFileError, TooLargeError
from tests.services.conftest import Opener, read_bytes, store_bytes

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize(
    "after",
    ["x", "!!!", "é", ID, f"x{ID}key", f"{ID}a\0b", f"{ID.lower()}key", f"8{ID[1:]}key"],
)
def test_list_with_a_cursor_that_no_page_gave_is_refused(node, after: str):
    """A cursor of a client's own making is an error of the client, on every database."""
    with pytest.raises(InvalidRequestError):
        node.files.list(after=after, limit=10)


def test_list_pages_hold_every_file_once_in_order(node):
    """Following `next` gives all files, ordered by name, whatever the names are."""
    names = ["a", "a/b", "a0", "ä", "zz", "\U0001f600", "a", "Z", " "]
    for name in names:
        store_bytes(node, name, name.encode())
    seen: list[str] = []
    after = None
    while True:
        page = node.files.list(after=after, limit=2)
        seen += [file.key for file in page.files]
        after = page.next
        if after is None:
            break
    assert seen == sorted(names)


def test_file_past_its_expiry_is_not_found(node):
    """A file that has expired can be neither read nor listed nor changed."""
    file = store_bytes(node, "old", b"x", expires_at_ms=1).files[0]
    for act in (node.files.find, node.files.open, node.files.delete):
        with pytest.raises(NoSuchFileError):
            act(file.id)
    with pytest.raises(NoSuchFileError):
        node.files.update(file.id, {"key": "new"})
    assert node.files.list(limit=10).files == ()


def test_upload_over_the_limit_is_refused_and_leaves_nothing(open_node: Opener):
    """The limit on a file holds while its bytes arrive, and nothing of it stays."""
    node = open_node(upload_bytes_max=100_000)
    with pytest.raises(TooLargeError):
        store_bytes(node, "large", bytes(100_001))
    store_bytes(node, "exact", bytes(100_000))
    assert list((node.config.storage_path / "tmp").iterdir()) == []


LINES = ["\u0085", "\u2028", "\u2029"]
DIRECTIONS = ["\u202a", "a\u202egpj.exe", "\u2066", "\u2069"]


@pytest.mark.parametrize(
    "key",
    ["", "a\0b", "a\nb", "\x7f", "\ud800", "k" * 1025, "é" * 513, *LINES, *DIRECTIONS],
)
def test_upload_with_a_name_that_cannot_be_stored_is_refused(node, key: str):
    """Names that are empty, too long or hold control characters are errors of the client."""
    with pytest.raises(InvalidNameError):
        store_bytes(node, key, b"x")


@pytest.mark.parametrize(
    "key", ["a", "k" * 1024, "é" * 512, "../../etc/passwd", "a b", "\u200d", "\u200f", "e\u0301"]
)
def test_upload_with_any_other_name_keeps_it(node, key: str):
    """A name is not a path: any other text is kept as it is."""
    file = store_bytes(node, key, b"x").files[0]
    assert node.files.find(file.id).key == key
    assert read_bytes(node, file.id) == b"x"
