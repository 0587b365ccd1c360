"""What came of each class: a set with a class that is small, wrong or missing trains badly, however good it looks."""

from __future__ import annotations

from collections import Counter

import numpy as np

from promptmill.pipeline.dataset.samples import KEPT, REJECTED, Samples, as_texts
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.reports import ClassSummary
from promptmill.schemas.scores import JUDGES, reason_kind


def class_summaries(plan: Plan, samples: Samples) -> list[ClassSummary]:
    """In the order of the job, and none in a dataset without labels."""
    if not plan.words.classes or "label_name" not in samples.source_columns:
        return []
    labels = np.array(as_texts(samples.source("label_name")), object)
    status = np.array(samples.texts("status"), object)
    judge = next((name for name in JUDGES if name in samples.score_names), None)
    right = None if judge is None else samples.score(judge)
    reasons = np.array(
        samples.texts("reason") if "reason" in samples.table.column_names else [""] * len(labels), object
    )
    asked = None if plan.job.per_class is None else plan.job.per_class * plan.variant_count
    found = []
    for name in plan.words.class_names:
        own = labels == name
        kept = own & (status == KEPT)
        judged = np.array([]) if right is None else right[kept][np.isfinite(right[kept])]
        commonest = Counter(map(reason_kind, reasons[own & (status == REJECTED)])).most_common(1)
        found.append(
            ClassSummary(
                name=name,
                asked=asked,
                made=int(own.sum()),
                kept=int(kept.sum()),
                judge=judge,
                judged=len(judged),
                right=float((judged == 1).mean()) if len(judged) else None,
                reason=commonest[0][0] if commonest else None,
            )
        )
    return found
