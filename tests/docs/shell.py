"""Runs the commands and the Python of a page as a reader would: in order, in one place.

What a command must print stands in comments behind it, with `...` for what differs each time:

    curl -s http://127.0.0.1:8000/health
    # -> {"status":"ok"}

In Python the same holds for the value of an expression, as `repr` shows it.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import os
import shlex
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.clone import DOCUMENTED_ADDRESS
from tests.docs.pages import Block

EXPECTED = "# ->"
COMMAND_S_MAX = 60
FORGIVING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of a block, and what it must print; None if nothing is said of that."""

    text: str
    expected: str | None


def read_steps(block: Block, address: str) -> list[Step]:
    """Return the commands of a block of shell, or the statements of one of Python.

    Args:
        address: of the node, to be asked instead of the one that the documentation has.
    """
    pieces = _statements if block.language == "python" else _commands
    return list(pieces(block.text.replace(DOCUMENTED_ADDRESS, address).splitlines()))


def matches(expected: str, printed: str) -> bool:
    """Tell whether what was printed is what the page says."""
    return doctest.OutputChecker().check_output(expected, printed.strip() + "\n", FORGIVING)


def _take_expected(lines: list[str]) -> str | None:
    expected = []
    while lines and lines[0].startswith(EXPECTED):
        expected.append(lines.pop(0).removeprefix(EXPECTED).strip())
    return "\n".join(expected) + "\n" if expected else None


def _commands(lines: list[str]) -> Iterator[Step]:
    lines = list(lines)
    while lines:
        text = lines.pop(0)
        while lines and (text.endswith("\\") or not _is_whole(text)):
            text += "\n" + lines.pop(0)
        if text.strip() and not text.lstrip().startswith("#"):
            yield Step(text, _take_expected(lines))


def _is_whole(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


def _statements(lines: list[str]) -> Iterator[Step]:
    for statement in ast.parse("\n".join(lines)).body:
        first, last = statement.lineno - 1, statement.end_lineno or statement.lineno
        yield Step("\n".join(lines[first:last]), _take_expected(lines[last:]))


class Shell:
    """One bash that goes from command to command.

    Args:
        directory: where it begins. environ: its environment.
    """

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._write("set -o pipefail\n")

    def run(self, text: str) -> tuple[int, str]:
        """Return the exit status of a command, and what it printed."""
        mark = uuid.uuid4().hex
        printed = []
        alarm = threading.Timer(COMMAND_S_MAX, self._kill)
        alarm.start()
        try:
            self._write(f"{{ {text}\n}} </dev/null\nprintf '\\n%s %s\\n' {mark} $?\n")
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.startswith(mark):
                    return int(line.split()[1]), "".join(printed).removesuffix("\n")
                printed.append(line)
        finally:
            alarm.cancel()
        raise AssertionError(f"bash has ended in {text!r}:\n{''.join(printed)}")

    def close(self) -> None:
        """End it, and whatever it has left running."""
        self._kill()
        self._process.communicate()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()


def run_python(step: Step, names: dict[str, Any]) -> str:
    """Run a statement among these names; return what its value looks like, if it has one."""
    if step.expected is None:
        exec(compile(step.text, "<page>", "exec"), names)  # noqa: S102 # our own documentation
        return ""
    return repr(eval(step.text, names))  # noqa: S307 # likewise
