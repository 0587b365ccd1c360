"""The command line before anything is done with it: what is secret in it is known, and passwords are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from promptmill.pipeline.display import keep_secrets, shown
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.urls import holds_password

TrustDataset = Annotated[
    bool,
    typer.Option(
        "--trust-dataset", help="Load the models that the dataset names, and read the images, whoever made it."
    ),
]
OwnJob = Annotated[
    str | None,
    typer.Option(
        "--job",
        metavar="JOB.yaml",
        help="Your own job: its models and the place of its prompts are trusted; `retry` runs with its `compute:`.",
    ),
]


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises JobError for URLs that hold a password; those of `--set` are the job file's, which has texts too."""
    keep_secrets(arguments)
    overrides = {index + 1 for index, each in enumerate(arguments) if each == "--set"}
    hint = "A command line is seen by everybody on this machine: give credentials in the environment"
    problems = [
        Problem(shown(each), "a URL without user and password", "one that holds them", hint)
        for index, each in enumerate(arguments)
        if index not in overrides and not each.startswith("--set=") and holds_password(each)
    ]
    if problems:
        raise JobError(*problems)
