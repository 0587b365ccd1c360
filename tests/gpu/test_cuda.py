"""`make gpu`: the promises on CUDA. Skipped where there is no GPU, and none of it has met one so far."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from promptmill.pipeline.models.catalog.resolve import device_bytes, resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.load import load_generator
from promptmill.schemas.errors import DeviceMemoryError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedModel
from tests.models import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
SMALL = Generation(num_inference_steps=4, width=64, height=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_sdxl(tmp_path_factory.mktemp("cuda") / "sdxl")


@pytest.fixture(autouse=True)
def emptied() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def load(folder: Path, **fields: Any) -> tuple[ResolvedModel, DiffusersGenerator]:
    model = resolve_model(Model(path=str(folder), **fields), "model")
    generator = load_generator(model, threads=1)
    assert isinstance(generator, DiffusersGenerator)
    return model, generator


def drawn(generator: DiffusersGenerator, *seeds: int, generation: Generation = SMALL) -> np.ndarray[Any, Any]:
    samples = [Sample(f"s{i}", f"p{i}", 0, 0, i, "a red circle", "", "") for i in seeds]
    made = generator.generate(samples, generation, lambda: None)
    assert [each.error for each in made] == [None] * len(seeds)
    return np.stack([each.pixels for each in made if each.pixels is not None]).astype(np.int16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_same_sample_is_the_same_bytes_and_another_seed_another_image(folder: Path, dtype: str) -> None:
    _, generator = load(folder, dtype=dtype)
    first = drawn(generator, 1, 2)
    torch.cuda.manual_seed(99)
    assert (first == drawn(generator, 1, 2)).all()
    assert (first[0] != first[1]).any()
    _, anew = load(folder, dtype=dtype)
    assert (first == drawn(anew, 1, 2)).all()


def test_mates_of_a_batch_do_not_show(folder: Path) -> None:
    _, generator = load(folder, dtype="float32")
    together = drawn(generator, 1, 2, 3, 4)
    assert np.abs(together - np.concatenate([drawn(generator, i) for i in (1, 2, 3, 4)])).max() <= 2


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_changes_no_byte_and_holds_less(folder: Path, offload: str) -> None:
    model, usual = load(folder, dtype="bfloat16")
    expected = drawn(usual, 1, 2)
    del usual
    torch.cuda.empty_cache()
    held, offloaded = load(folder, dtype="bfloat16", offload=offload)
    assert torch.cuda.memory_allocated() < device_bytes(model)
    assert (expected == drawn(offloaded, 1, 2)).all()
    assert device_bytes(held) < device_bytes(model)


@pytest.mark.parametrize(
    ("way", "package"),
    [
        ("torchao_int8", "torchao"),
        ("torchao_float8", "torchao"),
        ("quanto_int8", "optimum"),
        ("bitsandbytes_int8", "bitsandbytes"),
        ("bitsandbytes_nf4", "bitsandbytes"),
    ],
)
def test_small_weights_keep_the_promises(folder: Path, way: str, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is optional")
    _, generator = load(folder, dtype="bfloat16", quantization=way)
    first = drawn(generator, 1, 2)
    assert (first == drawn(generator, 1, 2)).all()
    assert (first[0] != first[1]).any()
    _, together = load(folder, dtype="bfloat16", quantization=way, offload="model")
    assert (first == drawn(together, 1, 2)).all()


@TWO
def test_a_model_over_two_gpus_makes_the_same_bytes(folder: Path) -> None:
    _, usual = load(folder, dtype="bfloat16")
    _, spread = load(folder, dtype="bfloat16", device_map="balanced")
    assert (drawn(usual, 1, 2) == drawn(spread, 1, 2)).all()


def test_memory_that_runs_out_is_said_so_and_given_back(folder: Path) -> None:
    """The worker halves its batch on this error: what fitted before must fit after it."""
    _, generator = load(folder, dtype="bfloat16")
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (total - free + 500e6) / total))
    try:
        large = SMALL.model_copy(update={"width": 2048, "height": 2048})
        with pytest.raises(DeviceMemoryError):
            drawn(generator, *range(64), generation=large)
        assert drawn(generator, 1).shape == (1, 64, 64, 3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
