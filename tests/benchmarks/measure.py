"""A command with all of its processes: seconds from start to end, and the most memory they held together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

REPOSITORY: Final = Path(__file__).parents[2]
EVERY_S: Final = 0.5
NEW_HIGH: Final = 1.01
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
ENVIRONMENT: Final = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")},
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(REPOSITORY),
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # else 15: whatever else runs on the machine would count against Ray alone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cost:
    """`peak_bytes` is the proportional set size: memory that processes share is counted once. `private_bytes` leaves
    out what lies in files, as Ray's own watch does that ends workers: 0.4 GB of torch with CUDA are files."""

    seconds: float
    peak_bytes: int
    private_bytes: int
    printed: str


def run_module(module: str, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 1800) -> Cost:
    """`python -m module …` in a process of its own. Raises RuntimeError, with what it printed, when it fails."""
    environment = {**os.environ, **ENVIRONMENT, **(env or {})}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", module, *arguments]
    started = time.monotonic()
    with subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        meter = _Meter(child.pid)
        try:
            printed, _ = child.communicate(timeout=timeout_s)
        finally:
            seconds = time.monotonic() - started
            meter.stop()
    if child.returncode:
        raise RuntimeError(f"{module} ended with code {child.returncode}:\n{printed[-4000:]}")
    return Cost(seconds, meter.peak_bytes, meter.private_bytes, printed)


def end_children_when_ended() -> None:
    """SIGTERM ends this process as Ctrl-C does, so that nothing it started outlives it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class _Meter:
    """Samples a process and its descendants until told to stop, then ends those that are left."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = self.private_bytes = 0
        self._root = psutil.Process(pid)
        self._known: dict[int, psutil.Process] = {pid: self._root}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        # A child that was killed leaves its own children behind.
        for process in self._known.values():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _watch(self) -> None:
        highest = 0
        while not self._stop.wait(EVERY_S):
            with contextlib.suppress(psutil.Error):
                for process in self._root.children(recursive=True):
                    self._known.setdefault(process.pid, process)
            self._known = {pid: process for pid, process in self._known.items() if process.is_running()}
            sizes = [_resident_bytes(pid) for pid in self._known]
            resident = sum(whole for whole, _ in sizes)
            self.private_bytes = max(self.private_bytes, sum(whole - shared for whole, shared in sizes))
            # The proportional size takes the kernel 10 ms a process, in which that process cannot ask for memory.
            if resident > highest * NEW_HIGH:
                highest = resident
                self.peak_bytes = max(self.peak_bytes, sum(_proportional_bytes(pid) for pid in self._known))


def _resident_bytes(pid: int) -> tuple[int, int]:
    """All, and of it what lies in files or is shared."""
    with contextlib.suppress(OSError, ValueError):
        _, whole, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
        return whole * PAGE_BYTES, shared * PAGE_BYTES
    return 0, 0


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) << 10
    return 0
