"""Which planted copies `curate` finds, and how many different scenes it loses: `python -m tests.benchmarks.copies`.

2,000 scenes of the shapes world that all differ in their words, and 100 copies of test images: 20 the very same, 20 as
JPEG of quality 80, 20 mirrored, 20 shifted by two pixels, 20 cropped by three on each side.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from promptmill.pipeline.curation.claim import claim_curation
from promptmill.pipeline.curation.curate import Progress, curate, here
from promptmill.pipeline.curation.decisions import bounds_said
from promptmill.pipeline.curation.known import parts_of
from promptmill.pipeline.curation.settings import Settings, Task
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.curation import Curation
from tests.curation.drawn import Picture, as_jpeg, make_dataset, scenes, write_images

EACH: Final = 20


def mirrored(image: Picture) -> Picture:
    return np.ascontiguousarray(image[:, ::-1])


def shifted(image: Picture) -> Picture:
    height, width = image.shape[:2]
    return np.ascontiguousarray(np.pad(image, ((2, 0), (2, 0), (0, 0)), mode="edge")[:height, :width])


def cropped(image: Picture) -> Picture:
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image[3:-3, 3:-3]).resize((width, height), Image.Resampling.BICUBIC))


COPIES: Final[dict[str, Callable[[Picture], Picture]]] = {
    "exact": np.copy,
    "jpeg": as_jpeg,
    "mirrored": mirrored,
    "shifted": shifted,
    "cropped": cropped,
}


@dataclass(frozen=True)
class Found:
    """`found` of 20 copies each; `lost` are scenes that are no copies; `misnamed` copies name another twin."""

    scenes: int
    real: int
    found: dict[str, int]
    misnamed: int
    lost: int
    cosine: float | None
    difference: float | None


def measure(folder: Path, count: int = 2_000, real: int = 0, seed: int = 0, threshold: float | None = None) -> Found:
    """`real` scenes more are known to be other ones, for the cosine."""
    ordered = scenes(count + len(COPIES) * EACH + real, seed)  # those with one figure first, while there are others
    drawn = [ordered[place] for place in np.random.default_rng(seed).permutation(len(ordered))]
    test, others = drawn[count : count + len(COPIES) * EACH], drawn[count + len(COPIES) * EACH :]
    copies = [change(test[number]) for number, change in enumerate(np.repeat([*COPIES.values()], EACH))]
    make_dataset(folder, [*drawn[:count], *copies], per_shard=512)
    known = (str(write_images(folder / "real", others)),) if real else ()
    sets = {"real": known, "test": [str(write_images(folder / "test", test))]}
    settings = Settings.of(Curation(model="builtin:shapes", threshold=threshold, **sets), "--model")
    said = _curated(folder, settings)
    reasons = {
        int(row["prompt"].split()[-1]): str(row["reason"])
        for file in (folder / "curated" / "rejects").glob("*.parquet")
        for row in pq.read_table(file, columns=["prompt", "reason"]).to_pylist()
    }
    names = [f"leak:{number:04d}.png" for number in range(len(copies))]
    there = [reasons.get(count + number) for number in range(len(copies))]
    found = {kind: sum(each is not None for each in there[i * EACH : (i + 1) * EACH]) for i, kind in enumerate(COPIES)}
    wrong = sum(each not in (None, name) for each, name in zip(there, names, strict=True))
    return Found(
        *(count, real, found, wrong, sum(number < count for number in reasons)),
        *(said["cosine"], said["difference"]),
    )


def _curated(folder: Path, settings: Settings) -> dict[str, float | None]:
    plan, source = open_dataset(str(folder / "made"))
    target = Store(str(folder / "curated"))
    known = [*parts_of("real", settings.real), *parts_of("test", settings.test)]
    own = claim_curation(plan, source, target, settings, known)
    curate(own, Task(source.url, target.url, settings, own.fingerprint), known, here, Progress())
    assert verify_dataset(own, target).complete
    return bounds_said(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=2_000)
    parser.add_argument("--real", type=int, default=0, help="other scenes that are known, for the cosine")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threshold", type=float)
    options = parser.parse_args()
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            made = measure(Path(folder), options.scenes, options.real, seed, options.threshold)
            print(json.dumps({"seed": seed, **asdict(made)}), flush=True)


if __name__ == "__main__":
    main()
