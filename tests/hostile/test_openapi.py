"""The OpenAPI document tells the truth, of a whole node and under all checks of schemathesis."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.openapi import hold_against

SECONDS = 14
EXAMPLES = 5


@pytest.mark.integration
def test_document_is_truthful(tmp_path: Path) -> None:
    """Whatever is sent after the document, or against it, is answered as the document says."""
    status, output = hold_against(tmp_path, seconds=SECONDS, seed=20261126, examples=EXAMPLES)
    assert status == 0, output
    assert "No issues found" in output
