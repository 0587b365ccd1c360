"""Machines made of namespaces (`lab`): each has its own address, host name, processes, /tmp and /dev/shm."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

SCRIPT = Path(__file__).with_name("lab")
CHECKOUT = SCRIPT.resolve().parents[2]
NEEDED = ("ip", "unshare", "nsenter")


def why_not() -> str:
    """Empty where machines can be made."""
    if os.geteuid() != 0:
        return "needs root, to make machines of namespaces"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"needs {', '.join(missing)}" if missing else ""


MARKS = (
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not os.environ.get("PROMPTMILL_ENGINES"), reason="`make engines` runs it"),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
)
"""Of every test that needs machines."""


class Lab:
    """`folder` is below /tmp, of which a machine sees what it is started with and this checkout, at the same paths."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        own = {"LAB_STATE": str(folder / "lab"), "LAB_NET": f"pm{secrets.token_hex(3)}", "LAB_SHARED": str(folder)}
        self.environment = {**environment, **own}
        self._running: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call("down")
        for process in self._running:
            process.kill()
            process.wait(20)

    def up(self, name: str, *shared: Path) -> str:
        """Its address."""
        hidden = [CHECKOUT] if CHECKOUT.is_relative_to("/tmp") else []  # by the machine's own /tmp
        self.environment["LAB_SHARED"] = " ".join(map(str, (*shared, *hidden)))
        return self._call("up", name).split()[1]

    def kill(self, name: str) -> None:
        """Power off."""
        self._call("kill", name)

    def start(self, name: str, *command: str, log: Path) -> subprocess.Popen[Any]:
        with log.open("ab") as file:
            process = subprocess.Popen(
                [str(SCRIPT), "on", name, *command],
                env=self.environment,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )
        self._running.append(process)
        return process

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        arguments = [str(SCRIPT), "on", name, *command]
        return subprocess.run(arguments, env=self.environment, capture_output=True, text=True, check=False, timeout=600)

    def _call(self, *arguments: str) -> str:
        ended = subprocess.run(
            [str(SCRIPT), *arguments], env=self.environment, capture_output=True, text=True, check=True
        )
        return ended.stdout
