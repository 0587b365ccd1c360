"""`promptmill verify`: whether a dataset holds what it should, and its repair."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from promptmill.jobs.console import first_of, say, say_json
from promptmill.jobs.options import AsJson, Url
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.repair import GRACE_S, Repair
from promptmill.pipeline.dataset.repair import repair as remove
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.schemas.results import VerifyResult


def verify(url: str, deep: bool, repair: bool, grace_s: float = GRACE_S) -> VerifyResult:
    """`ok` says that nothing is wrong and nothing is missing; with `repair` as it is afterwards."""
    plan, store = open_dataset(url)
    result = verify_dataset(plan, store, deep)
    done = remove(result, store, grace_s) if repair else Repair()
    if done.removed:
        result = verify_dataset(plan, store, deep)
    plan = result.plan
    return VerifyResult(
        name=plan.job.name,
        output=url,
        fingerprint=plan.fingerprint,
        ok=result.complete,
        samples_asked_for=plan.samples,
        **asdict(result.counts),
        shards=plan.shards,
        shards_done=result.shards_done,
        missing_shards=result.missing,
        problems=result.problems,
        orphans=sorted({entry.name for entry in result.orphans} - set(done.spared)),
        removed=done.removed,
        spared=done.spared,
        strangers=result.strangers,
        images_checked=result.images_checked,
    )


def command(
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
            for entry in first_of(shown[name]):
                say(f"{word}: {entry}")
        if deep:
            say(f"{shown['images_checked']:,} images decoded and held against their hashes")
        missing = shown["missing_shards"]
        if missing:
            say(f"missing: {len(missing):,} shards, the first is {missing[0]}. `promptmill run` makes them")
        say("ok: nothing lost, nothing doubled" if shown["ok"] else "not complete or not right")
    raise typer.Exit(0 if shown["ok"] else 1)
