"""What the synthetic images cost for each point that they won."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from promptmill.pipeline.storage.store import Store
from promptmill.schemas.json_text import parse_json
from promptmill.schemas.proof import Cost


def cost_of(source: str, images: int, points: float, training_seconds: float) -> Cost:
    device = sum(_device_seconds(source)) if "{draw}" not in source else 0.0
    won = points if points > 0 else None
    return Cost(
        images=images,
        device_seconds=round(device, 3) if device else None,
        images_per_point=images / won if won else None,
        device_seconds_per_point=device / won if won and device else None,
        training_seconds=round(training_seconds, 3),
    )


def _device_seconds(source: str) -> Iterator[float]:
    """Of generating, as the receipts of a dataset of ours say; they are for reports, so a broken one is left out."""
    with contextlib.suppress(Exception):
        store = Store(source)
        for entry in store.list("receipts"):
            said = parse_json(store.read(entry.name).decode())
            yield float(said.get("seconds", {}).get("generate", 0.0))
