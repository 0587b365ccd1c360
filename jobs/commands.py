"""The commands: each is a module of this folder whose `command` has its options, calls what does it, and prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from promptmill.jobs.arguments import check_arguments
from promptmill.jobs.console import say

COMMANDS = (
    *("init", "validate", "plan", "run", "retry", "status", "watch", "verify", "report"),
    *("score", "select", "curate", "compare", "reproduce", "export", "doctor", "schema"),
    *("finetune", "prove", "synthesize", "probe", "submit", "jobs", "runs", "delete"),
)
"""In the order in which help lists them."""


class _Imported(Mapping[str, Any]):
    """By name; the module of a command is imported when it is called for: all of them take seconds."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        alone = typer.Typer(add_completion=False)
        alone.command(name)(import_module(f"promptmill.jobs.{name}").command)
        return typer.main.get_command(alone)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(TyperGroup):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.commands = cast("dict[str, Any]", _Imported())  # which nothing changes

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        check_arguments(args)
        return super().parse_args(ctx, args)


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
