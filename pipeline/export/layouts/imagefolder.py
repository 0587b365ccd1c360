"""`<split>/<class>/<sample_id>.png`, as torchvision's ImageFolder and Hugging Face's imagefolder read it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from promptmill.pipeline.export.training import Facts, Picture, Put, need_labels

NAMES = re.compile(r"(?:[a-zA-Z_]\w*/)?[^/]+/[^/]+\.(?:png|jpg|webp)")


def write(pictures: Iterator[Picture], facts: Facts, put: Put) -> None:
    need_labels(facts, "imagefolder")
    for each in pictures:
        put(f"{facts.folder_of(each.split)}{each.folder or '_'}/{each.file}", each.data)
