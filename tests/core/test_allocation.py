"""Memory that was freed must not stay with the process."""

from __future__ import annotations

import subprocess
import sys

FREED_MIB = 64
PROGRAM = f"""
from pathlib import Path
from dfs.core.allocation import release_freed

def resident_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon"))

pieces = [bytes(4096) for _ in range({FREED_MIB} << 8)]
pieces = pieces[::100]  # what stays is strewn over all of it, so that nothing is freed at its end
before_mib = resident_mib()
print(release_freed(), before_mib - resident_mib())
"""


def test_what_was_freed_between_what_stays_goes_back_to_the_kernel() -> None:
    """glibc keeps it by itself."""
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    is_done, released_mib = answer.stdout.split()
    assert is_done == b"True"
    assert int(released_mib) > FREED_MIB // 2
