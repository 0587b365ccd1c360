"""The commands. Each is a plain function in its own module; here they get their options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from promptmill.jobs.arguments import Commands, OwnJob, TrustDataset
from promptmill.jobs.commands_evaluation import add_commands
from promptmill.jobs.console import say, say_json, table
from promptmill.jobs.options import Address, AsJson, Extend, InProcess, JobFile, Selection, Set, Url, WhileRunning, Yes
from promptmill.schemas.errors import JobError
from promptmill.schemas.results import ValidateResult

app = typer.Typer(
    cls=Commands,
    name="promptmill",
    help="Prompts in, a scored image-caption dataset out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        say(f"promptmill {version('promptmill')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Prompts in, a scored image-caption dataset out."""


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Folder or .yaml file to write.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a commented job file, and sample prompts."""
    from promptmill.jobs.init import init

    written = init(path)
    if as_json:
        say_json({"written": list(map(str, written))})
        return
    for file in written:
        say(f"wrote {file}")
    say(f"next: promptmill run {next(file for file in written if file.suffix in ('.yaml', '.yml'))}")


@app.command()
def validate(job: JobFile, set_: Set = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Check a job file and everything it names; nothing is started or written."""
    from promptmill.jobs.validate import validate

    with _loaded(job, set_) as loaded:
        plan = validate(loaded, yes)
    if as_json:
        say_json(ValidateResult(True, plan.job.name, plan.fingerprint, plan.suite, list(plan.notices)).as_json())
        return
    for notice in plan.notices:
        say(f"note: {notice}")
    _say_suite(plan)
    say(f"{job}: ok. {plan.prompts:,} prompts × {plan.variant_count:,} variants = {plan.samples:,} images")


@app.command()
def plan(job: JobFile, set_: Set = None, extend: Extend = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Say what a run would make and what is already done; nothing is started or written."""
    from promptmill.jobs.plan import plan
    from promptmill.pipeline.planning.variants import describe_axes

    with _loaded(job, set_) as loaded:
        planned, result = plan(loaded, yes, extend)
    shown = result.as_json()
    if as_json:
        say_json(shown)
        return
    rows = {
        "job": shown["name"],
        "task": planned.told_task,
        "prompts": shown["prompts"],
        **({"suite": _suite(planned)} if planned.suite else {}),
        "variants": describe_axes(planned.job) or "1",
        "images": shown["samples"],
        "shards": f"{shown['shards']:,}, of which {shown['shards_done']:,} are done",
        "size": f"about {decimal(shown['bytes_estimated'])}",
        "models": ", ".join(f"{m['path']} ({m['pipeline_class']}, {m['revision'][:18]})" for m in shown["models"]),
        "output": shown["output"],
        "fingerprint": shown["fingerprint"][:16],
    }
    table(rows)
    for notice in shown["notices"]:
        say(f"note: {notice}")


@app.command()
def run(
    job: JobFile,
    set_: Set = None,
    address: Address = None,
    in_process: InProcess = False,
    extend: Extend = False,
    if_running: WhileRunning = "join",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make the dataset, or continue where it stopped."""
    from promptmill.jobs import run as command

    with _loaded(job, set_) as loaded:
        planned, summary = command.run(
            loaded,
            address=address,
            in_process=in_process,
            extend=extend,
            allow_large_sweep=yes,
            if_running=if_running,
        )
    _finish_run(command, planned, summary, as_json)


@app.command()
def retry(
    url: Url,
    address: Address = None,
    in_process: InProcess = False,
    trust_dataset: TrustDataset = False,
    job: OwnJob = None,
    as_json: AsJson = False,
) -> None:
    """Make failed samples again, into new shards of the same dataset."""
    from promptmill.jobs import run as command
    from promptmill.jobs.retry import retry

    planned, summary = retry(url, address=address, in_process=in_process, trust_dataset=trust_dataset, job=job)
    in_vain = not summary.made.samples and not summary.interrupted
    _finish_run(command, planned, summary, as_json, rows_at_fault=in_vain)


def _finish_run(command: Any, planned: Any, summary: Any, as_json: bool, rows_at_fault: bool = False) -> None:
    if as_json:
        say_json(command.result(planned, summary).as_json())
    elif summary.elsewhere is not None:
        say(f"{planned.job.name} is already running {summary.elsewhere}. This run made nothing.")
    else:
        made, url = summary.made, planned.job.output.url.rstrip("/")
        images = made.kept + made.rejected
        speed = f" in {summary.seconds:.1f} s ({summary.images_per_second:.1f} images/s)" if images else ""
        state = "stopped: run the same command again to continue" if summary.interrupted else "done"
        loads = f", {summary.model_loads} model loads" if len(planned.models) > 1 else ""
        say(f"{planned.job.name} {state}. This run made {images:,} images{speed}{loads}.")
        _say_suite(planned)
        counts = summary.counts
        say(
            f"The dataset: kept {counts.kept:,} · rejected {counts.rejected:,} · failed {counts.failed:,} "
            f"of {planned.samples if summary.interrupted else counts.samples:,}"
        )
        if counts.failed:
            again = f"`promptmill retry {url}` makes them again"
            mend = "the source's own rows are at fault: put mended ones into a new file"
            say(f"Failures are in {url}/failures/; {mend if rows_at_fault else again}.")
        for place in summary.left_out:
            say(f"Left out: {place}")
        say(f"{f'Open {url}/report/index.html, or load' if summary.reported else 'Load'} {url}/data/*.parquet")
    raise typer.Exit(command.exit_code(summary))


def _suite(planned: Any) -> str:
    return f"{planned.suite['name']}, sha256 {planned.suite['sha256']}"


def _say_suite(planned: Any) -> None:
    if planned.suite:
        say(f"suite: {_suite(planned)}")


@app.command()
def status(
    url: Url,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds until it is complete.")] = False,
    as_json: AsJson = False,
) -> None:
    """How far a dataset is, and whether a run is at work; from anywhere."""
    from promptmill.jobs.status import in_words, looks

    for shown in looks(url, watch):
        say_json(shown.as_json()) if as_json else table(in_words(shown))


@app.command()
def verify(
    url: Url,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image and check its hash.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove orphans and damaged objects, so that `run` makes them again.")
    ] = False,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for which --repair leaves orphans: a run may be about to name them.")
    ] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Prove that every sample asked for is there exactly once."""
    from promptmill.jobs.status import verify

    shown = verify(url, deep, repair, grace).as_json()
    if as_json:
        say_json(shown)
    else:
        kinds = " + ".join(f"{shown[kind]:,} {kind}" for kind in ("kept", "rejected", "failed"))
        say(
            f"{shown['samples']:,} of {shown['samples_asked_for']:,} samples = {kinds}, "
            f"in {shown['shards_done']:,} of {shown['shards']:,} shards"
        )
        words = {"problems": "problem", "orphans": "orphan", "removed": "removed", "strangers": "not Promptmill's"}
        for name, word in {**words, "spared": f"left, since it may be younger than {grace:.0f} s"}.items():
            for entry in shown[name][:20]:
                say(f"{word}: {entry}")
        missing = shown["missing_shards"]
        if missing:
            say(f"missing: {len(missing):,} shards, the first is {missing[0]}. `promptmill run` makes them")
        say("ok: nothing lost, nothing doubled" if shown["ok"] else "not complete or not right")
    raise typer.Exit(0 if shown["ok"] else 1)


@app.command()
def report(
    url: Url,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of a device, for the cost in total and of 1,000 images.")
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Also one file that needs nothing beside it: report/single-file.html.")
    ] = False,
    selection: Selection = None,
    as_json: AsJson = False,
) -> None:
    """Build report/ again from what is there."""
    from promptmill.jobs.report import report

    shown = report(url, price_per_hour, single_file, selection)
    if as_json:
        say_json(shown.as_json())
        return
    for problem in shown.problems[:20]:
        say(f"problem: {problem}")
    say(f"wrote {url.rstrip('/')}/report/{'single-file.html, ' if single_file else ''}index.html and summary.json")


@app.command()
def doctor(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="Storage to try as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do and what stands in the way."""
    from promptmill.jobs.doctor import doctor

    shown = doctor(url).as_json()
    if as_json:
        say_json(shown)
    else:
        table({name: value for name, value in shown.items() if name != "problems"})
        for problem in shown["problems"]:
            say(f"problem: {problem}")
        say("ready" if not shown["problems"] else f"{len(shown['problems'])} problem(s)")
    raise typer.Exit(1 if shown["problems"] else 0)


@app.command()
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="Changes nothing: a schema is JSON.")] = False,
) -> None:
    """Print the JSON Schema of the job file."""
    from promptmill.jobs.schema import job_schema

    print(job_schema(), end="", flush=True)


add_commands(app)


@contextlib.contextmanager
def _loaded(path: str, overrides: list[str] | None) -> Iterator[Any]:
    """The job; a JobError from inside gets the file and line of the field that it names."""
    from promptmill.pipeline.jobfile.reader import located, read_job

    job, document = read_job(path, overrides or ())
    try:
        yield job
    except JobError as error:
        raise located(error, document) from None
