"""A watch over the head of the cluster: without it Ray's core ends this process after a minute, in its own words."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

import ray

from promptmill.schemas.errors import HeadLostError

_LOOK_EVERY_S = 2.0
_CONNECT_S = 5.0
_RAY_GIVES_UP_S = 60.0
_SHARE = 0.65  # of Ray's patience: a look takes up to 7 s, and the last words want to be first


def watching_head(work: Callable[[], None]) -> None:
    """Runs `work` in a thread, and raises what it raises, or HeadLostError where the head does not come back.

    A thread, since calls of Ray that ask the head do not return while there is none; it is then left behind.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    head = _Head(str(ray.get_runtime_context().gcs_address))
    thread = threading.Thread(target=run, name="dispatch", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
        if thread.is_alive():
            head.look()
    if raised:
        raise raised[0]


class _Head:
    def __init__(self, address: str) -> None:
        self._address = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._seen = time.monotonic()
        # An operator whose head comes back by itself raises it on all nodes.
        given = os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s")  # noqa: SIM112 - Ray's spelling
        patience_s = float(given or _RAY_GIVES_UP_S)
        self._patience_s = patience_s * _SHARE

    def look(self) -> None:
        with contextlib.suppress(OSError), socket.create_connection((self._host, self._port), timeout=_CONNECT_S):
            self._seen = time.monotonic()
        silent_s = time.monotonic() - self._seen
        if silent_s > self._patience_s:
            raise HeadLostError(
                f"the head of the Ray cluster at {self._address} has not answered for {silent_s:.0f} s: it is down or "
                "cut off. What is done stays: run the same command again when the cluster is back"
            )
