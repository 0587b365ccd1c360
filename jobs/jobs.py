"""`promptmill jobs`: what was submitted to a cluster, its log, and an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from promptmill.jobs.console import columns, say, say_json, say_on_stderr
from promptmill.jobs.options import AsJson, CaCert, Dashboard
from promptmill.pipeline.display import local_time
from promptmill.pipeline.execution.submit.dashboard import Dashboard as Cluster
from promptmill.pipeline.execution.submit.dashboard import UnknownJobError
from promptmill.pipeline.execution.submit.follow import ENDED, Ended, follow
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.operations import JobRow, JobsResult

Action = Literal["list", "stop", "logs"]


def told(details: dict[str, Any]) -> JobRow:
    """A job as Ray describes it."""
    metadata = details.get("metadata") or {}
    ended = str(details.get("status")) in ENDED
    return JobRow(
        id=str(details.get("submission_id")),
        name=str(metadata.get("name") or "?"),
        state=str(details.get("status")),
        output=metadata.get("output"),
        began_at=_time(details.get("start_time")),
        ended_at=_time(details.get("end_time")) if ended else None,
        exit_code=details.get("driver_exit_code"),
        message=str(details.get("message") or "")[-300:] or None,
    )


def _time(milliseconds: object) -> str | None:
    return local_time(milliseconds / 1000) if isinstance(milliseconds, (int, float)) and milliseconds else None


def listed(cluster: Cluster) -> list[JobRow]:
    """Those that `promptmill submit` sent, the newest last."""
    cluster.ray_version()
    ours = [each for each in cluster.jobs() if "promptmill" in (each.get("metadata") or {})]
    return [told(each) for each in sorted(ours, key=lambda each: each.get("start_time") or 0)]


def known(cluster: Cluster, job: str) -> dict[str, Any]:
    """Raises JobError for an id that the cluster does not know."""
    cluster.ray_version()
    try:
        return cluster.job(job)
    except UnknownJobError:
        hint = f"`promptmill jobs --address {cluster.url}` lists them"
        raise JobError(Problem(f"job {job}", f"one of those on {cluster.url}", "none of that name", hint)) from None


def stop(cluster: Cluster, job: str, wait: bool, as_json: bool) -> JobRow:
    """Its shards in hand are finished first."""
    details = known(cluster, job)
    if str(details.get("status")) not in ENDED:
        cluster.stop(job)
        say_on_stderr(f"{job} was asked to stop: it finishes the shards in hand first")
        if wait:
            _follow(cluster, job, as_json)
    return told(cluster.job(job))


def _follow(cluster: Cluster, job: str, as_json: bool) -> Ended:
    return follow(cluster, job, say_on_stderr if as_json else say, say_on_stderr)


def command(
    action: Annotated[Action, typer.Argument(metavar="[list|stop|logs]", help="What to do.")] = "list",
    job: Annotated[str | None, typer.Argument(metavar="[ID]", help="The job to stop, or whose log to show.")] = None,
    address: Dashboard = None,
    follow_: Annotated[bool, typer.Option("--follow", help="Of `logs`: until it has ended.")] = False,
    wait: Annotated[bool, typer.Option(help="Of `stop`: until it has ended.")] = True,
    ca_cert: CaCert = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs that were submitted to a cluster; stop one gently, or show its log."""
    if (action == "list") != (job is None):
        expected = "no id" if action == "list" else "the id of a job"
        raise JobError(Problem(f"jobs {action}", expected, job or "none", "`promptmill jobs` lists them"))
    cluster = Cluster(address, ca_cert)
    code = 0
    if job is None:
        rows = listed(cluster)
    elif action == "stop":
        rows = [stop(cluster, job, wait, as_json)]
    else:
        code, rows = _logs(cluster, job, follow_, as_json)
    if as_json:
        say_json(JobsResult(cluster.url, rows).as_json())
    elif action == "list":
        _show(rows, cluster.url)
    elif action == "stop":
        say(f"{job}: {rows[0].state}")
    raise typer.Exit(code)


def _logs(cluster: Cluster, job: str, follow_: bool, as_json: bool) -> tuple[int, list[JobRow]]:
    known(cluster, job)
    if follow_:
        code = _follow(cluster, job, as_json).exit_code
    else:
        code = 0
        for line in cluster.log(job).splitlines():
            say_on_stderr(line) if as_json else say(line)
    return code, [told(cluster.job(job))]


def _show(rows: Sequence[JobRow], url: str) -> None:
    if not rows:
        say(f"nobody has submitted a job to {url}")
        return
    columns(("id", "name", "state", "exit", "began", "output"), map(_cells, rows))


def _cells(row: JobRow) -> tuple[str, ...]:
    exit_code = "–" if row.exit_code is None else f"{row.exit_code}"
    return row.id, row.name, row.state.lower(), exit_code, (row.began_at or "–")[:16], row.output or "–"
