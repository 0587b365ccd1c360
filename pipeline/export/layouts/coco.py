"""`<split>/<sample_id>.png` and `annotations/captions_<split>.json`, as COCO's own API reads captions."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from promptmill.pipeline.export.training import Facts, Picture, Put

NAMES = re.compile(r"[a-zA-Z_]\w*/[^/]+\.(?:png|jpg|webp)|annotations/captions_[a-zA-Z_]\w*\.json")


def write(pictures: Iterator[Picture], facts: Facts, put: Put) -> None:
    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
    captions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, each in enumerate(pictures, 1):
        put(f"{each.split}/{each.file}", each.data)
        size = {name: each.facts.get(name) for name in ("width", "height")}
        label = {"label": each.label_name} if each.label_name is not None else {}
        images[each.split].append({"id": number, "file_name": each.file, **size, **label})
        captions[each.split].append({"id": number, "image_id": number, "caption": each.caption})
    for split in facts.splits:
        about = {"description": facts.plan.job.name, "version": "1.0"}
        content = {"info": about, "licenses": [], "images": images[split], "annotations": captions[split]}
        put(f"annotations/captions_{split}.json", json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
