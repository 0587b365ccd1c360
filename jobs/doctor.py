"""`promptmill doctor`: what this machine can do, and what stands in the way."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.filesize import decimal

from promptmill.jobs.console import columns, say, say_json, table
from promptmill.jobs.options import AsJson
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.execution.surroundings import oddities
from promptmill.pipeline.models.diffusion.device import describe_device
from promptmill.pipeline.storage.backend import TEMPORARY
from promptmill.pipeline.storage.patience import default_patience_s
from promptmill.pipeline.storage.urls import local_path
from promptmill.schemas.errors import JobError, Problem, StorageError
from promptmill.schemas.operations import DoctorResult, NodeReport

if TYPE_CHECKING:
    from promptmill.pipeline.execution.fleet.nodes import NodeAnswer

_PACKAGES = ("promptmill", "torch", "diffusers", "transformers", "open-clip-torch", "ray", "pyarrow", "fsspec", "s3fs")
_SHM = Path("/dev/shm")  # noqa: S108 - looked at, not written
_LEAST_SHM_BYTES = 1 << 30
_LEAST_DISK_BYTES = 2 << 30
_MOST_CLOCK_S = 30.0


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
    key = f".promptmill-doctor-{uuid.uuid4().hex[:12]}"
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


def doctor_of_cluster(address: str | None, url: str | None) -> DoctorResult:
    """That of this machine, with all nodes of the cluster: each looked at there. Raises JobError and ClusterError."""
    from promptmill.pipeline.execution.fleet.nodes import ask_nodes

    if url is not None and open_output(url).local_path() is not None and not local_path(url).is_absolute():
        hint = "A relative path is another place on each node"
        raise JobError(Problem(url, "a URL or an absolute path, for a cluster", "a relative path", hint))
    own = doctor(url)
    guard = f"{TEMPORARY}/guard-{uuid.uuid4().hex}"
    try:
        answers = ask_nodes(address, partial(_look, url, guard))
    finally:
        if url is not None:
            store = open_output(url, patience_s=min(5, default_patience_s()))
            store.try_delete(guard)
            store.tidy()
    nodes = [_told(answer, own) for answer in answers]
    winners = [node.name for node, answer in zip(nodes, answers, strict=True) if answer.answer and answer.answer[1]]
    problems = list(own.problems)
    if len(winners) > 1:
        problems.append(
            f"{len(winners)} nodes each were the first to write one object at {url} ({', '.join(winners[:5])}): they "
            "do not see the same storage, or it lets the second writer overwrite"
        )
    return replace(own, problems=problems, nodes=nodes)


def _look(url: str | None, guard: str) -> tuple[DoctorResult, bool]:
    """On a node: its state, and whether it was the first of all to write that object."""
    found = doctor(url)
    if url is None or found.storage == "failed":
        return found, False
    try:
        return found, open_output(url, patience_s=min(5, default_patience_s())).create(guard, b"doctor")
    except StorageError as error:
        return replace(found, problems=[*found.problems, str(error)]), False


def _told(answer: NodeAnswer, own: DoctorResult) -> NodeReport:
    if answer.error:
        return NodeReport(answer.name, answer.address, False, [answer.error], [])
    found: DoctorResult = answer.answer[0]
    gpus = found.device.gpus or []
    problems = [*found.problems, *_unfit(found, own, answer, len(gpus))]
    return NodeReport(
        name=answer.name,
        address=answer.address,
        fit=not problems,
        problems=problems,
        gpus=gpus,
        packages=found.packages,
        python=found.python,
        cpus=found.cpus,
        memory_free_bytes=found.memory_free_bytes,
        disk_free_bytes=found.disk_free_bytes,
        clock_s=round(answer.clock_s, 1),
        storage=found.storage,
    )


def _unfit(found: DoctorResult, own: DoctorResult, answer: NodeAnswer, gpus: int) -> Iterator[str]:
    """What keeps it from working with this machine."""
    for name in ("promptmill", "ray"):
        here, there = own.packages[name], found.packages[name]
        if here != there:
            yield f"it has {name} {there}, this machine {here}: install the same on all nodes"
    if found.python.split(".")[:2] != own.python.split(".")[:2]:
        yield f"it has Python {found.python}, this machine {own.python}: install the same on all nodes"
    if gpus < answer.gpus:
        yield f"Ray counts {answer.gpus:g} GPU there, torch sees {gpus}: look at driver and `nvidia-smi`"
    if found.disk_free_bytes < _LEAST_DISK_BYTES:
        yield f"{found.disk_free_bytes >> 20} MiB of disk are free, Ray and models want 2 GiB"
    if abs(answer.clock_s) > _MOST_CLOCK_S:
        yield f"its clock is {answer.clock_s:+.0f} s off this machine's: storage and tokens go by it"


def _node_cells(node: NodeReport, own: DoctorResult) -> tuple[str, ...]:
    gpus = ", ".join(f"{count} × {name}" for name, count in Counter(gpu.name for gpu in node.gpus).items())
    if node.packages is None:
        return node.name, node.address, "no", *["–"] * 8
    versions = " ".join(node.packages[name] for name in ("promptmill", "torch"))
    memory, disk = decimal(node.memory_free_bytes or 0), decimal(node.disk_free_bytes or 0)
    clock = f"{node.clock_s or 0:+.1f} s"
    fit = "yes" if node.fit else "no"
    rest = (str(node.cpus), gpus or "none", memory, disk, clock, versions, node.python or "–", node.storage or "–")
    return node.name, node.address, fit, *rest


def _show_nodes(found: DoctorResult, nodes: Sequence[NodeReport]) -> int:
    names = ("node", "address", "fit", "CPUs", "GPUs", "memory free", "disk free", "clock", "promptmill, torch")
    columns((*names, "Python", "storage"), (_node_cells(node, found) for node in nodes))
    problems = [f"problem: {problem}" for problem in found.problems]
    problems += [f"problem: {node.name} ({node.address}): {each}" for node in nodes for each in node.problems]
    for problem in problems:
        say(problem)
    unfit = sum(not node.fit for node in nodes)
    say(f"{len(nodes):,} nodes, all fit" if not problems else f"{len(nodes):,} nodes, {unfit:,} unfit")
    return 1 if problems else 0


def command(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="Storage to try as well.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Look at every node of this Ray cluster too (HOST:6379, or auto).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine, or each node of a cluster, can do and what stands in the way."""
    found = doctor(url) if address is None else doctor_of_cluster(address, url)
    shown = found.as_json()
    if as_json:
        say_json(shown)
    elif found.nodes is not None:
        raise typer.Exit(_show_nodes(found, found.nodes))
    else:
        table({name: value for name, value in shown.items() if name != "problems"})
        for problem in shown["problems"]:
            say(f"problem: {problem}")
        say("ready" if not shown["problems"] else f"{len(shown['problems'])} problem(s)")
    unfit = any(not node.fit for node in found.nodes or ())
    raise typer.Exit(1 if shown["problems"] or unfit else 0)
