"""The samples as numbers: which prompt, which variant, which kind of prompt each is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from promptmill.pipeline.dataset.samples import Samples, as_texts, sorts_prompts
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import shown_value
from promptmill.pipeline.report.cost import Speed, seconds_per_image
from promptmill.pipeline.report.shares import Floats
from promptmill.pipeline.report.stats import Integers, is_share, variant_matrix
from promptmill.pipeline.report.summary import status_counts, variant_texts
from promptmill.schemas.columns import input_column
from promptmill.schemas.inputs import ROLES
from promptmill.schemas.scores import LOWER_IS_BETTER, bounds_of

FACET_VALUES = 40
FACETS = 6

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Frame:
    """The samples as numbers: prompt and variant of each, int64 [rows].

    `facets` are columns that sort prompts into kinds: their values, and which of them each sample has. `axes` are the
    swept fields with their values, `seconds` what an image takes, by the text of the variant. `lowest_is_best`
    are scores.
    """

    samples: Samples
    prompt_ids: list[str]
    prompts: Integers
    variant_of: Integers
    variant_texts: list[str]
    facets: dict[str, tuple[list[str], Integers]]
    axes: dict[str, list[Any]]
    seconds: dict[str, Speed]
    lowest_is_best: frozenset[str] = LOWER_IS_BETTER

    @cached_property
    def status(self) -> list[str]:
        return self.samples.texts("status")

    @cached_property
    def counts(self) -> list[dict[str, int]]:
        return status_counts(self.samples, self.variant_of, len(self.variant_texts))

    def metrics(self) -> list[str]:
        """Those with a finite value; the exact one first."""
        names = [name for name in self.samples.score_names if np.isfinite(self.samples.score(name)).any()]
        return sorted(names, key=lambda name: name != "verified")

    def bounds(self, metric: str) -> Bounds:
        """The least and greatest value; a score that holds or does not has them whoever gave it."""
        scores = self.samples.score(metric)
        return bounds_of(metric) or ((0.0, 1.0) if is_share(scores[:, None]) else None)

    def matrix(self, metric: str) -> Floats:
        shape = (len(self.prompt_ids), len(self.variant_texts))
        return variant_matrix(self.samples.score(metric), self.prompts, self.variant_of, shape)


def make_frame(plan: Plan, samples: Samples) -> Frame:
    prompt_ids, prompts = coded(samples.texts("prompt_id"))
    texts = variant_texts(plan, samples)
    axes = {name: [shown_value(value) for value in values] for name, values in plan.job.sweep.axes().items()}
    frame = frame_of(samples, prompt_ids, prompts, texts, axes, seconds_per_image(plan, samples.receipts))
    return replace(frame, lowest_is_best=plan.lowest_is_best | samples.lowest_is_best)


def frame_of(
    samples: Samples,
    prompt_ids: list[str],
    prompts: Integers,
    texts: list[str],
    axes: dict[str, list[Any]],
    seconds: dict[str, Speed],
) -> Frame:
    place = {text: i for i, text in enumerate(texts)}
    variant_of = np.array([place[text] for text in samples.texts("variant")], np.int64)
    return Frame(samples, prompt_ids, prompts, variant_of, texts, _facets(samples), axes, seconds)


def coded(values: Sequence[str]) -> tuple[list[str], Integers]:
    """Distinct values in order of appearance, and which of them each is."""
    place: dict[str, int] = {}
    codes = [place.setdefault(value, len(place)) for value in values]
    return list(place), np.array(codes, np.int64)


def _facets(samples: Samples) -> dict[str, tuple[list[str], Integers]]:
    """The prompts where several images were drawn with each, and source columns of text, truth values or integers:
    those that take 2 to 40 values, most of them more than once.

    Not where input images lie: of a folder each has a place of its own.
    """
    found: dict[str, tuple[list[str], Integers]] = {}
    prompts = len(set(samples.texts("prompt_id")))
    places = {input_column(role) for role in ROLES}
    columns = {name: samples.source(name) for name in samples.source_columns if name not in places}
    for name, column in {"prompt": samples.table.column("prompt"), **columns}.items():
        if not sorts_prompts(column.type):
            continue
        values, codes = coded([text[:80] for text in as_texts(column)])
        if 2 <= len(values) <= min(FACET_VALUES, max(2, prompts // 2)) and len(found) < FACETS:
            found[name] = (values, codes)
    return found
