"""The values that know something about themselves."""

from __future__ import annotations

import pytest

from dfs.core.model import Debt, DebtKind


@pytest.mark.parametrize("segment_id", [1, 255, 256, 1 << 40])
def test_debt_of_segment_names_its_segment(segment_id: int):
    """The id of a segment survives being the unit of a debt, and sorts as a number does."""
    debt = Debt.of_segment("replica1", segment_id, 77, 5)
    assert debt.segment_id == segment_id
    assert (debt.kind, debt.size, debt.owed_at_ms) == (DebtKind.SEGMENT, 77, 5)
    assert debt.unit < Debt.of_segment("replica1", segment_id + 1, 77, 5).unit


def test_debt_of_blob_is_fresh():
    """A new debt has not been tried, and may be at once."""
    debt = Debt.of_blob("replica1", b"d" * 32, 77, 5)
    assert debt == Debt("replica1", DebtKind.BLOB, b"d" * 32, 77, 5, 0, 0, None)
