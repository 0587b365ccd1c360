"""From the words a user gives to metrics: `image`, `verified`, `clip=MODEL`, `diversity=MODEL`, `relative=MODEL`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from promptmill.pipeline.models.catalog.clips import ResolvedClip, resolve_clip
from promptmill.pipeline.models.interface import Features, Scorer
from promptmill.pipeline.models.load import load_features, prepare_process
from promptmill.pipeline.scores.clip import ClipScore, Diversity, Relative
from promptmill.pipeline.scores.image import ImageStatistics
from promptmill.pipeline.scores.interface import Metric
from promptmill.pipeline.scores.shapes import Verified
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.identity import digest
from promptmill.schemas.job import Job, Score

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

    clip = cache(lambda model: resolve_clip(model, "metric"))

    @cache
    def features(model: str) -> Features:
        return load_features(clip(model), threads)

    metrics: list[Metric] = []
    for word in dict.fromkeys(words):
        kind, name, model = _parts(word)
        if kind == "image":
            metrics.append(ImageStatistics())
        elif kind == "verified":
            metrics.append(Verified())
        elif kind == "clip":
            metrics.append(ClipScore(features(model), name or "clip", clip(model).revision))
        elif kind == "diversity":
            metrics.append(Diversity(features(model), clip(model).revision))
        else:
            metrics.append(
                Relative(features(model), distractors, digest([clip(model).revision, list(distractors)])[:32])
            )
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


def load_scorer(clip: ResolvedClip, name: str, threads: int, device: str = "auto") -> Scorer:
    """As `load_generator`; `name` is the key in the `scores` column."""
    prepare_process(threads)
    from promptmill.pipeline.models.clip.encoder import ClipScorer

    return ClipScorer(clip, name, device)


def load_scorers(
    scores: Sequence[Score], clips: Sequence[ResolvedClip], threads: int, device: str = "auto"
) -> list[Scorer]:
    """As `load_scorer`, for scores that need a CLIP each; `relative` shares the model of a `clip` where it can."""
    prepare_process(threads)
    from promptmill.pipeline.models.clip.encoder import ClipScorer
    from promptmill.pipeline.scores.clip import RelativeScorer

    pairs = list(zip(scores, clips, strict=True))
    cosines = [(clip, ClipScorer(clip, score.names[0], device)) for score, clip in pairs if score.clip]
    shared = dict(reversed(cosines))
    relatives = [
        RelativeScorer(shared.get(clip) or ClipScorer(clip, "", device), score.names[0], score.distractors)
        for score, clip in pairs
        if score.relative
    ]
    return [*(scorer for _, scorer in cosines), *relatives]
