"""`promptmill reproduce`: one image again, from its row."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from promptmill.jobs.arguments import OwnJob, TrustDataset
from promptmill.jobs.console import show
from promptmill.jobs.options import AsJson, Url
from promptmill.jobs.trust import reach_of, refuse_strangers
from promptmill.pipeline.dataset.open import located, open_dataset
from promptmill.pipeline.dataset.targets import refuse_dataset
from promptmill.pipeline.models.catalog.versions import in_words
from promptmill.pipeline.worker.reproduce import reproduce_sample
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.identity import digest
from promptmill.schemas.results import ReproduceResult, VersionChange


def reproduce(
    url: str, sample_id: str, out: str | None = None, trust_dataset: bool = False, job: str | None = None
) -> ReproduceResult:
    """Writes the image to `out` (by default `<sample_id>.png` or so in the current folder) and says how it differs.

    Raises JobError for an id that does not exist, and for models that only the dataset names, unless it is trusted;
    ModelLoadError where the model is not here any more.
    """
    _refuse_place(Path(out) if out else Path("image.png"))
    plan, store = open_dataset(url)
    refuse_strangers(plan, url, trust_dataset, job, clips=False)
    reach = reach_of(store, trust_dataset, job)
    made = reproduce_sample(located(plan, store), store, sample_id, reach=reach)
    path = Path(out or f"{_file_name(made.sample_id)}.{made.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.data)
    except OSError as error:
        raise JobError(Problem("--out", "a file that can be written", f"{path}: {error.strerror}")) from None
    return ReproduceResult(
        sample_id=made.sample_id,
        prompt=made.prompt,
        seed=made.seed,
        file=str(path),
        verdict=made.verdict,
        identical=made.identical,
        max_difference=made.max_difference,
        psnr_db=made.psnr_db,
        with_mates=made.with_mates,
        versions=dict(made.versions),
        versions_then=dict(made.versions_then),
        other_versions={name: VersionChange(*pair) for name, pair in made.other_versions.items()},
    )


def _file_name(sample_id: str) -> str:
    """An id of ours is its own name; one that somebody wrote into a row may be a path."""
    return sample_id if re.fullmatch(r"[0-9a-f]{6,64}", sample_id) else digest(sample_id)[:16]


def _refuse_place(path: Path) -> None:
    """Before a model is loaded for an image that nobody could write. Raises JobError."""
    refuse_dataset(str(path.parent), "--out")
    there = next((folder for folder in path.parent.absolute().parents if folder.exists()), Path("/"))
    there = path.parent if path.parent.exists() else there
    got = "a folder" if path.is_dir() else "" if there.is_dir() and os.access(there, os.W_OK) else f"in {there}"
    if got:
        raise JobError(Problem("--out", "a file that can be written", f"{path}, {got}", "Give another --out FILE"))


def in_text(made: ReproduceResult) -> dict[str, Any]:
    """As a person reads it: of all versions only those that differ."""
    others = {name: (change.then, change.now) for name, change in made.other_versions.items()}
    said = in_words(others) or ("none" if made.versions_then else "not known: the dataset does not say its own")
    left_out = ("versions", "versions_then")
    return {name: value for name, value in made.as_json().items() if name not in left_out} | {"other_versions": said}


def command(
    url: Url,
    sample_id: Annotated[str, typer.Argument(metavar="SAMPLE_ID")],
    out: Annotated[
        str | None, typer.Option(help="File to write; else <sample id>.png, or so, in the current folder.")
    ] = None,
    trust_dataset: TrustDataset = False,
    job: OwnJob = None,
    as_json: AsJson = False,
) -> None:
    """Make one image again from its row, and say how it differs."""
    made = reproduce(url, sample_id, out, trust_dataset, job)
    show(made.as_json() if as_json else in_text(made), as_json)
