"""Known vulnerabilities fail the build; not knowing is said and does not."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from scripts import audit_dependencies
from scripts.audit_dependencies import CONSTRAINTS, judge, main, read_pins

SOUND = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


def test_pins_are_those_of_the_constraints() -> None:
    """All that is installed is looked up."""
    assert read_pins("# a\nb==1  # c\n\nd==2\n") == ["b==1", "d==2"]
    assert len(read_pins(CONSTRAINTS.read_text())) > 50


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ([SOUND], 0, "1 dependencies were looked up."),
        ([SOUND, SKIPPED], 0, "1 dependencies were looked up; 1 could not be"),
        ([SOUND, BAD], 1, "b 2: CVE-1, mended in 3"),
        ([SKIPPED], 0, "nobody knows"),
        ([], 0, "nobody knows"),
        (None, 0, "nobody knows"),
    ],
)
def test_findings_are_judged(found: list[dict[str, Any]] | None, status: int, said: str) -> None:
    """Only what is known to be vulnerable fails."""
    judged, lines = judge(found)
    assert judged == status
    assert said in "\n".join(lines)


@pytest.mark.parametrize(
    ("answer", "status", "calls"),
    [
        ({"dependencies": [BAD]}, 1, 2),
        ({"dependencies": [SKIPPED]}, 0, 1),
        ("no JSON", 0, 1),
    ],
)
def test_program_is_asked_for_one_and_then_for_all(
    tmp_path: Path, answer: object, status: int, calls: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the service is not to be had, it is asked once."""
    program, count = tmp_path / "pip-audit", tmp_path / "calls"
    program.write_text(f"#!/bin/sh\necho x >> {count}\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert main([str(program)]) == status
    assert len(count.read_text().splitlines()) == calls
    assert audit_dependencies.main([str(tmp_path / "absent")]) == 0
    assert "nobody knows" in capsys.readouterr().out
