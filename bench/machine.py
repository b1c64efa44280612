"""Which machine and which software the figures are from."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from bench.servers import NGINX, ROOT, THREADS, WORKERS, node_python

PACKAGES = ("gunicorn", "flask", "peewee", "isal", "msgspec")
_SOFTWARE = """
import importlib.metadata, os, platform, sqlite3, sys
python = f"{platform.python_implementation()} {platform.python_version()}"
packages = [f"{name} {importlib.metadata.version(name)}" for name in sys.argv[1:]]
known = [f"{python} ({os.path.realpath(sys.executable)})", f"SQLite {sqlite3.sqlite_version}"]
print(", ".join(known + packages))
"""
"""Run by the Python of the nodes, which may be another one than that of the benchmark."""


def describe_machine(directory: Path) -> dict[str, str]:
    """Return what matters about this machine, by name.

    Args:
        directory: on the disk under test.
    """
    wrk = first_line("wrk", "-v").partition(" Copyright")[0]
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _disk(directory),
        "software": first_line(node_python(), "-c", _SOFTWARE, *PACKAGES),
        "clients": f"{wrk}; {first_line(NGINX, '-v')}",
        "gunicorn": f"{WORKERS} workers of {THREADS} threads, clients on the same machine",
        "load average at the start": load,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _disk(directory: Path) -> str:
    device = os.stat(directory).st_dev  # noqa: PTH116
    queue = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    model = next(
        (path.read_text().strip() for path in (queue / "device/model",) if path.exists()), "virtual"
    )
    mount = first_line("findmnt", "-no", "SOURCE,FSTYPE,OPTIONS", "--target", str(directory))
    return f"{' '.join(mount.split())} ({model})"


def first_line(*command: str) -> str:
    """Return the first line that a program prints, or "unknown"."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"
