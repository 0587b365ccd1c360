"""What all tests share: one thread a process, no hub, the S3 fixtures, and fast tests first."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Before torch is imported: two test processes with two threads each spin against each other on two cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Ray's library reads the mode once a process, and Ray turns it to token by itself once a local run has made a token in
# the home folder: a later cluster of the same process of tests then waits for a token that nobody sends.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves workers on a machine that does other things
# Where this is set, every process that a test starts compiles torch and diffusers anew: 20 s of CPU each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("PROMPTMILL_STORAGE_PATIENCE_S", "20")
os.environ["PROMPTMILL_STATE_DIR"] = tempfile.mkdtemp(prefix="promptmill-state-")
atexit.register(shutil.rmtree, os.environ["PROMPTMILL_STATE_DIR"], ignore_errors=True)

pytest_plugins = ["tests.servers.fixtures"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sd`, a Stable Diffusion pipeline, and `clip`, both tiny and of random weights."""
    from tests.models import tiny  # imports torch, which most tests do without

    root = tmp_path_factory.mktemp("tiny")
    tiny.build_sd15(root / "sd")
    tiny.build_clip(root / "clip")
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(autouse=True)
def _nothing_kept_secret() -> None:
    """What one test's URLs hold is an ordinary word in the next."""
    from promptmill.pipeline import display

    display._known.clear()
