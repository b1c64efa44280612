"""API keys from the command line: beside a node that runs, or while it does not.

    python -m scripts.keys create --name laptop --scopes read,write --prefix photos/ --days 90
    python -m scripts.keys list
    python -m scripts.keys revoke 7QX4M2K9T0AB
    python -m scripts.keys generate
    python -m scripts.keys sign GET /download/01K... --minutes 60
    python -m scripts.keys sign POST /upload --prefix photos/ --bytes 1000000 --minutes 60

`create`, `list` and `revoke` need the settings of the node and its files, and commit as the node
itself does; the secret of a new key is shown once, and on stdout alone. The others need no node:
`generate` makes up a key for the setting DFS_FIRST_KEY; `sign` makes a URL that is good for one
download, or for uploads, with the key of the variable DFS_KEY. Exit status: 0 done, 1 it could not
be done, 2 a wrong call or setting.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence

from dfs.core.access import ALL_SCOPES, OPERATOR, Key, Scope, scope_names
from dfs.core.clock import now_ms
from dfs.core.config import Config, load_config
from dfs.core.errors import ConfigError, DfsError, InvalidRequestError
from dfs.core.logging import configure_logging, style_of
from dfs.core.modes import keep_files_private
from dfs.core.signing import (
    URL_LIFE_S_MAX,
    derive_signing_key,
    format_token,
    make_token,
    parse_token,
    sign_url,
)
from dfs.wiring import Services, open_services
from scripts.client import KEY_VARIABLE

DAY_MS = 86_400_000


def parse_scopes(text: str) -> int:
    """Return the sum of scopes in "read,write". Raises argparse.ArgumentTypeError."""
    scopes = 0
    for name in text.split(","):
        try:
            scopes |= Scope[name.strip().upper()]
        except KeyError:
            known = ", ".join(scope_names(ALL_SCOPES))
            raise argparse.ArgumentTypeError(f"{name!r} is none of {known}") from None
    return int(scopes)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line; exit with status 2 if they are wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key")
    create.add_argument("--name", required=True, help="for people")
    create.add_argument(
        "--scopes", type=parse_scopes, help="read,write,delete,admin; default: all that can be"
    )
    create.add_argument("--prefix", default="", help="only for names that begin so")
    create.add_argument("--days", type=float, help="until it expires; default: never")
    actions.add_parser("list", help="list the keys")
    revoke = actions.add_parser("revoke", help="make a key good for nothing")
    revoke.add_argument("id")
    revoke.add_argument(
        "--last", action="store_true", help="even if no key is left: the node asks for none then"
    )
    actions.add_parser("generate", help="make up a key for DFS_FIRST_KEY")
    sign = actions.add_parser("sign", help="sign a URL with the key of DFS_KEY")
    sign.add_argument("method", choices=("GET", "POST"))
    sign.add_argument("path")
    sign.add_argument("--minutes", type=float, default=60, help="default: %(default)s")
    sign.add_argument("--name", help="of the file to be uploaded")
    sign.add_argument("--prefix", help="of the names of files to be uploaded")
    sign.add_argument("--bytes", type=int, help="that such a file may have at most")
    return parser.parse_args(arguments)


def create_key(services: Services, options: argparse.Namespace) -> None:
    """Make a key and print its token, and on stderr what to do with it."""
    default = ALL_SCOPES & ~Scope.ADMIN if options.prefix else ALL_SCOPES
    made = services.keys.create(
        name=options.name,
        scopes=int(options.scopes or default),
        prefix=options.prefix,
        expires_at_ms=None if options.days is None else now_ms() + int(options.days * DAY_MS),
        caller=OPERATOR,
    )
    print(format_token(made.key.id, made.secret), flush=True)
    print(
        f"Key {made.key.id} ({', '.join(scope_names(made.key.scopes))}). The line above is shown "
        "only now. Use:\n"
        '  curl -H "Authorization: Bearer TOKEN" ...    or    curl -u ID:SECRET ...',
        file=sys.stderr,
    )


def list_keys(services: Services) -> None:
    """Print a line for each key."""
    for key in services.keys.list():
        print("  ".join(describe_key(key, now_ms())))


def describe_key(key: Key, moment_ms: int) -> list[str]:
    """Return what a line says of a key."""
    if key.expires_at_ms is None:
        until = "never expires"
    elif key.has_expired(moment_ms):
        until = f"expired {format_time(key.expires_at_ms)}"
    else:
        until = f"expires {format_time(key.expires_at_ms)}"
    used = "never" if key.last_used_at_ms is None else format_time(key.last_used_at_ms)
    scopes = ",".join(scope_names(key.scopes))
    return [key.id, scopes, repr(key.prefix), until, f"used {used}", key.name]


def format_time(at_ms: int) -> str:
    """Return a moment in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms // 1000))


def sign(options: argparse.Namespace) -> str:
    """Return a signed URL without its host. Raises ConfigError."""
    token = parse_token(os.environ.get(KEY_VARIABLE, ""))
    if token is None:
        raise ConfigError(f"{KEY_VARIABLE} must be a key, dfs_ID_SECRET.")
    life_s = int(options.minutes * 60)
    if not 0 < life_s <= URL_LIFE_S_MAX:
        raise ConfigError(f"--minutes must be above 0 and at most {URL_LIFE_S_MAX // 60}.")
    given = {"sig_name": options.name, "sig_prefix": options.prefix, "sig_bytes": options.bytes}
    return sign_url(
        token[0],
        derive_signing_key(token[1]),
        method=options.method,
        path=options.path,
        until_s=int(time.time()) + life_s,
        restrictions={name: str(value) for name, value in given.items() if value is not None},
    )


def run(config: Config, options: argparse.Namespace) -> None:
    """Open the node, do what the options say, and close it. Raises DfsError."""
    services = open_services(config)
    try:
        if options.action == "create":
            create_key(services, options)
        elif options.action == "list":
            list_keys(services)
        else:
            services.keys.revoke(options.id, caller=OPERATOR, may_be_last=options.last)
            print(f"Key {options.id} is revoked.")
    finally:
        services.close()


def describe_faults(error: DfsError) -> str:
    """Return what is wrong with each field, if the error names any."""
    if not isinstance(error, InvalidRequestError):
        return ""
    return "; ".join(f"{name} {', '.join(found)}" for name, found in error.fields.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    options = parse_options(arguments)
    try:
        if options.action == "sign":
            print(sign(options))
            return 0
        if options.action == "generate":
            print(make_token())
            return 0
        config = load_config()
        configure_logging(style_of(config).quieter(logging.WARNING))
        run(config, options)
    except ConfigError as error:
        print(f"dfs: {error}", file=sys.stderr)
        return 2
    except DfsError as error:
        print(f"dfs: {error} {describe_faults(error)}".rstrip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    keep_files_private()
    sys.exit(main())
