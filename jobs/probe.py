"""`promptmill probe`: how fast a job is on this machine's device, kept beside the job for `promptmill plan`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Final

import typer
from rich.filesize import decimal

from promptmill.jobs.console import columns, say, say_json, say_on_stderr
from promptmill.jobs.options import AsJson, JobFile, Set, Yes, loaded_job
from promptmill.jobs.plan import plan_of
from promptmill.jobs.probed import probe_file, probes
from promptmill.schemas.operations import ProbeResult

_WHY: Final = {
    "memory": "the next one does not fit",
    "time": "there was no time for the next one (--seconds)",
    "no_faster": "a larger one is not faster",
    "most": "nobody needs a larger one",
}


def probe(path: str, overrides: list[str] | None, seconds: float, allow_large_sweep: bool) -> ProbeResult:
    """Raises JobError and ModelLoadError. What was measured is kept beside the job file, if there is one."""
    with loaded_job(path, overrides) as job:
        plan = plan_of(job, allow_large_sweep, extend=False)
        from promptmill.pipeline.execution.probe import probe as measure  # torch, once the job is known to be right

        found = measure(plan, seconds)
    return _kept(path, found)


def _kept(path: str, found: ProbeResult) -> ProbeResult:
    file = probe_file(path)
    if file is None:
        return found
    kept = replace(found, file=str(file))
    others = [each for each in probes(path) if (each.device, each.settings) != (found.device, found.settings)]
    try:
        file.write_text(json.dumps([each.as_json() for each in (*others, kept)], indent=2) + "\n")
    except OSError as error:
        say_on_stderr(f"not kept beside the job: {error}")
        return found
    return kept


def command(
    job: JobFile,
    set_: Set = None,
    seconds: Annotated[float, typer.Option(min=1, help="So long larger batches are tried.")] = 60.0,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make a few batches on this machine and throw them away: images/s, memory, the largest batch that fits."""
    found = probe(job, set_, seconds, yes)
    if as_json:
        say_json(found.as_json())
        return
    say(f"{found.name} on {found.device}: loaded in {found.load_seconds:.1f} s")
    rows = ((each.batch_size, f"{each.images_per_second:.3g}", decimal(each.memory_bytes)) for each in found.batches)
    columns(("batch", "images/s", "memory"), rows)
    say(f"the largest batch is {found.largest_batch}: {_WHY[found.ended_by]}")
    if found.file:
        say(f"kept in {found.file}, where `promptmill plan` finds it")
