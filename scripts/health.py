"""Tells by its exit status whether a process of the node lives, for whoever runs it.

    python -m scripts.health web          GET /health of the node on this machine answers 200
    python -m scripts.health worker       a worker process has opened the node, and lives
    python -m scripts.health scheduler    a scheduler process has found the node, and lives

Exit status: 0 it does, 1 it does not, 2 a wrong call or setting. It needs the settings of the node,
and no key. Images have no curl.
"""

from __future__ import annotations

import argparse
import ssl
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from dfs.core.address import own_address
from dfs.core.config import Config, load_config
from dfs.core.errors import ConfigError
from dfs.core.signs import SCHEDULER_NAME, WORKERS_NAME, is_shown

TIMEOUT_S = 8.0


def serves(config: Config) -> bool:
    """Tell whether the web server answers."""
    host = own_address(config.host)
    if config.tls_cert_path is None:
        connection = HTTPConnection(host, config.port, timeout=TIMEOUT_S)
    else:  # whatever name is in the certificate: nothing secret is said
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(host, config.port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def works(config: Config) -> bool:
    """Tell whether a worker process of the node lives."""
    return any(map(is_shown, (config.run_path / WORKERS_NAME).glob("*")))


def schedules(config: Config) -> bool:
    """Tell whether a scheduler process of the node lives."""
    return is_shown(config.run_path / SCHEDULER_NAME)


LOOKS = {"web": serves, "worker": works, "scheduler": schedules}


def main(arguments: Sequence[str] | None = None) -> int:
    """Look as the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("process", choices=LOOKS)
    process = parser.parse_args(arguments).process
    try:
        config = load_config()
    except ConfigError as error:
        print(f"dfs: {error}", file=sys.stderr)
        return 2
    if LOOKS[process](config):
        return 0
    print(f"dfs: the {process} process is not well", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
