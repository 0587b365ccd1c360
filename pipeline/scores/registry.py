"""The kinds of score, one file each, and the way to them: from a job, or from the words of `promptmill score`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from promptmill.pipeline.models.catalog.classifiers import outputs_of, resolve_classifier
from promptmill.pipeline.models.catalog.clips import ResolvedClip, resolve_clip
from promptmill.pipeline.models.interface import Embedder
from promptmill.pipeline.models.load import load_classifier, load_embedder
from promptmill.pipeline.planning.own_scores import describe_score
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.scores.agreement import Agreement, AgreementAfterwards
from promptmill.pipeline.scores.clip import ClipScore
from promptmill.pipeline.scores.diversity import Diversity
from promptmill.pipeline.scores.interface import Scorer
from promptmill.pipeline.scores.own import OwnScore
from promptmill.pipeline.scores.relative import AmongClasses, Relative
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.identity import digest
from promptmill.schemas.rules import repeats
from promptmill.schemas.scores import CLASSIFIER_SCORES, METRIC_SCORES


def plain_scorer(word: str) -> Scorer:
    """What needs pixels and caption alone: the `SCORER` of the file that is called so."""
    scorer: Scorer = import_module(f"promptmill.pipeline.scores.{word}").SCORER()
    return scorer


@dataclass(frozen=True)
class Asked:
    """A score that needs a CLIP: what the job or the command says of it."""

    clip: ResolvedClip
    name: str | None
    distractors: Sequence[str] = ()
    wordings: Sequence[str] = ()
    """Of the classes, which are told apart where there are no distractors."""

    @property
    def version(self) -> str:
        weights = self.clip.revision
        others = self.distractors or self.wordings
        return digest([weights, list(others)])[:32] if others else weights


WITH_CLIP: dict[str, Callable[[Embedder, Asked], Scorer]] = {
    "clip": lambda embedder, asked: ClipScore(embedder, asked.name or "clip", asked.version),
    "diversity": lambda embedder, asked: Diversity(embedder, asked.version),
    "relative": lambda embedder, asked: (Relative if asked.distractors else AmongClasses)(
        embedder, asked.distractors or asked.wordings, asked.name or "relative", asked.version
    ),
}
OWN, CLASSIFIER = "python", "classifier"
EXPECTED = (
    f"{', '.join(METRIC_SCORES)}, "
    "clip=MODEL, clip:name=MODEL, diversity=MODEL, relative=MODEL, classifier=FOLDER or python=PACKAGE.MODULE:CLASS"
)


def scorers_beside(plan: Plan) -> list[Scorer]:
    """Those of a job that score one image at a time in the encoder threads."""
    own = [OwnScore(told) for told in plan.python_scores if not told.on_device]
    return [*(plain_scorer(score.metric) for score in plan.job.score if score.metric is not None), *own]


def scorers_on_device(plan: Plan) -> list[Scorer]:
    """Those of a job that score whole batches while the device is held.

    Each model is loaded once: a second score of the same CLIP costs no second look at a batch.
    """
    embedder = cache(lambda clip: load_embedder(clip, plan.job.compute.threads_per_worker))
    pairs = list(zip((score for score in plan.job.score if score.model), plan.clips, strict=True))
    kinds = [("clip" if score.clip else "relative", score, clip) for score, clip in pairs if not score.classifier]
    # `clip` first, so that an error of a model is told by the plainer score.
    ordered = sorted(kinds, key=lambda each: each[0] != "clip")
    wordings = [each.wording for each in plan.words.classes]
    with_clip = [
        WITH_CLIP[kind](
            embedder(clip),
            Asked(clip, score.names[0], score.distractors, () if kind == "clip" else wordings),
        )
        for kind, score, clip in ordered
    ]
    judges = [_agreement(plan, clip) for score, clip in pairs if score.classifier]
    return [*with_clip, *judges, *(OwnScore(told) for told in plan.python_scores if told.on_device)]


def _agreement(plan: Plan, model: ResolvedClip) -> Scorer:
    classifier = load_classifier(model, plan.job.compute.threads_per_worker)
    return Agreement(classifier, outputs_of(classifier.labels, plan.words.class_names, "score"), model.revision)


def choose_scorers(words: Sequence[str], distractors: Sequence[str] = (), threads: int = 1) -> list[Scorer]:
    """All words are checked before a model is loaded, and each model is loaded once.

    `clip:name=MODEL` gives the score another name than `clip`. Raises JobError with all problems.
    """
    problems: list[Problem | str] = []
    if not words:
        problems.append(Problem("metric", EXPECTED, "none"))
    for word in words:
        problems += _problems(word, distractors)
    problems = problems or [
        Problem("metric", "scores whose names differ", f"{name!r} twice", "`clip:other=MODEL` gives it another name")
        for name in _repeated(dict.fromkeys(words))
    ]
    if problems:
        raise JobError(*problems)
    clip = cache(lambda model: resolve_clip(model, "metric"))
    embedder = cache(lambda model: load_embedder(clip(model), threads))

    def scorer(word: str) -> Scorer:
        kind, name, value = _parts(word)
        if kind in METRIC_SCORES:
            return plain_scorer(kind)
        if kind == OWN:
            return OwnScore(describe_score(value, f"metric {word}"))
        if kind == CLASSIFIER:
            model = resolve_classifier(value, "metric classifier")
            return AgreementAfterwards(load_classifier(model, threads), model.revision, "metric classifier")
        others = distractors if kind == "relative" else ()
        return WITH_CLIP[kind](embedder(value), Asked(clip(value), name or None, others))

    return [scorer(word) for word in dict.fromkeys(words)]


def _repeated(words: Iterable[str]) -> list[str]:
    """Names of scores that two words give: the second would lie where the first does."""
    names = [name for word in words for name in _columns(word)]
    return [names[place] for place, _ in repeats(names)]


def _columns(word: str) -> tuple[str, ...]:
    kind, name, value = _parts(word)
    if kind == OWN:
        return describe_score(value, f"metric {word}").names
    return CLASSIFIER_SCORES if kind == CLASSIFIER else METRIC_SCORES.get(kind, (name or kind,))


def _parts(word: str) -> tuple[str, str, str]:
    """Kind, name and model or import path; the last two may be empty."""
    left, _, value = word.partition("=")
    kind, _, name = left.partition(":")
    return kind, name, value


def _problems(word: str, distractors: Sequence[str]) -> list[Problem | str]:
    kind, name, value = _parts(word)
    try:
        if kind in METRIC_SCORES and word == kind:
            return []
        if kind == OWN and value and not name:
            describe_score(value, f"metric {word}")
            return []
        if kind == CLASSIFIER and value and not name:
            resolve_classifier(value, "metric classifier")
            return []
        if kind not in WITH_CLIP or not value or (name and not (kind == "clip" and name.isidentifier())):
            hint = f"Name a CLIP: `{kind}=builtin:shapes`" if kind in WITH_CLIP else ""
            return [Problem("metric", EXPECTED, repr(word), hint)]
        if kind == "relative" and not distractors:
            hint = "Give a file with one caption a line: --distractors captions.txt"
            return [Problem("metric relative", "distractor captions", "none", hint)]
        resolve_clip(value, f"metric {kind}")
    except JobError as error:
        return list(error.problems)
    return []
