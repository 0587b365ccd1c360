"""`promptmill score`: more metrics for a dataset that exists, without generating again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from promptmill.jobs.console import say, say_json, table
from promptmill.jobs.options import AsJson
from promptmill.jobs.trust import reach_of
from promptmill.pipeline.dataset.open import open_output, read_plan
from promptmill.pipeline.dataset.passed import attribute_columns
from promptmill.pipeline.dataset.targets import refuse_inside
from promptmill.pipeline.display import shown as on_a_line
from promptmill.pipeline.evaluation.brought import bring_scores
from promptmill.pipeline.evaluation.fid import check_installed
from promptmill.pipeline.evaluation.reference import as_written, compare_with_reference
from promptmill.pipeline.jobfile.dates import dated_place
from promptmill.pipeline.models.catalog.clips import ResolvedClip, resolve_clip
from promptmill.pipeline.models.load import load_embedder
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.scores.registry import choose_scorers
from promptmill.pipeline.scores.score_dataset import score_dataset
from promptmill.pipeline.storage.local import read_regular_file
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.reports import ScoreResult

MOST_BYTES = 64 << 20


def score(
    url: str,
    metric: Sequence[str],
    distractors: str | None = None,
    again: bool = False,
    threads: int = 1,
    reference: str | None = None,
    features: str | None = None,
    from_file: str | None = None,
    on_unit: Callable[[int, int], None] = lambda done, of: None,
    selection: str | None = None,
) -> ScoreResult:
    """Writes `scores/` and, in our own datasets, the report anew. `distractors` is a text file, one caption a line.

    `reference` is a folder of images or a dataset, `features` the open_clip model that looks at both; `from_file` has
    scores that others gave; `selection` is the view whose images are held against the reference. Raises JobError for
    an unknown metric, a CLIP that does not load, a missing column, a folder without images, a file of scores that
    does not fit.
    """
    clip = _features(reference, features)
    if selection is not None and reference is None:
        raise JobError(Problem("--selection", "--reference, which it is for", "none: other scores are of all images"))
    metrics = [] if (clip or from_file) and not metric else choose_scorers(metric, _captions(distractors), threads)
    store = open_output(url)
    refuse_inside(url, "URL")
    plan = read_plan(store)
    shown: dict[str, Any] = {"url": url}
    if metrics:
        shown |= asdict(score_dataset(store, metrics, again, on_unit))
    if clip and reference:
        shown |= _against(store, reference, clip, threads, selection, plan)
    if from_file:
        shown |= asdict(bring_scores(store, from_file, again))
    if plan is not None:
        from promptmill.pipeline.report.build import build_report  # seconds to import

        build_report(plan, store, reach=reach_of(store, trusted=False, job=None))
    store.tidy()
    return ScoreResult(**shown)


def _against(
    store: Store, reference: str, clip: ResolvedClip, threads: int, selection: str | None, plan: Plan | None
) -> dict[str, Any]:
    """What the reference says, without pictures."""
    columns = {} if plan is None else attribute_columns(plan, store)
    classes = () if plan is None else plan.words.class_names
    found = compare_with_reference(store, reference, clip, load_embedder(clip, threads), selection, columns, classes)
    pairs = [replace(each, made=None, real=None) for each in found.closest]
    return {**as_written(found), "cells": found.cells, "groups": found.groups, "closest": pairs}


def _features(reference: str | None, features: str | None) -> ResolvedClip | None:
    if reference is None and features is None:
        return None
    if reference is None or features is None:
        given, missing = ("--features", "--reference") if reference is None else ("--reference", "--features")
        hint = "--reference names images, --features the open_clip model that looks at them, such as builtin:shapes."
        raise JobError(Problem(missing, f"a value beside {given}", "none", hint))
    check_installed()
    return resolve_clip(features, "--features")


def _captions(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = read_regular_file(Path(path), MOST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = "no UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise JobError(Problem("--distractors", "a text file with one caption a line", f"{path}: {reason}")) from None
    return [line.strip() for line in lines if line.strip()]


def command(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="Our dataset, or a folder of Parquet files with image and caption.",
            callback=dated_place,
        ),
    ],
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Metric to add; repeat for more.")] = None,
    distractors: Annotated[
        str | None, typer.Option(help="Text file with one caption a line, for the relative CLIP score.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Score anew what is scored already.")] = False,
    reference: Annotated[
        str | None, typer.Option(metavar="URL", help="Images or dataset to compare with: FID, KID, precision, recall.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(metavar="MODEL", help="open_clip model that looks at both, for --reference.")
    ] = None,
    from_file: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Scores of others: a column sample_id (or GenEval's filename)."),
    ] = None,
    selection: Annotated[
        str | None, typer.Option(metavar="NAME", help="For --reference: of the images that a selection keeps.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the tensor library.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Add metrics to a dataset, beside it and without generating again."""
    shown = score(url, metric or [], distractors, again, threads, reference, features, from_file, selection=selection)
    if as_json:
        say_json(shown.as_json())
        return
    _say(shown)


def _say(shown: ScoreResult) -> None:
    below = ("cells", "groups", "groups_left_out", "closest")
    table({name: value for name, value in shown.as_json().items() if name not in below})
    for each in shown.cells or []:
        values = {"fid": each.fid, "kid": each.kid, "precision": each.precision, "recall": each.recall}
        numbers = [f"{name} {value:.4g}" for name, value in values.items() if value is not None]
        say(f"{each.name}: {each.images} images, " + (", ".join(numbers) or "too few to compare"))
    for group in shown.groups or []:
        shares = {"precision": group.precision, "recall": group.recall, "coverage": group.coverage}
        numbers = [f"{name} {value:.3g}" for name, value in shares.items() if value is not None]
        who = f"{on_a_line(group.column)} {on_a_line(group.value)}"
        against = f"{group.images} images against {group.reference_images}"
        say(f"{who}: {against}, " + (", ".join(numbers) or "too few to compare"))
    for name, count in (shown.groups_left_out or {}).items():
        say(f"{on_a_line(name)}: {count} values with fewer images are left out")
