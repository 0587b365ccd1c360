"""What conditions an image: nothing that is asked for is dropped, and only what may share a batch does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.tasks import check_arguments
from promptmill.pipeline.models.diffusion import conditioners as folder
from promptmill.pipeline.models.diffusion.conditioning import Batch, call_arguments
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.diffusion.registry import Parts, conditioners
from promptmill.pipeline.models.interface import Generator
from promptmill.pipeline.prompts.inputs import InputReader
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.recovery import VariantGenerator, batch_size_key
from promptmill.schemas.errors import JobError, SampleError, WorkerError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.inputs import Input, task_of
from promptmill.schemas.plan import Sample, Variant
from promptmill.schemas.resolved import ResolvedModel

SETTINGS = Generation(num_inference_steps=2)
SAMPLE = Sample("s", "p", 0, 0, 0, "a red circle", "", "a red circle")


class Odd:
    """A conditioner of a kind that no pipeline knows."""

    def group(self, sample: Sample, settings: Generation) -> object:
        return sample.seed

    def arguments(self, batch: Batch) -> dict[str, int]:
        return {"sparkle": 3}


def test_what_the_pipeline_does_not_take_is_an_error(generator: Callable[[str], DiffusersGenerator]) -> None:
    made_by = generator("sd15")
    batch = Batch([SAMPLE], SETTINGS, lambda: None, made_by._texts)
    assert "prompt_embeds" in call_arguments(made_by._pipe, made_by._conditioners, batch)
    with pytest.raises(WorkerError, match="StableDiffusionPipeline does not take sparkle"):
        call_arguments(made_by._pipe, [*made_by._conditioners, Odd()], batch)


def test_validate_refuses_what_a_pipeline_would_be_called_without(folder: Callable[[str], Path]) -> None:
    model = resolve_model(Model(path=str(folder("sd15"))), "model")
    asked = {"guidance_scale": "sweep.guidance_scale", "width": "generation.width"}
    check_arguments(model, asked)
    with pytest.raises(JobError) as refused:
        check_arguments(replace(model, pipeline_class="HunyuanImagePipeline"), asked)
    (problem,) = refused.value.problems
    assert "sweep.guidance_scale: expected a field that HunyuanImagePipeline takes" in str(problem)


def test_a_smaller_batch_is_remembered_for_what_is_as_large(folder: Callable[[str], Path]) -> None:
    model = resolve_model(Model(path=str(folder("sd15"))), "model")

    def key(samples: list[Sample], changed: ResolvedModel = model, **settings: object) -> object:
        return batch_size_key(Variant(0, {}, changed, SETTINGS.model_copy(update=settings)), samples)

    assert key([SAMPLE]) == key([replace(SAMPLE, seed=5)] * 2)
    small, large = (Input("a.png", pixels=np.zeros((side, side, 3), np.uint8)) for side in (8, 16))
    others = [
        key([SAMPLE], replace(model, dtype="float16")),
        key([SAMPLE], guidance_scale=1.0),
        key([SAMPLE], width=32),
        *(key([replace(SAMPLE, inputs={"image": each})]) for each in (small, large)),
    ]
    assert len({key([SAMPLE]), *others}) == 6


def test_the_task_follows_from_the_roles() -> None:
    assert task_of([]).name == "text-to-image"
    assert task_of(["image", "control_image"]).name == "image-to-image"
    assert task_of(["mask", "image"]).name == "inpainting"
    assert task_of(["control_image"]).controlled
    with pytest.raises(ValueError, match="a mask needs an image"):
        task_of(["mask"])


def test_a_conditioner_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by = DiffusersGenerator(resolve_model(Model(), "model"), "cpu")
    files = {path.stem for path in Path(str(folder.__file__)).parent.glob("*.py")} - {"__init__"}
    assert {"edit", "image", "text"} <= files and len(made_by._conditioners) == len(files)
    (tmp_path / "of_tests.py").write_text("def make(parts):\n    return type(parts.pipe).__name__\n")
    monkeypatch.setattr(folder, "__path__", [str(tmp_path)])
    parts = Parts(
        made_by._pipe, made_by._device, made_by._texts, made_by._guidance, made_by._controls, made_by._references
    )
    assert conditioners(parts) == ["StableDiffusionPipeline"]


class Refuses:
    def generate(self, *_: Any, **__: Any) -> list[Any]:
        try:
            raise RuntimeError("the mask is black")
        except RuntimeError as error:
            raise SampleError("input", "the mask is black") from error


def test_a_failure_that_is_kept_holds_no_latents(folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = resolve_model(Model(path=str(folder("sd15"))), "model")
    reader = InputReader(Store(str(tmp_path)))
    work = VariantGenerator(cast(Generator, Refuses()), Variant(0, {}, model, SETTINGS), {}, lambda: None, reader)
    for made in (*work.generate([SAMPLE]), work._again_in_full_precision(SAMPLE)):
        assert made.error is not None and made.error.message == "the mask is black"
        assert (made.error.__traceback__, made.error.__cause__, made.error.__context__) == (None, None, None)
