"""Images beside a `metadata.jsonl` with a line for each.

With such a file Hugging Face's imagefolder takes no label from folders, and drops images without a line: so the label
stands in the file.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator

from promptmill.pipeline.export.training import Facts, Picture, Put

NAMES = re.compile(r"(?:[a-zA-Z_]\w*/)?(?:metadata\.jsonl|[^/]+\.(?:png|jpg|webp))")


def write(pictures: Iterator[Picture], facts: Facts, put: Put) -> None:
    lines: dict[str, list[str]] = defaultdict(list)
    for each in pictures:
        put(f"{facts.folder_of(each.split)}{each.file}", each.data)
        label = {"label": each.label, "label_name": each.label_name} if facts.classes else {}
        told = {"file_name": each.file, "text": each.caption, **label, "prompt": each.facts.get("prompt")}
        lines[each.split].append(json.dumps({**told, "sample_id": each.name}, ensure_ascii=False))
    for split, own in lines.items():
        put(f"{facts.folder_of(split)}metadata.jsonl", ("\n".join(own) + "\n").encode("utf-8", "replace"))
