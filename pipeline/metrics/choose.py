"""From the words a user gives to metrics: `image`, `verified`, `clip=MODEL`, `diversity=MODEL`, `relative=MODEL`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from pipeline.metrics.clip import ClipScore, Diversity, Relative
from pipeline.metrics.image import ImageStatistics
from pipeline.metrics.interface import Metric
from pipeline.metrics.shapes import Verified
from pipeline.models.clips import resolve_clip
from pipeline.models.interface import Features
from pipeline.models.load import load_features
from schemas.errors import JobError, Problem
from schemas.job import Job

PLAIN = ("image", "verified")
WITH_CLIP = ("clip", "diversity", "relative")
EXPECTED = "image, verified, clip=MODEL, clip:name=MODEL, diversity=MODEL or relative=MODEL"


def choose_metrics(words: Sequence[str], distractors: Sequence[str] = (), threads: int = 1) -> list[Metric]:
    """All words are checked before a model is loaded, and each model is loaded once.

    `clip:name=MODEL` gives the score another name than `clip`. Raises JobError with all problems.
    """
    problems: list[Problem | str] = []
    if not words:
        problems.append(Problem("metric", EXPECTED, "none"))
    for word in words:
        problems += _problems(word, distractors)
    if problems:
        raise JobError(*problems)

    @cache
    def features(model: str) -> Features:
        return load_features(resolve_clip(model, "metric"), threads)

    metrics: list[Metric] = []
    for word in dict.fromkeys(words):
        kind, name, model = _parts(word)
        if kind == "image":
            metrics.append(ImageStatistics())
        elif kind == "verified":
            metrics.append(Verified())
        elif kind == "clip":
            metrics.append(ClipScore(features(model), name or "clip"))
        elif kind == "diversity":
            metrics.append(Diversity(features(model)))
        else:
            metrics.append(Relative(features(model), distractors))
    return metrics


def job_metrics(job: Job) -> list[Metric]:
    """Those that a run computes beside the device, from pixels and caption alone."""
    made: dict[str, type[Metric]] = {"image": ImageStatistics, "verified": Verified}
    return [made[score.metric]() for score in job.score if score.metric is not None]


def _parts(word: str) -> tuple[str, str, str]:
    """Kind, name and model; the last two may be empty."""
    left, _, model = word.partition("=")
    kind, _, name = left.partition(":")
    return kind, name, model


def _problems(word: str, distractors: Sequence[str]) -> list[Problem | str]:
    kind, name, model = _parts(word)
    if kind in PLAIN and word == kind:
        return []
    if kind not in WITH_CLIP or not model or (name and not (kind == "clip" and name.isidentifier())):
        hint = f"Name a CLIP: `{kind}=builtin:shapes`" if kind in WITH_CLIP else ""
        return [Problem("metric", EXPECTED, repr(word), hint)]
    if kind == "relative" and not distractors:
        hint = "Give a file with one caption a line: --distractors captions.txt"
        return [Problem("metric relative", "distractor captions", "none", hint)]
    try:
        resolve_clip(model, f"metric {kind}")
    except JobError as error:
        return list(error.problems)
    return []
