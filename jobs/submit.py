"""`promptmill submit`: the same as `run`, on a cluster of which this machine is no node."""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer
from rich.filesize import decimal

from promptmill.jobs.console import say, say_json, say_on_stderr
from promptmill.jobs.jobs import told
from promptmill.jobs.options import AsJson, CaCert, Dashboard, Extend, JobFile, Set, WhileRunning, Yes
from promptmill.jobs.signals import answering, leave
from promptmill.pipeline.display import redact
from promptmill.pipeline.execution.submit.bundle import CHECK_NAME, JOB_NAME, Bundle, bundle
from promptmill.pipeline.execution.submit.dashboard import Dashboard as Cluster
from promptmill.pipeline.execution.submit.follow import Ended, follow
from promptmill.pipeline.jobfile.reader import located, parse_with_document
from promptmill.pipeline.jobfile.text import read_text
from promptmill.schemas.errors import JobError
from promptmill.schemas.job import Job
from promptmill.schemas.operations import SubmitResult
from promptmill.schemas.results import IfRunning

STOP_WAIT_S: Final = 600
"""Ray kills a stopped job after 3 s otherwise; the shards in hand want to be finished."""


def entrypoint(arguments: Sequence[str]) -> str:
    """For a shell on the head: hold the versions against each other, then become the command itself, which so gets the
    signal of a stop."""
    check = shlex.join([CHECK_NAME, version("promptmill")])
    run = shlex.join(["-m", "promptmill.jobs.cli", "run", *arguments])
    python = "python=$(command -v python || command -v python3)"
    return f'{python}; "$python" {check} && exec "$python" {run}'


def request(job: Job, parcel: Bundle, arguments: Sequence[str], stop_wait_s: int) -> dict[str, Any]:
    slug = re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-")[:40] or "job"
    return {
        "entrypoint": entrypoint(arguments),
        "submission_id": f"{slug}-{secrets.token_hex(4)}",
        "metadata": {
            "promptmill": version("promptmill"),
            "name": job.name,
            "output": redact(job.output.url),
        },
        "runtime_env": {
            "working_dir": f"gcs://{parcel.name}",
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(stop_wait_s)},
        },
    }


def prepare(path: str, overrides: Sequence[str], ship: bool, upload: bool) -> tuple[Job, Bundle]:
    """Raises JobError for a job that is wrong, or that names what only this machine has."""
    text = read_text(path, "standard input" if path == "-" else path)
    job, document = parse_with_document(text, "standard input" if path == "-" else path, overrides)
    try:
        return job, bundle(job, text, ship, upload)
    except JobError as error:
        raise located(error, document) from None


def send(cluster: Cluster, job: Job, parcel: Bundle, arguments: Sequence[str], stop_wait_s: int) -> str:
    """The id of the job."""
    cluster.ray_version()  # so that what is no dashboard gets no upload
    if not cluster.has_package(parcel.name):
        cluster.upload_package(parcel.name, parcel.content)
    return cluster.submit(request(job, parcel, arguments, stop_wait_s))


def run_arguments(
    overrides: Sequence[str], *, extend: bool, yes: bool, if_running: IfRunning, as_json: bool
) -> list[str]:
    """What `promptmill run` gets on the cluster."""
    flags = [flag for flag, given in (("--extend", extend), ("--yes", yes), ("--json", as_json)) if given]
    sets = [part for override in overrides for part in ("--set", override)]
    return [JOB_NAME, *sets, *flags, "--if-running", if_running]


def answer_in(log: str) -> dict[str, Any] | None:
    """The object that `--json` printed: the last of the log's lines that is one."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            return found if isinstance(found, dict) else None
    return None


def watch(cluster: Cluster, job: str, as_json: bool) -> Ended:
    """Until it has ended. Ctrl-C ends this command and leaves the job alone."""
    left = (
        f"no longer following; the job goes on. `promptmill jobs logs {job} --follow --address {cluster.url}` follows "
        f"it again, `promptmill jobs stop {job} --address {cluster.url}` ends it gently"
    )
    with answering(lambda: leave(as_json, left)):
        return follow(cluster, job, say_on_stderr if as_json else say, say_on_stderr)


def command(
    job: JobFile,
    address: Dashboard = None,
    set_: Set = None,
    extend: Extend = False,
    if_running: WhileRunning = "join",
    yes: Yes = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    ship: Annotated[bool, typer.Option("--ship", help="Send this program too, for nodes that lack it.")] = False,
    upload: Annotated[
        bool, typer.Option(help="Send prompts that lie on this machine; else their path is one of the nodes'.")
    ] = True,
    stop_wait: Annotated[
        int, typer.Option(min=3, metavar="SECONDS", help="So long a stopped job may finish what it has in hand.")
    ] = STOP_WAIT_S,
    ca_cert: CaCert = None,
    as_json: AsJson = False,
) -> None:
    """Run the job on a Ray cluster from a machine that is none of its nodes, and follow it."""
    loaded, parcel = prepare(job, set_ or (), ship, upload)
    overrides = [*(set_ or ()), *parcel.overrides]
    arguments = run_arguments(overrides, extend=extend, yes=yes, if_running=if_running, as_json=as_json)
    cluster = Cluster(address, ca_cert)
    name = send(cluster, loaded, parcel, arguments, stop_wait)
    say_on_stderr(
        f"submitted {name} to {cluster.url}: {decimal(len(parcel.content))}, {parcel.files:,} file(s) of prompts. "
        f"`promptmill jobs stop {name} --address {cluster.url}` ends it gently"
    )
    _finish(cluster, name, parcel, None if detach else watch(cluster, name, as_json), as_json)


def _finish(cluster: Cluster, name: str, parcel: Bundle, ended: Ended | None, as_json: bool) -> None:
    """`ended` is None for a job that nobody waits for."""
    if ended is not None and ended.message:
        say_on_stderr(f"error: {ended.message}")
    code = None if ended is None else ended.exit_code
    if as_json:
        row = told(cluster.job(name))
        answer = None if ended is None else answer_in(ended.log)
        size = len(parcel.content)
        say_json(SubmitResult(row, cluster.url, size, parcel.files, code, answer).as_json())
    elif ended is None:
        say(name)
    elif ended.status == "STOPPED":
        say("stopped: submit the same job again to continue")
    raise typer.Exit(code or 0)
