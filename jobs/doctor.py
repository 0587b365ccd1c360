"""`promptmill doctor`: what this machine can do, and what stands in the way."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated

import psutil
import typer

from promptmill.jobs.console import say, say_json, table
from promptmill.jobs.options import AsJson
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.execution.surroundings import oddities
from promptmill.pipeline.models.diffusion.device import describe_device
from promptmill.pipeline.storage.patience import default_patience_s
from promptmill.schemas.errors import StorageError
from promptmill.schemas.results import DoctorResult

_PACKAGES = ("torch", "diffusers", "transformers", "open-clip-torch", "ray", "pyarrow", "fsspec", "s3fs")
_SHM = Path("/dev/shm")  # noqa: S108 - looked at, not written
_LEAST_SHM_BYTES = 1 << 30


def doctor(url: str | None) -> DoctorResult:
    """`problems` is empty on a machine that is ready. With a URL, a small object is written there and deleted."""
    problems: list[str] = []
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
            problems.append(f"{name} is not installed")
    shm = shutil.disk_usage(_SHM).free if _SHM.is_dir() else None
    if shm is not None and shm < _LEAST_SHM_BYTES:
        problems.append(f"{_SHM} has {shm >> 20} MiB free; Ray wants 1 GiB (in a container: --shm-size)")
    problems += oddities()
    return DoctorResult(
        python=platform.python_version(),
        packages=versions,
        cpus=os.cpu_count(),
        memory_free_bytes=psutil.virtual_memory().available,
        disk_free_bytes=shutil.disk_usage(".").free,
        device=describe_device(),
        credentials=sorted(name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))),
        storage=None if url is None else _try_storage(url, problems),
        problems=problems,
    )


def _try_storage(url: str, problems: list[str]) -> str:
    store = open_output(url, patience_s=min(5, default_patience_s()))
    key = f".promptmill-doctor-{os.getpid()}"
    try:
        store.put(key, b"doctor")
        if store.read(key) != b"doctor":
            problems.append(f"{url} does not return what was written")
            store.try_delete(key)
            return "loses what is written"
        store.delete(key)
        weakness = store.weakness()
    except StorageError as error:
        problems.append(str(error))
        store.try_delete(key)
        return "failed"
    if weakness:
        problems.append(f"{url}: {weakness}, so two drivers at the same instant could both write a shard")
    return f"writes, reads; {weakness}" if weakness else "writes, reads, refuses to overwrite"


def command(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="Storage to try as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do and what stands in the way."""
    shown = doctor(url).as_json()
    if as_json:
        say_json(shown)
    else:
        table({name: value for name, value in shown.items() if name != "problems"})
        for problem in shown["problems"]:
            say(f"problem: {problem}")
        say("ready" if not shown["problems"] else f"{len(shown['problems'])} problem(s)")
    raise typer.Exit(1 if shown["problems"] else 0)
