"""The parts of `make prove`. What was made and trained is taken as it is."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import promptmill
from promptmill.jobs.prove import prove
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.pipeline.evaluation.prove.tables import markdown, said
from promptmill.pipeline.shapes.world import SHAPES
from promptmill.schemas.errors import JobError
from promptmill.schemas.proof import Control, Proof
from tests.proofs.sets import NotInstalledError, write_digits, write_fashion, write_shapes

OUT = Path("out/prove")
ROW = "row.md"
SHAPES_SETS = {"real": 40, "validation": 20, "test": 50}


def shapes(workers: int) -> Proof:
    """Three renders of each of six shapes, and 180 images of the built-in model."""
    proof = prove(shapes_settings(workers), _tell)
    return proof


def shapes_settings(workers: int) -> ProofSettings:
    folder = OUT / "shapes"
    _once(folder / "sets", lambda root: write_shapes(root, SHAPES_SETS))
    promptmill.run(_shapes_job(folder / "synthetic"), in_process=True)
    return _settings(folder, str(folder / "synthetic"), workers, shots=3, size=24, batch=32)


def shapes_named(workers: int) -> Proof:
    """Shapes again, half of each batch drawn by the name of the class alone."""
    return _half(workers, "shapes-named", {"prompts": {"classes": list(SHAPES)}}, images_per_prompt=30)


def shapes_guided(workers: int) -> Proof:
    """Shapes again, half of each batch drawn at guidance 7.5."""
    return _half(workers, "shapes-guided", {}, guidance_scale=7.5)


def _half(workers: int, name: str, job: Mapping[str, object], **generation: object) -> Proof:
    settings = shapes_settings(workers)
    synthetic = OUT / name / "synthetic"
    made = _shapes_job(synthetic)
    promptmill.run({**made, **job, "generation": {**made["generation"], **generation}}, in_process=True)
    half = replace(settings, synthetic=str(synthetic), out=str(OUT / name), shares=(0.5,), filters=("all",))
    return prove(half, _tell)


def _shapes_job(out: Path) -> dict[str, Any]:
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
    return _control(workers, "shuffled", 10)


def copies(workers: int) -> Proof:
    """Copies of the real images: must change nothing."""
    return _control(workers, "copies", 10)


def _control(workers: int, kind: Control, draws: int) -> Proof:
    # By pixels three renders of a shape say no more than chance, and nothing can harm that.
    out = str(OUT / kind)
    settings = replace(shapes_settings(workers), control=kind, out=out, learner="builtin:shapes", draws=draws)
    return prove(replace(settings, initialisations=1, trained=str(OUT / "controls")), _tell)


def planted(workers: int) -> str:
    """A test image among the real ones: must be refused."""
    settings = shapes_settings(workers)

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


def digits(workers: int) -> Proof:
    """Ten handwritten digits of each kind (MNIST), and what the built-in model, tuned on them, makes of them."""
    return _synthesized(OUT / "digits", write_digits)


def digits_text(workers: int) -> Proof:
    """The same digits from text alone, half of each batch, all of them: must harm. One set serves all draws, which
    favours it: the adapter that drew it has seen the first draw's images."""
    folder = OUT / "digits"
    if not (folder / "synthesis.json").exists():
        digits(workers)
    settings = _settings(folder, str(folder / "sets/guidance-1/0"), workers, learner="pixels", shots=10, draws=10)
    half = replace(settings, out=str(OUT / "digits-text"), shares=(0.5,), filters=("all",))
    return prove(half, _tell)


def fashion(workers: int) -> Proof:
    """Ten garments of each kind (Fashion-MNIST), and what the built-in model, tuned on them, makes of them."""
    return _synthesized(OUT / "fashion", write_fashion)


def _synthesized(folder: Path, write: Callable[[Path, Mapping[str, int]], None]) -> Proof:
    _once(folder / "sets", lambda root: write(root, {"real": 40, "validation": 20, "test": 100}))
    sets = folder / "sets"
    made = promptmill.synthesize(
        sets / "real",
        sets / "test",
        folder,
        proof={"validation": str(sets / "validation"), "learner": "pixels", "shots": 10, "initialisations": 1},
        each=20,
        in_process=True,
        on_notice=_tell,
    )
    (folder / "decisions.txt").write_text("\n".join(made.decisions) + "\n")
    return made.proof


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
    "digits": digits,
    "fashion": fashion,
    "shuffled": shuffled,
    "copies": copies,
    "planted": planted,
    "digits-text": digits_text,
}
"""The longest first."""
MORE = {"shapes-named": shapes_named, "shapes-guided": shapes_guided}
"""Asked for by name: with them all would take longer than 25 minutes on two cores."""
ALL = {**PARTS, **MORE}
OF_SHAPES = {"shapes", "shuffled", "copies", "planted", *MORE}
AFTER = {"digits-text": "digits"}
"""Parts that take what another made."""


def part(name: str) -> str:
    """What it says; its row of the table is kept."""
    began = time.monotonic()
    asked = ALL[name]
    title = f"## {name}: {(asked.__doc__ or '').strip()}\n"
    try:
        found = asked(1)
    except NotInstalledError as error:
        return f"{title}\nskipped: {error}\n"
    refused = isinstance(found, str)
    verdict, suffice = ("refused", "") if refused else (said(found), found.draws_needed or "")
    row = f"| {name} | {verdict} | {suffice} | {time.monotonic() - began:.0f} |"
    (OUT / name).mkdir(parents=True, exist_ok=True)
    (OUT / name / ROW).write_text(row + "\n")
    return f"{title}\nrefused: {found}\n" if refused else f"{title}\n{markdown(found)}"


def table() -> str:
    """Of all that has been proven."""
    head = ["| proof | verdict | draws that suffice | seconds of the last run |", "|---|---|---|---:|"]
    rows = [(OUT / name / ROW).read_text().strip() for name in ALL if (OUT / name / ROW).is_file()]
    return "\n".join([*head, *rows]) + "\n"
