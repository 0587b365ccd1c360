"""`<split>/1_<class>/<sample_id>.png` and `.txt` beside it, as kohya's sd-scripts read a `train_data_dir`.

The number is how often an epoch repeats the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from promptmill.pipeline.export.training import Facts, Picture, Put, one_line

NAMES = re.compile(r"(?:[a-zA-Z_]\w*/)?1_[^/]+/[^/]+\.(?:png|jpg|webp|txt)")


def write(pictures: Iterator[Picture], facts: Facts, put: Put) -> None:
    for each in pictures:
        stem = f"{facts.folder_of(each.split)}1_{each.folder or 'images'}/{each.name}"
        put(f"{stem}.{each.suffix}", each.data)
        put(f"{stem}.txt", one_line(each.caption).encode("utf-8", "replace"))
