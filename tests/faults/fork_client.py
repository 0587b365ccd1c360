"""Stands in for the interpreter of a Ray worker: has the zygote fork one, and lives as long as it does.

Runs as `python -I -S fork_client.py SOCKET SCRIPT ARGUMENT…`, so it imports nothing but the standard library.
"""

import array
import json
import os
import socket
import sys


def start(
    address: str,
    command: str,
    arguments: list[str],
    env: dict[str, str],
    folder: str,
    descriptors: tuple[int, int, int] = (0, 1, 2),
) -> tuple[socket.socket, int]:
    """A connection that says the exit code (negative for a signal) as one line when the fork ends; the fork's pid."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {"command": command, "arguments": arguments, "env": env, "folder": folder}
    data = json.dumps(request).encode() + b"\n"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sent = connection.sendmsg([data], rights)
    connection.sendall(data[sent:])
    return connection, int(read_line(connection))


def read_line(connection: socket.socket) -> str:
    """Empty where the zygote is gone."""
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            return ""
        line += piece
    return line.decode()


if __name__ == "__main__":
    connection, _ = start(sys.argv[1], "script", sys.argv[2:], dict(os.environ), os.getcwd())  # noqa: PTH109
    code = int(read_line(connection) or 1)
    sys.exit(code if code >= 0 else 128 - code)
