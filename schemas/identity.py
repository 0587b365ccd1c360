"""Names and seeds as pure functions of the job: the same on every machine, in every retry."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from promptmill.schemas.plan import Variant
from promptmill.schemas.prompts import MAX_SEED

_ID_HEX = 32


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def derived_prompt_id(file_name: str, row: int) -> str:
    """For sources without an id column. Holds as long as the file keeps its name and its rows their order."""
    return f"{file_name}:{row}"


def sample_id(prompt_id: str, variant: Variant, sample_index: int) -> str:
    model = {"path": variant.model.path, "revision": variant.model.revision}
    return digest([prompt_id, variant.values, model, sample_index])[:_ID_HEX]


def sample_seed(job_seed: int, prompt_id: str, sample_index: int) -> int:
    """0 to 2^53 − 1. The variant is left out on purpose: variants of one prompt share their noise."""
    return int(digest([job_seed, prompt_id, sample_index])[:16], 16) & MAX_SEED
