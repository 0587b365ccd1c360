"""Child processes that never outlive the tests: SIGKILL reaches them when this process ends, however it ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

PR_SET_PDEATHSIG = 1

# Runs in the child: asks the kernel for SIGKILL at the parent's death, then becomes the command. The parent may have
# died before the request, hence the second look.
LAUNCHER = f"""
import ctypes, os, sys
ctypes.CDLL(None, use_errno=True).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""

# The kernel's "parent" is the thread that started the child: children are started by one thread that lives as long as
# the process, so that a server may also be started or restarted from a short-lived thread.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-spawner")


class ServerError(RuntimeError):
    """A server could not be started; the text holds the end of its log."""


class Child:
    """A server process of ours, logging to `log`; only ever signalled by its own pid."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = Path(command[0]).name
        self.log = log
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command]
        with log.open("ab") as out:
            self._process = _SPAWNER.submit(
                subprocess.Popen, launch, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            ).result()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; silent if the process is already gone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL, which also ends a stopped process, and wait for its end (10 s at most)."""
        self._process.kill()
        self._process.wait(timeout=10)

    def tail(self, characters: int = 2000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""


def wait_until(ready: Callable[[], bool], what: str, children: Sequence[Child], timeout_s: float = 30.0) -> None:
    """Poll every 20 ms; raises `ServerError` after `timeout_s` seconds, or as soon as one of the children has ended."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        ended = next((child for child in children if not child.alive), None)
        if ended is not None:
            raise ServerError(f"{ended.name} ended before {what}:\n{ended.tail()}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"{child.name}: {child.tail()}" for child in children)
            raise ServerError(f"waited {timeout_s:.0f} s for {what}:\n{logs}")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Loopback ports nobody listens on, below the range the kernel gives to outgoing connections."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class KeptServer:
    """One server program on loopback, within a `with`. `stop` and `start` keep port and data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self.port,) = free_ports(1)
        self._child: Child | None = None

    def command(self) -> tuple[list[str], Mapping[str, str] | None]:
        """What to start, and its environment; None for that of the tests."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        command, env = self.command()
        self._child = Child(command, self._folder / "log", env)
        wait_until(self._answers, f"{type(self).__name__} answers", [self._child])

    def stop(self) -> None:
        """Gently: some write their index every few seconds."""
        child, self._child = self._child, None
        if child is not None:
            child.signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while child.alive and time.monotonic() < deadline:
                time.sleep(0.02)
            child.kill()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
