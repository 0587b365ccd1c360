"""The stages of `promptmill synthesize`. Each is what a command of its own does, and takes what is there as it is."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from promptmill.jobs.curating import curate_dataset
from promptmill.jobs.finetune import finetune
from promptmill.jobs.run import run
from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.curation.settings import Settings
from promptmill.pipeline.dataset.labelled import Labelled
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.pipeline.jobfile.fields import node_at, words
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.shipped import BUILTIN
from promptmill.pipeline.models.catalog.tasks import check_strength, check_task
from promptmill.pipeline.shapes.captions import WORDS
from promptmill.pipeline.shapes.world import COLOURS, SHAPES
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.tuning import Tuning

Told = Callable[[str], None]
GUIDANCES = (1.0, 2.0, 3.0)
STRENGTHS = (0.3, 0.6, 0.9)
_STRENGTH_GUIDANCE = 2.0


@dataclass(frozen=True)
class SynthesisSettings:
    """`proof` is of the real sets, the draws and the learner; its `synthetic` is what is made. `each` is how many
    images of each class are made for a draw, None ten times its real ones."""

    proof: ProofSettings
    model: str = f"{BUILTIN}shapes"
    revision: str | None = None
    each: int | None = None
    tuning_steps: int = 500
    sampling_steps: int = 20
    guidances: tuple[float, ...] = GUIDANCES
    strengths: tuple[float, ...] = STRENGTHS
    address: str | None = None
    in_process: bool = False

    @property
    def out(self) -> Path:
        return Path(self.proof.out)

    @property
    def model_fields(self) -> dict[str, Any]:
        return {"path": self.model, **({"revision": self.revision} if self.revision else {})}


@dataclass(frozen=True)
class Way:
    """How images are made: from text alone, or from the real images where there is a strength."""

    guidance: float
    strength: float | None = None

    @property
    def name(self) -> str:
        return f"guidance-{self.guidance:g}" if self.strength is None else f"strength-{self.strength:g}"


def ways_of(settings: SynthesisSettings) -> list[Way]:
    return [
        *(Way(guidance) for guidance in settings.guidances),
        *(Way(_STRENGTH_GUIDANCE, strength) for strength in settings.strengths),
    ]


def check_ways(settings: SynthesisSettings) -> None:
    """Before anything is tuned or made. Raises JobError, by the names of the options."""
    if not ways_of(settings):
        raise JobError(Problem("--guidance, --strength", "a way to make images", "none"))
    asked = [
        *(("--guidance", "guidance_scale", value) for value in settings.guidances),
        *(("--strength", "strength", value) for value in settings.strengths),
        ("--sampling-steps", "num_inference_steps", settings.sampling_steps),
    ]
    if problems := [found for each in asked if (found := _refused(*each)) is not None]:
        raise JobError(*problems)
    model = resolve_model(Model.model_validate(settings.model_fields), "--model")
    if settings.guidances:
        check_task(model, "text-to-image", None, "--model")
    if settings.strengths:
        check_task(model, "image-to-image", None, "--model")
    for strength in settings.strengths:
        check_strength(model, "image-to-image", settings.sampling_steps, strength, "--strength")


def _refused(option: str, field: str, value: float) -> Problem | None:
    """What the field of `generation` that the option stands for says of the value."""
    try:
        Generation.model_validate({field: value})
    except ValidationError:
        return Problem(option, words(node_at(("generation", field))).removesuffix(" or null"), f"{value:g}")
    return None


def worded(settings: SynthesisSettings, classes: Sequence[str]) -> dict[str, str]:
    """What each class is called in prompts: its name, or where the built-in model lacks a word a phrase that it has,
    which tuning then gives its meaning. Raises JobError where there are more classes than such phrases."""
    known = {*WORDS, ","}
    words = {name: name.replace("_", " ").lower().split() for name in classes}
    if not settings.model.startswith(BUILTIN) or known.issuperset(word for each in words.values() for word in each):
        return {name: _by_name(name) for name in classes}
    phrases = _phrases()
    if len(classes) > len(phrases):
        got, hint = f"{len(classes)}", "Give --model: the built-in one knows few words."
        raise JobError(Problem("REAL", f"at most {len(phrases)} classes", got, hint))
    return dict(zip(classes, phrases, strict=False))


def _phrases() -> list[str]:
    """Every colour with every shape. Neighbours share no word: classes whose words are alike are drawn alike."""
    colours, shapes = len(COLOURS), len(SHAPES)
    before_a_repeat = math.lcm(colours, shapes)
    pairs = [
        ([*COLOURS][number % colours], SHAPES[(number + number // before_a_repeat) % shapes])
        for number in range(colours * shapes)
    ]
    return [f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}" for colour, shape in pairs]


def _by_name(name: str) -> str:
    return f"a {name.replace('_', ' ')}"


class Stages:
    """Of the draws of one synthesis, in folders below its own."""

    def __init__(
        self,
        settings: SynthesisSettings,
        draws: Sequence[Sequence[Labelled]],
        validation: Sequence[Labelled],
        wordings: Mapping[str, str],
        told: Told,
    ) -> None:
        self.settings, self.draws, self.validation, self.told = settings, draws, validation, told
        self.wordings = dict(wordings)
        self.each = settings.each or 10 * max(1, len(draws[0]) // len(wordings))

    @property
    def foreign(self) -> bool:
        """Whether classes are called otherwise than by their names."""
        return any(wording != _by_name(name) for name, wording in self.wordings.items())

    def place(self, way: Way) -> str:
        """With `{draw}`."""
        return str(self.settings.out / "sets" / way.name / "{draw}")

    def count(self, way: Way, draw: int) -> int:
        """Of the images to make: over real ones each gets as many, so there may be more than asked."""
        prompts = len(self.wordings) if way.strength is None else len(self.draws[draw])
        return prompts * self._images_per_prompt(way, draw)

    def made(self, way: Way, draw: int) -> tuple[int, int]:
        """The images of a draw, made and curated; how many there were and are."""
        adapters = self._adapters(draw)
        raw, clean = (str(self.settings.out / kind / way.name / str(draw)) for kind in ("made", "sets"))
        job = parse_job(json.dumps(self._job(way, draw, raw, adapters)), "synthesize", ())
        _, summary = run(
            job,
            address=self.settings.address,
            in_process=self.settings.in_process,
            extend=False,
            allow_large_sweep=False,
        )
        if summary.interrupted:
            raise KeyboardInterrupt
        reached("synthesize made")
        apart = Settings(real=(self._real(draw),), test=(self._validating(),), label="label_name")
        found = curate_dataset(raw, clean, apart, address=self.settings.address, in_process=self.settings.in_process)
        reached("synthesize curated")
        self.told(f"{way.name}, draw {draw}: {found.kept:,} of {summary.counts.samples:,} images stay")
        return summary.counts.samples, found.kept

    def _adapters(self, draw: int) -> list[dict[str, Any]]:
        """Learnt from the images of this draw alone: what others hold would make it know more than its real arm."""
        if not self.settings.tuning_steps:
            return []
        tuning = Tuning.model_validate(
            {
                "name": f"draw-{draw}",
                "seed": self.settings.proof.seed,
                "model": self.settings.model_fields,
                "images": {"source": self._real(draw)},
                "finetune": {"steps": self.settings.tuning_steps, "batch_size": 16},
                "output": {"folder": str(self.settings.out / "adapters" / str(draw))},
            }
        )
        made = finetune(tuning, self.told)
        reached("synthesize tuned")
        return made.for_a_job()

    def _job(self, way: Way, draw: int, url: str, adapters: list[dict[str, Any]]) -> dict[str, Any]:
        prompts: dict[str, Any] = {"classes": self.wordings}
        generation: dict[str, Any] = {"guidance_scale": way.guidance}
        if way.strength is not None:
            prompts |= {
                "source": self._real(draw),
                "columns": {"image": "file_name", "label": "label", "prompt": "text"},
            }
            generation["strength"] = way.strength
        return {
            "name": f"{way.name}-{draw}".replace(".", "_"),
            "seed": self.settings.proof.seed + draw,
            "prompts": prompts,
            "model": {**self.settings.model_fields, **({"adapters": adapters} if adapters else {})},
            "generation": {
                "num_inference_steps": self.settings.sampling_steps,
                "images_per_prompt": self._images_per_prompt(way, draw),
                **generation,
            },
            "output": {"url": url},
        }

    def _images_per_prompt(self, way: Way, draw: int) -> int:
        if way.strength is None:
            return self.each
        return math.ceil(self.each / max(1, len(self.draws[draw]) // len(self.wordings)))

    def _real(self, draw: int) -> str:
        return self._written(f"draws/{draw}", self.draws[draw])

    def _validating(self) -> str:
        return self._written("validation", self.validation)

    def _written(self, name: str, images: Sequence[Labelled]) -> str:
        """A folder that is whole, or not there: numbered files, since names are anyone's text."""
        from promptmill.pipeline.training.finetune.outside import write_images

        folder = self.settings.out / name
        if not folder.exists():
            begun = folder.with_name(f"{folder.name}.begun")
            shutil.rmtree(begun, ignore_errors=True)
            write_images(images, [self.wordings[each.label] for each in images], begun)
            begun.rename(folder)
            reached("synthesize parted")
        return str(folder)


def claim(
    settings: SynthesisSettings,
    draws: Sequence[Sequence[Labelled]],
    validation: Sequence[Labelled],
    wordings: Mapping[str, str],
) -> None:
    """Whose folder this is. Raises OutputMismatchError, naming what differs."""
    from promptmill.pipeline.training.finetune.tune import claim_folder

    def digest(images: Sequence[Labelled]) -> str:
        told = "".join(f"{each.sha256} {each.label}\n" for each in images)
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    identity = {
        "real images": digest(draws[0]),
        "validation images": digest(validation),
        "seed": settings.proof.seed,
        "model": settings.model_fields,
        "wordings": dict(wordings),
        "tuning-steps": settings.tuning_steps,
        "sampling-steps": settings.sampling_steps,
        "each": settings.each,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    claim_folder(settings.out, identity, "--out")


def proof_of(settings: SynthesisSettings, synthetic: str, draws: int | None = None) -> ProofSettings:
    folder = str(settings.out / "proof")
    asked = settings.proof
    return replace(asked, synthetic=synthetic, out=folder, draws=asked.draws if draws is None else draws)
