"""Commands of Promptmill as forks of one warm process."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.fork_client import read_line, start
from tests.servers.process import Child, wait_until

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")},
    "HF_HUB_OFFLINE": "1",
    # Compiling what torch and diffusers import takes as long as all the rest.
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / f"promptmill-bytecode-{os.getuid()}"),
}
FORK_CLIENT = Path(__file__).with_name("fork_client.py")


@dataclass(frozen=True)
class Ended:
    """`code` is negative for a signal; `printed` is what it said on both streams."""

    code: int
    printed: str
    seconds: float

    @property
    def json(self) -> dict[str, Any]:
        """The one object that `--json` prints."""
        line = next(line for line in reversed(self.printed.splitlines()) if line.startswith("{"))
        content: dict[str, Any] = json.loads(line)
        return content


class Fork:
    """A running command."""

    def __init__(self, address: str, arguments: Sequence[str], env: Mapping[str, str], log: Path, command: str) -> None:
        self._log = log
        self._started = time.monotonic()
        with log.open("ab") as out, Path(os.devnull).open("rb") as nothing:
            descriptors = (nothing.fileno(), out.fileno(), out.fileno())
            self._connection, self.pid = start(
                address, command, list(arguments), dict(env), str(REPOSITORY), descriptors
            )
        self._connection.settimeout(300)
        self._ended: Ended | None = None

    def signal(self, number: signal.Signals) -> None:
        """Silent where it has ended; the zygote reaps it only then, so the pid is never another's."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float = 300) -> Ended:
        """Raises TimeoutError."""
        if self._ended is None:
            self._connection.settimeout(timeout_s)
            code = int(read_line(self._connection))
            self._connection.close()
            self._ended = Ended(code, self.printed(), time.monotonic() - self._started)
        return self._ended

    def ends_within(self, seconds: float) -> bool:
        try:
            self.wait(max(seconds, 0.001))
        except TimeoutError:
            return False
        return True

    def printed(self) -> str:
        return self._log.read_text(errors="replace")


class Forks:
    """The warm process, as a context manager; `folder` takes the logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = str(folder / "zygote.sock")
        self._zygote: Child | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        env = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "tests.faults.zygote", self.address]
        self._zygote = Child(command, self.folder / "zygote.log", env)
        wait_until(Path(self.address).exists, "the warm process listens", [self._zygote], timeout_s=600)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._zygote is not None:
            self._zygote.kill()

    @property
    def pid(self) -> int:
        assert self._zygote is not None
        return self._zygote.pid

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, command: str = "cli") -> Fork:
        log = self.folder / f"{next(self._numbers):04d}.log"
        whole = {**os.environ, **ENVIRONMENT, **(env or {})}
        return Fork(self.address, ["promptmill", *arguments], whole, log, command)

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, command: str = "cli") -> Ended:
        return self.start(*arguments, env=env, command=command).wait()

    def python_executable(self) -> str:
        """What to give to Ray as `py_executable`, so that its workers are forks too."""
        return f"{sys.executable} -I -S {FORK_CLIENT} {self.address}"
