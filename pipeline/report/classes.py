"""What came of each class and attribute: a set with a class that is small, wrong or missing trains badly, however good
it looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from promptmill.pipeline.curation.claim import curation_of
from promptmill.pipeline.curation.settings import LABELS
from promptmill.pipeline.dataset.passed import values_told
from promptmill.pipeline.dataset.samples import KEPT, REJECTED, Samples, as_texts
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.coverage import ClassSummary, ValueSummary
from promptmill.schemas.scores import JUDGES, reason_kind


def class_summaries(plan: Plan, samples: Samples) -> list[ClassSummary]:
    """In the order of the job, and none in a dataset without labels."""
    if not plan.words.classes or "label_name" not in samples.source_columns:
        return []
    each = _asked(plan)
    asked = None if each is None else each * plan.variant_count
    labels, facts = _texts(samples, "label_name"), _Facts(samples)
    return [ClassSummary(name=name, asked=asked, **facts.of(labels == name)) for name in plan.words.class_names]


def _asked(plan: Plan) -> int | None:
    """Images of a class and variant: as many as the curation was to leave, else as the run was to make."""
    said = curation_of(plan)
    left = said.get("per_class") if said.get("label") in (None, *LABELS) else None
    return left if isinstance(left, int) else plan.job.per_class


def attribute_summaries(samples: Samples, columns: Mapping[str, str]) -> tuple[list[ValueSummary], dict[str, int]]:
    """Of the attributes of the templates, whose columns are given, the values in the order of their names; and how many
    values of an attribute are left out, where there are such."""
    facts = _Facts(samples)
    found: list[ValueSummary] = []
    left_out: dict[str, int] = {}
    for name, column in columns.items():
        if column not in samples.source_columns:
            continue
        values = _texts(samples, column)
        told, more = values_told(Counter(filter(None, values.tolist())))
        found += [ValueSummary(column=name, value=value, **facts.of(values == value)) for value in told]
        left_out |= {name: more} if more else {}
    return found, left_out


def _texts(samples: Samples, column: str) -> npt.NDArray[Any]:
    return np.array([each or "" for each in as_texts(samples.source(column))], object)


class _Facts:
    """How samples ended, read once."""

    def __init__(self, samples: Samples) -> None:
        self._status = np.array(samples.texts("status"), object)
        self._judge = next((name for name in JUDGES if name in samples.score_names), None)
        self._right = None if self._judge is None else samples.score(self._judge)
        there = "reason" in samples.table.column_names
        self._reasons: Sequence[str] = samples.texts("reason") if there else [""] * len(self._status)

    def of(self, own: npt.NDArray[np.bool_]) -> dict[str, Any]:
        kept = own & (self._status == KEPT)
        judged = np.array([]) if self._right is None else self._right[kept][np.isfinite(self._right[kept])]
        rejected = np.flatnonzero(own & (self._status == REJECTED))
        commonest = Counter(reason_kind(self._reasons[row]) for row in rejected.tolist()).most_common(1)
        return {
            "made": int(own.sum()),
            "kept": int(kept.sum()),
            "judge": self._judge,
            "judged": len(judged),
            "right": float((judged == 1).mean()) if len(judged) else None,
            "reason": commonest[0][0] if commonest else None,
        }
