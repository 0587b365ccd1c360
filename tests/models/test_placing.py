"""Weights made small, kept in main memory or spread: what is refused, what it takes, and that images stay the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from promptmill.pipeline.models.catalog.placing import check_placing
from promptmill.pipeline.models.catalog.resolve import device_bytes, memory_needed_bytes, resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.diffusion.placing import check_device, place
from promptmill.pipeline.models.load import load_generator
from promptmill.schemas.compute import Compute
from promptmill.schemas.errors import JobError, ModelLoadError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedModel

Folder = Callable[[str], Path]
WAYS = [
    "quanto_int8",
    pytest.param("torchao_int8", marks=pytest.mark.skipif(not find_spec("torchao"), reason="torchao is optional")),
]


def resolved(folder: Path, **fields: Any) -> ResolvedModel:
    return resolve_model(Model(path=str(folder), **fields), "model")


def drawn(generator: DiffusersGenerator, *seeds: int) -> np.ndarray[Any, Any]:
    samples = [Sample(f"s{i}", f"p{i}", 0, 0, i, "a red circle", "", "") for i in seeds]
    made = generator.generate(samples, Generation(num_inference_steps=2, width=64, height=64), lambda: None)
    assert [each.error for each in made] == [None] * len(seeds)
    return np.stack([each.pixels for each in made if each.pixels is not None]).astype(np.int16)


@pytest.mark.parametrize(
    ("fields", "compute", "expected"),
    [
        ({"offload": "model"}, {"gpus_per_worker": 0}, "model.offload: expected none with compute.gpus_per_worker 0"),
        ({"offload": "model", "path": "builtin:shapes"}, {}, "none with a built-in model"),
        ({"offload": "model", "device_map": "balanced"}, {"gpus_per_worker": 2}, "none with model.device_map"),
        ({"offload": "sequential", "quantization": "quanto_int8"}, {}, "none or model with weights"),
        ({"device_map": "balanced"}, {}, "compute.gpus_per_worker of 2 or more, got auto"),
        ({"device_map": "balanced"}, {"gpus_per_worker": 1}, "of 2 or more, got 1"),
        ({"device_map": "balanced", "quantization": "quanto_int8"}, {"gpus_per_worker": 2}, "null with quanto_int8"),
        ({"quantization": "quanto_int8", "path": "builtin:shapes"}, {}, "null with a built-in model"),
        ({"quantization": "bitsandbytes_nf4"}, {"gpus_per_worker": 0}, "a GPU for bitsandbytes_nf4"),
        ({"quantization": "bitsandbytes_int8", "dtype": "float32"}, {}, "model.dtype auto or bfloat16 or float16"),
    ],
)
def test_what_does_nothing_or_cannot_be_is_refused(
    fields: dict[str, Any], compute: dict[str, Any], expected: str, folder: Folder
) -> None:
    model = Model(**{"path": str(folder("sd15")), **fields})
    with pytest.raises(JobError) as refused:
        check_placing(model, resolve_model(model, "model"), Compute(**compute), "model")
    assert expected in str(refused.value)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_what_can_be_is_let_through(offload: Any, folder: Folder) -> None:
    for fields, gpus in (
        ({"offload": offload}, 1),
        ({"device_map": "balanced"}, 2),
        ({"quantization": "quanto_int8"}, 0),
    ):
        model = Model(path=str(folder("sd15")), **fields)
        check_placing(model, resolve_model(model, "model"), Compute(gpus_per_worker=gpus), "model")


def test_a_class_that_names_no_order_of_its_parts_cannot_be_offloaded_by_parts(folder: Folder) -> None:
    model = Model(path=str(folder("sd15")), offload="model")
    other = resolve_model(model, "model")
    check_placing(model, other, Compute(), "model")
    no_order = replace(other, pipeline_class="PipelineOfTomorrow")
    with pytest.raises(JobError, match="none or sequential with PipelineOfTomorrow"):
        check_placing(model, no_order, Compute(), "model")


def test_a_worker_without_what_the_model_needs_says_so(folder: Folder) -> None:
    cpu = torch.device("cpu")
    for fields in ({"offload": "model"}, {"device_map": "balanced"}, {"quantization": "bitsandbytes_nf4"}):
        (name,) = fields
        with pytest.raises(ModelLoadError, match=f"model.{name}: expected"):
            check_device(resolved(folder("sd15"), **fields), cpu)


def test_memory_follows(folder: Folder) -> None:
    whole, small = (resolved(folder("flux"), quantization=way) for way in (None, "quanto_int8"))
    assert memory_needed_bytes(small) < memory_needed_bytes(whole)
    assert device_bytes(replace(whole, offload="sequential")) < device_bytes(replace(whole, offload="model"))
    assert device_bytes(replace(whole, offload="model")) < device_bytes(whole) < memory_needed_bytes(whole)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_promises_hold_with_weights_made_small(way: str, family: str, folder: Folder) -> None:
    model = resolved(folder(family), quantization=way)
    small = load_generator(model, threads=1)
    whole = load_generator(replace(model, quantization=None), threads=1)
    assert isinstance(small, DiffusersGenerator) and isinstance(whole, DiffusersGenerator)
    together = drawn(small, 1, 2, 3, 4)
    assert (together == drawn(small, 1, 2, 3, 4)).all()
    assert np.abs(together - np.concatenate([drawn(small, i) for i in (1, 2, 3, 4)])).max() <= 1
    assert 0 < np.abs(together - drawn(whole, 1, 2, 3, 4)).max() < 20
    assert (together[0] != together[1]).any()
    assert small.dtype == f"float32+{way}"


def test_weights_that_were_saved_small_are_read_as_they_are(tmp_path: Path, folder: Folder) -> None:
    config = diffusers.PipelineQuantizationConfig(quant_mapping={"unet": diffusers.QuantoConfig("int8")})
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder("sd15"), quantization_config=config, dtype=torch.float32
    )
    pipe.save_pretrained(tmp_path / "small")
    saved, made = resolved(tmp_path / "small"), resolved(folder("sd15"), quantization="quanto_int8")
    (first, second) = (drawn(load_generator(each, threads=1), 1, 2) for each in (saved, made))  # type: ignore[arg-type]
    assert (first == second).all()
    model = Model(path=str(tmp_path / "small"), quantization="quanto_int8")
    with pytest.raises(JobError, match="those of unet, made small by quanto"):
        check_placing(model, saved, Compute(), "model")


def test_parts_that_wait_in_main_memory_make_the_same_images(folder: Folder) -> None:
    """On the CPU, where diffusers moves the parts to and fro all the same; tests/gpu does so on a GPU."""
    model = resolved(folder("sd15"))
    usual, offloaded = (load_generator(model, threads=1) for _ in range(2))
    assert isinstance(usual, DiffusersGenerator) and isinstance(offloaded, DiffusersGenerator)
    place(offloaded._pipe, replace(model, offload="model"), torch.device("cpu"))
    assert (drawn(usual, 1, 2) == drawn(offloaded, 1, 2)).all()
