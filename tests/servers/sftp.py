"""An SFTP server on loopback over a folder, by paramiko: real SSH, keys and packets, in threads of this process."""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any, Self

import paramiko
from paramiko.sftp import SFTP_OK

from tests.servers.process import free_ports

USER, PASSWORD = "mill", "grain"


class SftpServer:
    """`stop` ends listening and all connections, `start` brings it back on the same port with the same files.

    With `plain` it knows no `posix-rename`, as servers other than OpenSSH.
    """

    def __init__(self, folder: Path, plain: bool = False) -> None:
        self.folder, self.plain = folder, plain
        (self.port,) = free_ports(1)
        self._key = paramiko.RSAKey.generate(2048)
        self._transports: list[paramiko.Transport] = []
        self._listening: socket.socket | None = None

    def url(self, path: str = "") -> str:
        return f"sftp://127.0.0.1:{self.port}/{path}"

    def env(self) -> dict[str, str]:
        return {"FSSPEC_SFTP_USERNAME": USER, "FSSPEC_SFTP_PASSWORD": PASSWORD}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port))
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def stop(self) -> None:
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        while self._transports:
            self._transports.pop().close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self._key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, self.folder, self.plain)
            self._transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=_Door())


class _Door(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        good = (username, password) == (USER, PASSWORD)
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def get_allowed_auths(self, username: str) -> str:
        return "password"


def _answer(action: Any, *arguments: Any) -> int:
    try:
        action(*arguments)
    except OSError as error:
        return int(paramiko.SFTPServer.convert_errno(error.errno))
    return int(SFTP_OK)


class _Handle(paramiko.SFTPHandle):  # type: ignore[misc]
    def stat(self) -> Any:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class _Files(paramiko.SFTPServerInterface):  # type: ignore[misc]
    def __init__(self, server: Any, folder: Path, plain: bool) -> None:
        super().__init__(server)
        self._folder, self._plain = folder, plain

    def _real(self, path: str) -> str:
        return f"{self._folder}{self.canonicalize(path)}"

    def list_folder(self, path: str) -> Any:
        real = self._real(path)
        try:
            names = os.listdir(real)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        return [paramiko.SFTPAttributes.from_stat(os.lstat(f"{real}/{name}"), name) for name in names]

    def _stat(self, look: Any, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(look(self._real(path)))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def stat(self, path: str) -> Any:
        return self._stat(os.stat, path)

    def lstat(self, path: str) -> Any:
        return self._stat(os.lstat, path)

    def open(self, path: str, flags: int, attr: Any) -> Any:
        try:
            descriptor = os.open(self._real(path), flags, 0o644)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        mode = {os.O_WRONLY: "wb", os.O_RDWR: "r+b"}.get(flags & (os.O_WRONLY | os.O_RDWR), "rb")
        handle = _Handle(flags)
        handle.readfile = handle.writefile = os.fdopen(descriptor, mode)
        return handle

    def remove(self, path: str) -> int:
        return _answer(os.remove, self._real(path))

    def rename(self, oldpath: str, newpath: str) -> int:
        """As OpenSSH: never over another."""
        return _answer(_rename_by_link, self._real(oldpath), self._real(newpath))

    def posix_rename(self, oldpath: str, newpath: str) -> int:
        if self._plain:
            return int(paramiko.SFTP_OP_UNSUPPORTED)
        return _answer(os.replace, self._real(oldpath), self._real(newpath))

    def mkdir(self, path: str, attr: Any) -> int:
        return _answer(os.mkdir, self._real(path))

    def rmdir(self, path: str) -> int:
        return _answer(os.rmdir, self._real(path))


def _rename_by_link(old: str, new: str) -> None:
    os.link(old, new)
    Path(old).unlink()
