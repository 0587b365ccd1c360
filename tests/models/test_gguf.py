"""A denoiser that lies in its folder as one GGUF file, written here by the format's own library."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from promptmill.pipeline.models.catalog.adapters import base_shapes
from promptmill.pipeline.models.catalog.placing import check_placing
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.load import load_generator
from promptmill.schemas.compute import Compute
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.plan import Sample
from tests.models import tiny

SETTINGS = Generation(num_inference_steps=2, width=64, height=64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_flux(tmp_path_factory.mktemp("whole") / "flux")


@pytest.fixture
def small(whole: Path, tmp_path: Path) -> Path:
    """The same model with 8 bits a number where rows are blocks of 32, as published files have it."""
    folder = tmp_path / "small"
    shutil.copytree(whole, folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    writer = gguf.GGUFWriter(str(folder / "transformer" / "flux-Q8_0.gguf"), "flux")
    for name, values in load_file(weights).items():
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            packed = gguf.quantize(values.astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights.unlink()
    return folder


def drawn(folder: Path, *seeds: int) -> np.ndarray:  # type: ignore[type-arg]
    generator = load_generator(resolve_model(Model(path=str(folder)), "model"), threads=1)
    samples = [Sample(f"s{i}", f"p{i}", i, 0, i, "a red circle", "", "a red circle") for i in seeds]
    made = generator.generate(samples, SETTINGS, lambda: None)
    return np.stack([each.pixels for each in made if each.pixels is not None]).astype(np.int16)


def test_the_promises_hold_and_the_images_are_nearly_those_of_the_whole_weights(whole: Path, small: Path) -> None:
    together = drawn(small, 1, 2)
    assert (together == drawn(small, 1, 2)).all() and (together[0] != together[1]).any()
    assert np.abs(together[1:] - drawn(small, 2)).max() <= 1
    assert 0 < np.abs(together - drawn(whole, 1, 2)).max() < 20


def test_the_file_is_part_of_what_the_model_is(small: Path) -> None:
    before = resolve_model(Model(path=str(small)), "model")
    assert "transformer/flux-Q8_0.gguf" in before.files
    file = small / "transformer" / "flux-Q8_0.gguf"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert resolve_model(Model(path=str(small)), "model").revision != before.revision


def test_what_would_go_wrong_is_refused(small: Path) -> None:
    check_placing(Model(path=str(small)), model := resolve_model(Model(path=str(small)), "model"), Compute(), "model")
    with pytest.raises(JobError, match="safetensors to hold what is added against"):
        base_shapes(model)
    smaller = Model(path=str(small), quantization="quanto_int8")
    with pytest.raises(JobError, match="those of transformer, made small by gguf"):
        check_placing(smaller, model, Compute(), "model")


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-64]), "a whole GGUF file"),
        (lambda file: file.write_bytes(b"GGUF"), "a whole GGUF file"),
        (lambda file: file.write_bytes(b"\0" * 100), "a whole GGUF file"),
        (lambda file: shutil.copy(file, file.with_name("other.gguf")), "one GGUF file for transformer"),
        (lambda file: shutil.move(file, _text_encoder(file)), "safetensors for text_encoder (CLIPTextModel)"),
    ],
)
def test_files_that_are_none_are_refused_before_anything_is_loaded(
    break_it: Callable[[Path], object], expected: str, small: Path
) -> None:
    break_it(small / "transformer" / "flux-Q8_0.gguf")
    with pytest.raises(JobError) as refused:
        resolve_model(Model(path=str(small)), "model")
    assert expected in str(refused.value)


def _text_encoder(file: Path) -> Path:
    folder = file.parents[1] / "text_encoder"
    (folder / "model.safetensors").unlink()
    return folder / "model.gguf"


def test_a_file_alone_is_told_where_it_belongs(small: Path) -> None:
    with pytest.raises(JobError, match="Put it beside transformer/config.json"):
        resolve_model(Model(path=str(small / "transformer" / "flux-Q8_0.gguf")), "model")
