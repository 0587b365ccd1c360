"""`promptmill init`: a job file that explains itself, and prompts to try it with."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from promptmill.jobs.console import say, say_json
from promptmill.jobs.few_shot import few_shot_job
from promptmill.jobs.options import AsJson
from promptmill.jobs.schema import SCHEMA_FILE
from promptmill.pipeline.dataset.targets import refuse_dataset
from promptmill.pipeline.jobfile.document import printable
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.jobfile.yaml_reader import read_value
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.job import Job
from promptmill.schemas.output import Output
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.results import InitResult
from promptmill.schemas.scores import Score, Select

SUFFIXES: Final = (".parquet", ".csv", ".tsv", ".jsonl", ".txt")
WIDTH: Final = 110

SAMPLE_PROMPTS: Final = """\
a small red circle on the left, black background
a large blue square in the center, white background
a green triangle at the top, gray background
a yellow ring on the right, black background
a pink diamond at the bottom, white background
a large orange cross on a black background
a small cyan circle at the top on a gray background
a purple square on a white background
a red circle left of a blue square, black background
a green triangle right of a yellow ring, white background
a pink diamond above a cyan cross, black background
an orange square below a purple circle, gray background
a blue ring and a red cross on a white background
a large yellow triangle in the middle, gray background
a small green diamond on the right side, black background
a cyan ring above an orange triangle, white background
"""
"""In the words that the built-in model knows."""

_HEAD: Final = """\
# A Promptmill job. `promptmill validate` checks this file, `promptmill plan` says what it would make, and
# `promptmill run` makes it; the same command again continues after a crash. Paths are relative to the folder
# where the command is started. Required are `name`, `prompts.source` and `output.url`; all else may be left out.
"""
_AXES: Final = """\
  # guidance_scale: [1.0, 5.0]
  # num_inference_steps: {from: 10, to: 30, step: 10}
  # settings:   # one axis of values that go together
  #   fast: {num_inference_steps: 8, scheduler: lcm}
  #   fine: {num_inference_steps: 50, scheduler: dpm++}
"""


def init(path: Path) -> list[Path]:
    """Write a job (`path` itself if it ends in .yaml or .yml, else `path/job.yaml`) and return all files written.

    Where the job's folder has no `prompts.*` yet, sample prompts are written too. Raises JobError instead of
    overwriting a file, and where the folder cannot be written.
    """
    job_file = path if path.suffix in (".yaml", ".yml") else path / "job.yaml"
    folder = job_file.parent
    refuse_dataset(str(folder), "PATH")
    found = sorted(each for each in folder.glob("prompts.*") if each.suffix in SUFFIXES)
    prompts = found[0] if found else folder / "prompts.txt"
    name = printable(folder.resolve().name, 100) or "my-job"
    job = default_job(name, os.path.relpath(prompts))
    text = job_text(job, schema_reference(folder))
    parse_job(text, str(job_file))
    _create(job_file, text)
    if found:
        return [job_file]
    _create(prompts, SAMPLE_PROMPTS)
    return [job_file, prompts]


def init_classes(path: Path, classes: Path) -> list[Path]:
    """As `init`, a job that makes a labelled set from a folder of real images by class."""
    job_file = path if path.suffix in (".yaml", ".yml") else path / "job.yaml"
    refuse_dataset(str(job_file.parent), "PATH")
    name = printable(classes.resolve().name, 100) or "few-shot"
    text = few_shot_job(name, classes, schema_reference(job_file.parent))
    parse_job(text, str(job_file))
    _create(job_file, text)
    return [job_file]


def default_job(name: str, source: str) -> Job:
    """The built-in model, four images for each prompt, of which CLIP picks the best."""
    return Job(
        name=name,
        prompts=Prompts(source=source),
        model=Model(path="builtin:shapes"),
        generation=Generation(guidance_scale=2.5, images_per_prompt=4),
        score=(Score(clip="builtin:shapes"),),
        select=Select(keep=1, by="clip"),
        output=Output(url=f"out/{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('.-') or 'my-job'}", images_per_shard=64),
    )


def schema_reference(folder: Path) -> str:
    """How an editor finds the JSON Schema from `folder`: relative within one project, else as a file URI."""
    here = folder.resolve()
    relative = Path(os.path.relpath(SCHEMA_FILE, here)).as_posix()
    is_near = relative.count("..") <= 2 and here.parts[:2] == SCHEMA_FILE.parts[:2]
    return relative if is_near and not re.search(r"\s", relative) else SCHEMA_FILE.as_uri()


def job_text(job: Job, schema: str) -> str:
    """The job as YAML, each field below its docstring."""
    lines = [f"# yaml-language-server: $schema={schema}", _HEAD.rstrip(), *_section(job, "")]
    return "\n".join(lines) + "\n"


def _section(values: BaseModel, indent: str) -> Iterator[str]:
    for name, info in type(values).model_fields.items():
        value = getattr(values, name)
        if name == "shapes":
            continue
        if not indent:
            yield ""
        yield from _comment(info, value, indent)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from [_AXES.rstrip()] if name == "sweep" else _section(value, indent + "  ")
        elif isinstance(value, tuple) and value:
            yield f"{indent}{name}:"
            for item in value:
                lines = list(_section(item, indent + "    "))
                first = next(i for i, line in enumerate(lines) if not line.lstrip().startswith("#"))
                # Comments of the first field go above the dash.
                yield from (line[2:] for line in lines[:first])
                yield f"{indent}  - {lines[first].lstrip()}"
                yield from lines[first + 1 :]
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _comment(info: FieldInfo, value: Any, indent: str) -> list[str]:
    text = info.description or ""
    is_plain = not isinstance(value, (BaseModel, tuple))
    if is_plain and not info.is_required() and info.default != value:
        text += f" Default: {_scalar(info.default)}."
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )


def _scalar(value: Any) -> str:
    """Text stays without quotes where it reads back as the same text."""
    if isinstance(value, str) and re.fullmatch(r"[\w./:+-]+", value) and read_value(value, "", 1).data == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _create(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError:
        hint = "Nothing was changed; name another file or folder."
        raise JobError(Problem(printable(str(path), 200), "a new file", "one that exists", hint)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        where = printable(str(path), 200)
        raise JobError(Problem(where, "a folder that can be written", reason.lower())) from None


def command(
    path: Annotated[Path, typer.Argument(help="Folder or .yaml file to write.")] = Path(),
    classes: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Real images by class, to make a labelled set from.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a commented job file, and sample prompts."""
    written = init(path) if classes is None else init_classes(path, classes)
    if as_json:
        say_json(InitResult(list(map(str, written))).as_json())
        return
    for file in written:
        say(f"wrote {file}")
    say(f"next: promptmill run {next(file for file in written if file.suffix in ('.yaml', '.yml'))}")
