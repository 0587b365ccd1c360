"""The numbers of a dataset: what was made, what it cost, what came out best."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from typing import Any

import numpy as np

from promptmill.pipeline.dataset.samples import FAILED, KEPT, REJECTED, Samples, plain
from promptmill.pipeline.dataset.state import dataset_counts
from promptmill.pipeline.display import redact
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import VARIANTS_WITHOUT_ASKING, variant_name
from promptmill.pipeline.report.cost import run_facts, seconds_per_image
from promptmill.pipeline.report.shares import Floats
from promptmill.pipeline.report.stats import Integers
from promptmill.schemas.checked import checked
from promptmill.schemas.columns import named
from promptmill.schemas.reports import Overview, VariantSummary
from promptmill.schemas.scores import reason_kind

BEST = 8
"""So many samples at either end of the first score."""


def summarize(
    plan: Plan, samples: Samples, url: str, seconds: float | None = None, price_per_hour: float | None = None
) -> Overview:
    """`seconds` is the wall time of the run that just ended, if one did; the price is of one device."""
    counts = dataset_counts(plan, samples.counts)
    order = ranked_rows(samples)
    found = {
        "name": plan.job.name,
        "url": redact(url),
        "fingerprint": plan.fingerprint,
        "promptmill": version("promptmill"),
        "finished": len(samples.counts) == plan.shards,
        "samples": plan.samples,
        "kept": counts.kept,
        "rejected": counts.rejected,
        "failed": counts.failed,
        "made": counts.samples,
        "prompts": plan.prompts,
        "shards": plan.shards,
        "shards_done": len(samples.counts),
        "failures": dict(Counter(_of_status(samples, FAILED, "error_kind")).most_common()),
        "rejects": dict(Counter(map(reason_kind, _of_status(samples, REJECTED, "reason"))).most_common()),
        "run": run_facts(samples.receipts, seconds, price_per_hour, plan.job.compute.devices_per_worker),
        "best": [sample_facts(samples, row) for row in order[:BEST]],
        "worst": [sample_facts(samples, row) for row in order[::-1][:BEST]],
        "problems": list(samples.problems),
    }
    return checked(Overview, plain(found))


def ranked_rows(samples: Samples) -> list[int]:
    """Rows of the kept samples that have the first score, the best first."""
    if not samples.score_names:
        return []
    scores = samples.score(samples.score_names[0])
    kept = np.array([status == KEPT for status in samples.texts("status")], bool)
    rows = np.flatnonzero(kept & np.isfinite(scores))
    return [int(row) for row in rows[np.argsort(-scores[rows], kind="stable")]]


def variant_texts(plan: Plan, samples: Samples) -> list[str]:
    """The record's `variant` of each variant in the order of the sweep; of a huge sweep only those with samples."""
    seen = list(dict.fromkeys(samples.texts("variant")))
    if plan.variant_count > VARIANTS_WITHOUT_ASKING:
        return sorted(seen)
    planned = [variants.variant_text(plan.variant(index).values) for index in range(plan.variant_count)]
    return [*planned, *(text for text in seen if text not in set(planned))]


def variant_summaries(plan: Plan, samples: Samples) -> list[VariantSummary]:
    texts = variant_texts(plan, samples)
    place = {text: i for i, text in enumerate(texts)}
    variant_of = np.array([place[text] for text in samples.texts("variant")], np.int64)
    counts = status_counts(samples, variant_of, len(texts))
    kept = np.array(samples.texts("status")) == KEPT
    scores = {name: samples.score(name) for name in samples.score_names}
    means = {name: variant_means(values, variant_of, len(texts)) for name, values in scores.items()}
    kept_means = {name: variant_means(values[kept], variant_of[kept], len(texts)) for name, values in scores.items()}
    speeds = seconds_per_image(plan, samples.receipts)
    return [
        VariantSummary(
            index=i,
            name=variant_name(json.loads(text)),
            values=json.loads(text),
            **counts[i],
            scores={name: values[i] for name, values in means.items()},
            kept_scores={name: values[i] for name, values in kept_means.items()},
            seconds_per_image=speeds[text].mean if text in speeds else None,
            seconds_deviation=speeds[text].deviation if text in speeds else None,
        )
        for i, text in enumerate(texts)
    ]


def status_counts(samples: Samples, variant_of: Integers, count: int) -> list[dict[str, int]]:
    """How many samples of each variant ended how."""
    code = {KEPT: 0, REJECTED: 1, FAILED: 2}
    status = np.array([code[word] for word in samples.texts("status")], np.int64)
    table = np.bincount(variant_of * 3 + status, minlength=3 * count).reshape(count, 3)
    return [dict(zip(code, map(int, row), strict=True)) for row in table]


def variant_means(values: Floats, variant_of: Integers, count: int) -> list[float | None]:
    """Mean of the finite values of each variant, None where there are none."""
    there = np.isfinite(values)
    total = np.bincount(variant_of[there], weights=values[there], minlength=count)
    size = np.bincount(variant_of[there], minlength=count)
    return [float(t / n) if n else None for t, n in zip(total, size, strict=True)]


def sample_facts(samples: Samples, row: int) -> dict[str, Any]:
    """What a person needs to find the sample and make it again; texts cut at 500 characters."""
    values = {name: samples.table.column(name)[row].as_py() for name in _SHOWN if name in samples.table.column_names}
    values = {name: value[:500] if isinstance(value, str) else value for name, value in values.items()}
    scores = {name: float(samples.score(name)[row]) for name in samples.score_names}
    return {**values, "variant": variant_name(json.loads(values.get("variant") or "{}")), "scores": scores}


_SHOWN = (*named("sample_id", "prompt_id", "caption", "prompt", "variant", "seed"), "status", "object", "row")


def _of_status(samples: Samples, status: str, column: str) -> list[str]:
    if column not in samples.table.column_names:
        return []
    return [
        value or "?" for value, s in zip(samples.texts(column), samples.texts("status"), strict=True) if s == status
    ]
