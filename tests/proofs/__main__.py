"""`make prove`. Run again after an interruption: what was made and trained is taken as it is."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import promptmill
from promptmill.jobs.prove import prove
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.pipeline.evaluation.prove.tables import markdown, said
from promptmill.pipeline.shapes.world import SHAPES
from promptmill.schemas.errors import JobError
from promptmill.schemas.proof import Proof
from tests.proofs.sets import NotInstalledError, write_digits, write_fashion, write_shapes

OUT = Path("out/prove")
SHAPES_SETS = {"real": 40, "validation": 20, "test": 50}


def shapes(workers: int) -> Proof:
    """Three renders of each of six shapes, and 180 images of the built-in model."""
    proof = prove(_shapes(workers), _tell)
    return proof


def _shapes(workers: int) -> ProofSettings:
    folder = OUT / "shapes"
    _once(folder / "sets", lambda root: write_shapes(root, SHAPES_SETS))
    promptmill.run(_shapes_job(folder / "synthetic"), in_process=True)
    return _settings(folder, str(folder / "synthetic"), workers, shots=3, size=24)


def _shapes_job(out: Path) -> dict[str, object]:
    attributes = {
        "size": ["small", "large"],
        "colour": ["red", "blue", "green", "yellow"],
        "place": ["on the left", "on the right", "at the top", "at the bottom", "in the middle"],
        "ground": ["black", "white", "gray"],
    }
    return {
        "name": "shapes-proof",
        "prompts": {
            "classes": list(SHAPES),
            "templates": ["a {size} {colour} {class} {place}, {ground} background"],
            "attributes": attributes,
            "draws": 30,
        },
        "generation": {"num_inference_steps": 20, "guidance_scale": 2.5, "batch_size": 16, "images_per_prompt": 1},
        "score": [{"metric": "verified"}],
        "output": {"url": str(out), "images_per_shard": 60},
    }


def shuffled(workers: int) -> Proof:
    """Labels of the synthetic images shuffled: must harm."""
    return _control(workers, "shuffled", 20)


def copies(workers: int) -> Proof:
    """Copies of the real images: must change nothing."""
    return _control(workers, "copies", 10)


def _control(workers: int, kind: str, draws: int) -> Proof:
    settings = replace(_shapes(workers), control=kind, out=str(OUT / kind), learner="pixels", draws=draws)
    return prove(replace(settings, initialisations=1, trained=str(OUT / "controls")), _tell)


def planted(workers: int) -> str:
    """A test image among the real ones: must be refused."""
    settings = _shapes(workers)

    def plant(root: Path) -> None:
        shutil.copytree(settings.real, root)
        shutil.copy(next(Path(settings.test).glob("ring/*.png")), root / "ring/planted.png")

    _once(OUT / "planted/real", plant)
    leaking = replace(settings, real=str(OUT / "planted/real"), out=str(OUT / "planted"), learner="pixels", draws=2)
    try:
        prove(replace(leaking, initialisations=1), _tell)
    except JobError as error:
        return str(error)
    raise AssertionError("planted test images were not refused")


def _settings(folder: Path, synthetic: str, workers: int, **more: object) -> ProofSettings:
    sets = folder / "sets"
    places = (str(sets / "real"), synthetic, str(sets / "test"), str(folder), str(sets / "validation"))
    return replace(ProofSettings(*places, workers=workers), **more)  # type: ignore[arg-type]


def _once(folder: Path, make: Callable[[Path], None]) -> None:
    """Whole or not there."""
    if folder.exists():
        return
    begun = folder.with_name(f"{folder.name}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.parent.mkdir(parents=True, exist_ok=True)
    make(begun)
    begun.rename(folder)


def _tell(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


PARTS: Mapping[str, Callable[[int], Proof | str]] = {
    "shapes": shapes,
    "shuffled": shuffled,
    "copies": copies,
    "planted": planted,
}


def main(asked: Sequence[str], workers: int) -> None:
    lines = []
    for name in asked or PARTS:
        began = time.monotonic()
        print(f"{name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
        try:
            found = PARTS[name](workers)
        except NotInstalledError as error:
            print(f"skipped: {error}\n", flush=True)
            continue
        text = markdown(found) if isinstance(found, Proof) else f"refused: {found}\n"
        print(text, flush=True)
        verdict = said(found) if isinstance(found, Proof) else "refused"
        lines.append(f"| {name} | {verdict} | {_draws(found)} | {time.monotonic() - began:.0f} |")
    head = ["| proof | verdict | draws that suffice | seconds of this run |", "|---|---|---|---:|"]
    (OUT / "README.md").write_text("\n".join([*head, *lines]) + "\n")
    print("\n".join([*head, *lines]))


def _draws(found: Proof | str) -> str:
    return str(found.draws_needed) if isinstance(found, Proof) and found.draws_needed else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; without any all of them")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    main(given.parts, given.workers)
