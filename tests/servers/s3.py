"""The S3 server of tests, demo and trials: Ceph's gateway where it is installed, else OpenStack Swift from pip.

python -m tests.servers.s3                      start one, print what to export, stay until Ctrl-C
python -m tests.servers.s3 -- COMMAND ...       run a command with it; {bucket} in an argument is a fresh bucket
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.servers.base import REGION, S3Server
from tests.servers.ceph import CephServer
from tests.servers.process import ServerError
from tests.servers.swift import SwiftServer

__all__ = ["REGION", "SERVERS", "CephServer", "S3Server", "ServerError", "SwiftServer", "available_servers", "start_s3"]

SERVERS: dict[str, type[S3Server]] = {server.kind: server for server in (CephServer, SwiftServer)}
CHOICE = "PROMPTMILL_TEST_S3"


def available_servers() -> list[str]:
    """The kinds that can be started here, the most faithful first."""
    return [kind for kind, server in SERVERS.items() if server.available()]


def start_s3(prefer: str | None = None, folder: Path | None = None) -> S3Server:
    """A server to be entered with `with`: the kind asked for here or in PROMPTMILL_TEST_S3, else the first available.

    Raises `ServerError` where there is none, or not the one asked for.
    """
    kinds = available_servers()
    wanted = prefer or os.environ.get(CHOICE) or next(iter(kinds), "")
    if wanted not in kinds:
        raise ServerError(
            f"no S3 server {wanted or 'at all'} here (available: {', '.join(kinds) or 'none'}): install the system's "
            "packages radosgw, ceph-mon and ceph-osd, or the Python package swift"
        )
    return SERVERS[wanted](folder)


def run_command(server: S3Server, bucket: str, command: Sequence[str]) -> int:
    """Run it with the server's environment and `{bucket}` filled in; its exit code, 128 + n after signal n."""
    filled = [argument.replace("{bucket}", bucket) for argument in command]
    code = subprocess.run(filled, check=False, env=os.environ | server.env() | {"BUCKET": bucket}).returncode
    return code if code >= 0 else 128 - code


def stay(server: S3Server, bucket: str) -> int:
    """Print the exports and wait for Ctrl-C."""
    for name, value in (server.env() | {"BUCKET": bucket}).items():
        print(f"export {name}={shlex.quote(value)}")
    print(
        f"# {server.kind} serves s3://{bucket} at {server.endpoint}; Ctrl-C ends it and removes everything", flush=True
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.s3", description=__doc__.splitlines()[0])
    parser.add_argument("--prefer", choices=sorted(SERVERS), help="the kind of server (default: the first available)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...: run it instead of waiting")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    signal.signal(signal.SIGTERM, _end)
    try:
        server = start_s3(options.prefer)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2
    with server:
        bucket = server.make_bucket()
        return run_command(server, bucket, command) if command else stay(server, bucket)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
