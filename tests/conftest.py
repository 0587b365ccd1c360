"""What all tests share: one thread a process, no hub, the S3 fixtures, and fast tests first."""

from __future__ import annotations

import os
import sys

import pytest

# Before torch is imported: two test processes with two threads each spin against each other on two cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves workers on a machine that does other things
# Where this is set, every process that a test starts compiles torch and diffusers anew: 20 s of CPU each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("PROMPTMILL_STORAGE_PATIENCE_S", "20")

pytest_plugins = ["tests.servers.fixtures"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
