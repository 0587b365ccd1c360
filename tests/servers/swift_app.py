"""The whole of Swift in one process: `swift_app.py FOLDER PROXY ACCOUNT CONTAINER OBJECT`, the last four being ports.

Each program reads `FOLDER/NAME.conf`; the rings are written here. Runs until it is killed.
"""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import hashlib
import io
import socket
import sys
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Any

import eventlet
import eventlet.wsgi
from eventlet.semaphore import Semaphore
from swift.common.http_protocol import SwiftHttpProtocol
from swift.common.ring import RingData
from swift.common.utils import NullLogger, monkey_patch, set_swift_dir
from swift.common.wsgi import loadapp

PARTITIONS_SHIFT = 31  # two partitions
LOCKS = 64


class Cache:
    """What Swift keeps in memcached: facts about accounts and containers, which else cost two requests each time."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[float, Any]] = {}

    def get(self, key: str, **_: Any) -> Any:
        until, value = self.values.get(key, (0.0, None))
        return value if until > monotonic() else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        self.values[key] = (monotonic() + (time or 60), value)

    def delete(self, key: str, **_: Any) -> None:
        self.values.pop(key, None)


class AtomicCreate:
    """The outermost WSGI filter: makes `If-None-Match: *` hold among racing writers, as AWS and Ceph promise.

    Swift looks first and stores later. The body is read whole before the lock is taken, so that a writer that stalls
    in mid-upload does not hold up its rivals.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.cache = Cache()
        self.locks = [Semaphore(1) for _ in range(LOCKS)]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["swift.cache"] = self.cache
        if environ["REQUEST_METHOD"] != "PUT" or "HTTP_IF_NONE_MATCH" not in environ:
            return self.app(environ, start_response)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:
            start_response("499 Client Disconnect", [("Content-Length", "0"), ("Connection", "close")])
            return [b""]
        environ["wsgi.input"] = io.BytesIO(body)
        digest = hashlib.sha256(environ["PATH_INFO"].encode("latin1")).digest()
        with self.locks[digest[0] % LOCKS]:
            return list(self.app(environ, start_response))


def write_ring(folder: Path, name: str, port: int) -> None:
    """One copy of everything, on one device behind one port."""
    device = {"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d0", "weight": 1.0}
    replica = {"replication_ip": "127.0.0.1", "replication_port": port, "meta": ""}
    RingData([array("H", [0, 0])], [device | replica], PARTITIONS_SHIFT).save(str(folder / f"{name}.ring.gz"))


def serve(folder: Path, name: str, listener: Any) -> None:
    app = loadapp(str(folder / f"{name}.conf"), global_conf={"log_name": name}, allow_modify_pipeline=False)
    eventlet.wsgi.server(
        listener,
        AtomicCreate(app) if name == "proxy" else app,
        NullLogger(),
        protocol=SwiftHttpProtocol,
        socket_timeout=60,
        capitalize_response_headers=False,  # the S3 front needs "ETag", not "Etag"
        debug=False,
    )


def main() -> None:
    monkey_patch()
    folder = Path(sys.argv[1])
    names = ("proxy", "account", "container", "object")
    ports = dict(zip(names, (int(port) for port in sys.argv[2:]), strict=True))
    set_swift_dir(str(folder))
    for name in names[1:]:
        write_ring(folder, name, ports[name])
    threads = []
    for name in reversed(names):  # the backends first
        listener = eventlet.listen(("127.0.0.1", ports[name]), backlog=256)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms a call
        threads.append(eventlet.spawn(serve, folder, name, listener))
    for thread in threads:
        thread.wait()


if __name__ == "__main__":
    main()
