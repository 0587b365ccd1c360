"""`promptmill export`: a dataset in the folders that trainings, the Hugging Face hub and the suites' scorers read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from promptmill.jobs.console import show
from promptmill.jobs.options import AsJson, Selection, Url
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.targets import open_target
from promptmill.pipeline.export.push import check_push, push_folder
from promptmill.pipeline.export.registry import LAYOUTS, layout_of
from promptmill.pipeline.export.signing import Sign, open_signer
from promptmill.pipeline.export.splits import read_shares
from promptmill.pipeline.export.suites import export_dataset
from promptmill.pipeline.export.training import export_training
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, MissingObjectError, Problem
from promptmill.schemas.results import ExportResult

if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[LAYOUTS]  # as many as there are modules, which no type checker can count


def export(
    url: str,
    layout: str,
    out: str,
    rejected: bool = False,
    selection: str | None = None,
    split: str | None = None,
    push: str | None = None,
    sign: bool = False,
    certificate: str | None = None,
    key: str | None = None,
) -> ExportResult:
    """`out` is a folder or URL, `split` such as `train=0.9,test=0.1`. Raises JobError where the dataset lacks what the
    layout holds, for shares that are none, for a push without a token, and for a signature that cannot be made.

    `certificate` and `key` are paths, else those of PROMPTMILL_CERTIFICATE and PROMPTMILL_KEY.
    """
    if not sign and (certificate or key):
        raise JobError(Problem("--certificate, --key", "--sign beside them", "none"))
    shares = None if split is None else read_shares(split)
    target = open_target(out, "OUT")
    folder = target.local_path()
    if push is not None:
        check_push(push, folder is not None)
    for_training = hasattr(layout_of(layout), "write")
    _check_layout(layout, for_training, sign, "--split" if split else "--push" if push else None)
    try:
        made = _made(
            url, layout, target, rejected, selection, shares, for_training, (certificate, key) if sign else None
        )
    except MissingObjectError as error:
        expected = "a dataset of which nothing is removed meanwhile"
        hint = "`verify --repair` is at work: export again when it is done"
        raise JobError(Problem(url, expected, str(error), hint)) from None
    target.tidy()
    if push is not None and folder is not None:
        made = replace(made, pushed=push_folder(folder, push))
    return replace(made, out=out)


def _check_layout(layout: str, for_training: bool, sign: bool, option: str | None) -> None:
    if sign and not for_training:
        got = f"{layout}, whose images a scorer reads"
        raise JobError(Problem("--sign", "a layout for training", got, "Take imagefolder or another"))
    if not for_training and option is not None:
        raise JobError(Problem(option, "a layout for training", f"{layout}, which the scorer of a suite reads"))


def _made(
    url: str,
    layout: str,
    target: Store,
    rejected: bool,
    selection: str | None,
    shares: Mapping[str, float] | None,
    for_training: bool,
    credentials: tuple[str | None, str | None] | None,
) -> ExportResult:
    plan, store = open_dataset(url)
    if for_training:
        form = layout_of(layout)
        sign = None if credentials is None else _signer(plan, getattr(form, "TABLES", False), *credentials)
        return export_training(plan, store, target, form, shares, rejected, selection, sign)
    return export_dataset(plan, store, target, layout, rejected, selection)


def _signer(plan: Plan, apart: bool, certificate: str | None, key: str | None) -> Sign:
    """Of an image that was drawn anew in part the rest may be a photo."""
    paths = certificate or os.environ.get("PROMPTMILL_CERTIFICATE"), key or os.environ.get("PROMPTMILL_KEY")
    return open_signer(*paths, composite="mask" in plan.job.task.roles, apart=apart)


def command(
    url: Url,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL to write.")],
    layout: Annotated[LayoutName, typer.Option(help="Who reads it; dpg: four images as a 2×2 grid.")],
    rejected: Annotated[bool, typer.Option("--rejected", help="With the images that were not kept.")] = False,
    selection: Selection = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME=SHARE,…", help="Such as train=0.8,val=0.1,test=0.1, by prompt.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="hf://datasets/OWNER/NAME", help="Send it to the Hugging Face hub, private.")
    ] = None,
    sign: Annotated[
        bool, typer.Option("--sign", help="A signed C2PA manifest in each image; huggingface: a column.")
    ] = False,
    certificate: Annotated[
        str | None, typer.Option(metavar="PEM", help="Chain to sign with, else $PROMPTMILL_CERTIFICATE.")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="PEM", help="Its private key, else $PROMPTMILL_KEY.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the folders that a training, the hub or a suite's own scorer reads."""
    show(export(url, layout, out, rejected, selection, split, push, sign, certificate, key).as_json(), as_json)
