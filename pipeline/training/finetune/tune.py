"""One adapter from its images: claim the folder, encode what is not cached, learn, check, write."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.display import cut
from promptmill.pipeline.models.catalog.adapters import TUNED, resolve_adapter
from promptmill.pipeline.models.catalog.resolve import fetch_model
from promptmill.pipeline.models.catalog.shipped import BUILTIN
from promptmill.pipeline.models.diffusion.pipelines import choose_device, choose_dtype, load_pipeline
from promptmill.pipeline.prompts.pixels import decode_image
from promptmill.pipeline.storage.local import replace_file
from promptmill.pipeline.training.finetune.cache import Cache
from promptmill.pipeline.training.finetune.denoiser import Denoiser
from promptmill.pipeline.training.finetune.examples import Lesson, hash_of
from promptmill.pipeline.training.finetune.learnt import ADAPTER_FILE, Learnt, check_finite, learnt
from promptmill.pipeline.training.finetune.loop import CHECKPOINT, Example, Training
from promptmill.pipeline.training.finetune.memory import check_fits, estimate
from promptmill.pipeline.training.finetune.outside import run_trainer, write_images
from promptmill.schemas.additions import Adapter
from promptmill.schemas.errors import JobError, OutputMismatchError, Problem
from promptmill.schemas.json_text import parse_json
from promptmill.schemas.resolved import ResolvedModel
from promptmill.schemas.tuned import TunedAdapter
from promptmill.schemas.tuning import Tuning

CLAIM: Final = TUNED
_NOT_IN_WEIGHTS: Final = ("checkpoint_every", "command_timeout_s")
_RATES: Final = {"prodigy": 1.0}
_RATE, _HIGH_RATE = 1e-4, 1e-3


def make_adapter(
    tuning: Tuning,
    lesson: Lesson,
    base: ResolvedModel,
    folder: Path,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    told: Callable[[str], None] = lambda text: None,
) -> TunedAdapter:
    """Makes what is missing: a finished adapter is only looked at, a begun one goes on.

    Raises OutputMismatchError where the folder is another training's, naming what differs.
    """
    with _alone(folder):
        identity = _identity(tuning, lesson, base)
        claim_folder(folder, identity, "output.folder")
        if (folder / ADAPTER_FILE).is_file():
            return _result(tuning, lesson, base, folder, {"steps_resumed": tuning.finetune.steps})
        began = time.monotonic()
        if tuning.finetune.command is not None:
            _by_command(tuning, lesson, base, folder)
            facts: dict[str, Any] = {}
        else:
            facts = _learn(tuning, lesson, base, folder, _digest(identity), on_step, told)
        made = _result(tuning, lesson, base, folder, {**facts, "seconds": round(time.monotonic() - began, 3)})
        (folder / CHECKPOINT).unlink(missing_ok=True)
        if not tuning.output.keep_cache:
            rmtree(folder / "cache", ignore_errors=True)
        return made


def _learn(
    tuning: Tuning,
    lesson: Lesson,
    base: ResolvedModel,
    folder: Path,
    identity: str,
    on_step: Callable[[int, float], None],
    told: Callable[[str], None],
) -> dict[str, Any]:
    how = tuning.finetune
    device = choose_device(tuning.compute.device)
    pipe = load_pipeline(base, choose_dtype(base.dtype, device), device)
    width, height = how.width or base.width, how.height or base.height
    denoiser = Denoiser(pipe, width, height, how.min_snr)
    cache = Cache(folder / "cache", base, denoiser)
    examples = [*_examples(tuning, lesson, cache), *_prior(tuning, pipe, cache, folder)]
    captions = dict.fromkeys(["", *(each.caption for each in examples)])
    texts = {caption: cache.text(caption) for caption in captions}  # of the bare model: what learns may change them
    learns = learnt(denoiser, how, tuning.seed)
    needed = estimate(denoiser, texts[""], how.batch_size, how.optimizer, how.gradient_checkpointing)
    told(f"memory: {needed.total_bytes / 1e6:,.0f} MB, of which {needed.activations_bytes / 1e6:,.0f} MB activations")
    check_fits(needed, device)
    if how.gradient_checkpointing:
        pipe_part: Any = denoiser.module
        pipe_part.enable_gradient_checkpointing()
    denoiser.module.train()
    training = Training(denoiser, learns, how, tuning.seed, rate_of(tuning), identity, folder)
    resumed = training.restore()
    loss = training.run(examples, texts, on_step)
    reached("finetune before adapter")
    _write(learns, folder, base, lesson)
    reached("finetune after adapter")
    return {
        "parameters": sum(p.numel() for p in learns.parameters),
        "loss": loss,
        "steps_resumed": resumed,
        "encoded_images": cache.made["latents"],
        "encoded_texts": cache.made["texts"],
        "memory_estimate": needed.as_json(),
    }


def rate_of(tuning: Tuning) -> float:
    how = tuning.finetune
    if how.learning_rate is not None:
        return how.learning_rate
    high = tuning.model.path.startswith(BUILTIN) or how.method == "textual_inversion"
    return _RATES.get(how.optimizer, _HIGH_RATE if high else _RATE)


def _write(learns: Learnt, folder: Path, base: ResolvedModel, lesson: Lesson) -> None:
    """Under its name only once it is known to be whole, finite and this model's."""
    near = "checked.safetensors"
    replace_file(folder, near, learns.written())
    _check(folder / near, lesson.name, base, "finetune")
    reached("finetune between checks")
    (folder / near).replace(folder / ADAPTER_FILE)


def _check(path: Path, name: str, base: ResolvedModel, where: str) -> None:
    resolve_adapter(Adapter(name=name, path=str(path)), base, where)
    check_finite(path, where)


def _by_command(tuning: Tuning, lesson: Lesson, base: ResolvedModel, folder: Path) -> None:
    images, left = folder / "images", folder / "trainer"
    rmtree(images, ignore_errors=True)
    rmtree(left, ignore_errors=True)
    write_images(lesson.images, lesson.captions, images)
    place = base.location if base.mirror is None else str(fetch_model(base))
    made = run_trainer(tuning.finetune, place, images, left)
    _check(made, lesson.name, base, "finetune.command")
    replace_file(folder, ADAPTER_FILE, made.read_bytes())


def _examples(tuning: Tuning, lesson: Lesson, cache: Cache) -> list[Example]:
    sides = (False, True) if tuning.finetune.flip else (False,)
    return [
        Example(image.name, caption, cache.latents(image.name, image.pixels, image.sha256, flipped))
        for image, caption in zip(lesson.images, lesson.captions, strict=True)
        for flipped in sides
    ]


def _prior(tuning: Tuning, pipe: Any, cache: Cache, folder: Path) -> Iterator[Example]:
    """Samples of the untuned model for the class, drawn once and kept."""
    how = tuning.finetune
    if how.method != "dreambooth":
        return
    caption = f"a {how.class_word}"
    for number in range(how.prior_images):
        name = f"prior/{number:06d}.png"
        if not (folder / name).is_file():
            seed = int(np.random.SeedSequence([tuning.seed, 2, number]).generate_state(1, np.uint64)[0] >> 1)
            width, height = cache.denoiser.size
            drawn = pipe(caption, width=width, height=height, generator=torch.Generator().manual_seed(seed))
            replace_file(folder, name, _png(np.asarray(drawn.images[0].convert("RGB"))))
        pixels = decode_image((folder / name).read_bytes())
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        yield Example(name, caption, cache.latents(name, pixels, digest, False), prior=True)


def _png(pixels: np.ndarray) -> bytes:
    from io import BytesIO

    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def _identity(tuning: Tuning, lesson: Lesson, base: ResolvedModel) -> dict[str, Any]:
    """Everything that changes the weights, as fields that a message can name."""
    how = tuning.finetune.model_dump(mode="json", exclude=set(_NOT_IN_WEIGHTS))
    return {
        "seed": tuning.seed,
        "model": base.path,
        "model.revision": base.revision,
        "model.dtype": base.dtype,
        "images": hash_of(lesson),
        "compute.device": choose_device(tuning.compute.device).type,
        "compute.threads_per_worker": tuning.compute.threads_per_worker,
        **{f"finetune.{name}": value for name, value in how.items()},
    }


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def claim_folder(folder: Path, identity: dict[str, Any], where: str) -> None:
    """Raises OutputMismatchError where the folder is of another identity, naming what differs."""
    path = folder / CLAIM
    if path.is_file():
        try:
            there = parse_json(path.read_text("utf-8"))
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise OutputMismatchError(Problem(str(path), "the claim of a training", "something else"))
        if names := [name for name in identity if there.get(name, identity[name]) != identity[name]]:
            hint = "Give another folder, or remove that one."
            before, now = (", ".join(_short(values[name]) for name in names) for values in (there, identity))
            raise OutputMismatchError(Problem(where, f"the same {', '.join(names)} ({before})", now, hint))
        return
    reached("finetune before claim")
    replace_file(folder, CLAIM, json.dumps(identity, indent=2, sort_keys=True).encode())


def _short(value: object) -> str:
    return cut(json.dumps(value), 40)


def _result(tuning: Tuning, lesson: Lesson, base: ResolvedModel, folder: Path, facts: dict[str, Any]) -> TunedAdapter:
    path = folder / ADAPTER_FILE
    _check(path, lesson.name, base, "output.folder")
    return TunedAdapter(
        name=lesson.name,
        of=lesson.of,
        path=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        trigger=tuning.finetune.token,
        images=len(lesson.images),
        steps=tuning.finetune.steps,
        **facts,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One training a folder: a second is refused while the first is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "Wait for it, or give another folder."
            raise JobError(Problem("output.folder", "a folder in which nobody trains", str(folder), hint)) from None
        yield


def folders_of(tuning: Tuning, lessons: Sequence[Lesson]) -> list[Path]:
    """The folder itself for one adapter of all images, else a numbered one each."""
    root = Path(tuning.output.folder)
    return [root / lesson.name if lesson.of else root for lesson in lessons]
