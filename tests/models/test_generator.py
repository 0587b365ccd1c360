"""The generator on real pipelines of five families."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.interface import Generated
from promptmill.schemas.errors import DeviceLostError, DeviceMemoryError, SampleError, WorkerError
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample
from tests.models import tiny

FAMILIES = ("sd15", "sdxl", "sd3", "flux", "pixart")
PROMPTS = ("a red circle", "a blue square", "the green star above a yellow triangle", "a star", "a circle")
LONG = "a red circle on a blue square " * 8
SETTINGS = Generation(num_inference_steps=2, guidance_scale=5.0, width=64, height=64)
Family = Callable[[str], DiffusersGenerator]


def sample(number: int, prompt: str = "a red circle", negative: str = "", seed: int | None = None) -> Sample:
    return Sample(f"s{number}", f"p{number}", number, 0, number if seed is None else seed, prompt, negative, prompt)


def samples(count: int = 4, negative: str = "") -> list[Sample]:
    return [sample(number, PROMPTS[number % len(PROMPTS)], negative) for number in range(count)]


def generate(
    made_by: DiffusersGenerator, asked: list[Sample], settings: Generation = SETTINGS, **options: Any
) -> list[Generated]:
    made_by.prepare(asked, settings)
    return made_by.generate(asked, settings, lambda: None, **options)


def pixels(answers: list[Generated]) -> np.ndarray[Any, np.dtype[np.int16]]:
    assert [answer.error for answer in answers] == [None] * len(answers)
    return np.stack([answer.pixels for answer in answers if answer.pixels is not None]).astype(np.int16)


def pipe_of(made_by: DiffusersGenerator) -> Any:
    return made_by._pipe


@contextmanager
def hooked(module: torch.nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_every_family(family: str, generator: Family) -> None:
    made = generate(generator(family), samples())
    assert pixels(made).shape == (4, 64, 64, 3)
    assert all(answer.pixels is not None and answer.pixels.dtype == np.uint8 for answer in made)
    assert np.ptp(pixels(made)) > 50
    assert [answer.flags for answer in made] == [()] * 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("negative", ["", "blurry"])
def test_same_image_as_a_plain_call_of_the_pipeline(
    family: str, negative: str, generator: Family, folder: Callable[[str], Path]
) -> None:
    asked = samples(4, negative)
    plain = diffusers.DiffusionPipeline.from_pretrained(folder(family), use_safetensors=True)
    plain.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"use_resolution_binning": False, "clean_caption": False} if family == "pixart" else {}
    if negative and family != "flux":
        options["negative_prompt"] = [negative] * 4
    expected = plain(
        prompt=[each.prompt for each in asked],
        num_inference_steps=2,
        guidance_scale=5.0,
        width=64,
        height=64,
        generator=[torch.Generator("cpu").manual_seed(each.seed) for each in asked],
        output_type="np",
        **options,
    ).images
    difference = np.abs(pixels(generate(generator(family), asked)) - (expected * 255).round().astype(np.int16))
    # Prompts are encoded eight at a time here, four at a time there: on some processors a few values of 49,152 differ.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("family", ["sana", "lcm"])
def test_a_pipeline_without_a_table_entry_is_given_text(family: str, generator: Family) -> None:
    made_by = generator(family)
    images = pixels(generate(made_by, samples(3)))
    assert images.shape == (3, 64, 64, 3)
    assert np.abs(images - np.concatenate([pixels(generate(made_by, [each])) for each in samples(3)])).max() <= 2
    answers = generate(made_by, [sample(0, LONG * 20), sample(1, negative="blurry star", seed=0)])
    heeds = family == "sana"
    assert answers[0].flags == ("prompt_truncated",)
    assert answers[1].flags == (() if heeds else ("negative_prompt_ignored",))
    assert np.array_equal(pixels(answers)[1], images[0]) != heeds


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_does_not_depend_on_batch_mates(family: str, generator: Family) -> None:
    together = pixels(generate(generator(family), samples(4)))
    again = pixels(generate(generator(family), samples(4)))
    alone = np.concatenate([pixels(generate(generator(family), [each])) for each in samples(4)])
    assert np.array_equal(together, again)
    assert np.abs(together - alone).max() <= 2


@pytest.mark.parametrize("scheduler", ["euler_a", "dpm++_sde", "lcm", "ddpm"])
def test_ancestral_noise_does_not_depend_on_batch_mates(scheduler: str, generator: Family) -> None:
    settings = SETTINGS.model_copy(update={"scheduler": scheduler, "num_inference_steps": 4})
    together = pixels(generate(generator("sd15"), samples(3), settings))
    alone = np.concatenate([pixels(generate(generator("sd15"), [each], settings)) for each in samples(3)])
    assert np.abs(together - alone).max() <= 2


def test_seed_makes_the_image(generator: Family) -> None:
    asked = [sample(0, seed=7), sample(1, seed=7), sample(2, seed=8)]
    first, same, other = pixels(generate(generator("sd15"), asked))
    assert np.array_equal(first, same)
    assert np.abs(first - other).mean() > 5


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_guidance_have_an_effect(family: str, generator: Family) -> None:
    made_by = generator(family)
    base = pixels(generate(made_by, [sample(0, "a red circle")]))
    other_prompt = pixels(generate(made_by, [sample(0, "the blue star below a green square", seed=0)]))
    other_scale = pixels(
        generate(made_by, [sample(0, "a red circle")], SETTINGS.model_copy(update={"guidance_scale": 9.0}))
    )
    assert np.abs(base - other_prompt).max() > 0
    assert np.abs(base - other_scale).max() > 0


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "pixart", "flux_undistilled"])
def test_negative_prompt_has_an_effect(family: str, generator: Family) -> None:
    made_by = generator(family)
    without = pixels(generate(made_by, samples(2)))
    answers = generate(made_by, samples(2, negative="blurry"))
    assert np.abs(without - pixels(answers)).max() > 0
    assert answers[0].flags == ()
    unguided = SETTINGS.model_copy(update={"guidance_scale": 1.0})
    ignored = generate(made_by, samples(2, negative="blurry"), unguided)
    assert np.array_equal(pixels(ignored), pixels(generate(made_by, samples(2), unguided)))
    assert ignored[0].flags == ("negative_prompt_ignored",)


def test_negative_prompt_of_a_batch_mate_changes_nothing(generator: Family) -> None:
    """Flux without distillation is guided only where there is a negative prompt."""
    made_by = generator("flux_undistilled")
    alone = pixels(generate(made_by, [sample(0)]))
    mixed = pixels(generate(made_by, [sample(0), sample(1, negative="blurry"), sample(2)]))
    assert np.abs(alone[0] - mixed[0]).max() <= 2


def test_distilled_flux_says_that_it_ignores_the_negative_prompt(generator: Family) -> None:
    answers = generate(generator("flux"), samples(2, negative="blurry"))
    assert answers[0].flags == ("negative_prompt_ignored",)
    assert np.array_equal(pixels(answers), pixels(generate(generator("flux"), samples(2))))


@pytest.mark.parametrize("family", FAMILIES)
def test_truncated_prompt_is_flagged(family: str, generator: Family) -> None:
    """CLIP sees 16 tokens here; T5 as many as the pipeline's `max_sequence_length`, and then it read the whole."""
    cut = {"sd3": ("text_encoder", "text_encoder_2"), "flux": ("text_encoder",), "pixart": ()}
    flags = tuple(f"prompt_truncated:{encoder}" for encoder in cut[family]) if family in cut else ("prompt_truncated",)
    answers = generate(generator(family), [sample(0, LONG), sample(1, "a red circle"), sample(2, LONG * 20)])
    assert [answer.flags for answer in answers] == [flags, (), ("prompt_truncated",)]


def test_truncated_negative_prompt_is_flagged(generator: Family) -> None:
    assert generate(generator("sd15"), [sample(0, negative=LONG)])[0].flags == ("negative_prompt_truncated",)


def test_limit_counts_start_and_end(generator: Family) -> None:
    fits = " ".join(["star"] * (tiny.CLIP_TOKENS - 2))
    answers = generate(generator("sd15"), [sample(0, fits), sample(1, fits + " star")])
    assert [answer.flags for answer in answers] == [(), ("prompt_truncated",)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_distinct_prompt_is_encoded_once(family: str, generator: Family) -> None:
    made_by = generator(family)
    rows: list[int] = []
    encoder = pipe_of(made_by).text_encoder
    asked = [sample(number, f"a {word} {word}") for number, word in enumerate(tiny.WORDS[:8] * 3)]
    generate(made_by, samples(1))
    with hooked(encoder, lambda module, args, options, output: rows.append(len((args or [options["input_ids"]])[0]))):
        made_by.prepare(asked, SETTINGS)
        for start in range(0, 24, 6):
            made_by.generate(asked[start : start + 6], SETTINGS, lambda: None)
    assert rows == [8]


def test_negative_prompt_is_encoded_once_a_worker(generator: Family) -> None:
    made_by = generator("sd15")
    rows: list[int] = []
    with hooked(pipe_of(made_by).text_encoder, lambda module, args, options, output: rows.append(1)):
        for _ in range(3):
            generate(made_by, samples(2, negative="a yellow star"))
    assert len(rows) == 3 + 1


def test_two_shards_in_hand(generator: Family) -> None:
    made_by = generator("sd15")
    made_by.prepare([sample(0, "a red star")], SETTINGS)
    made_by.prepare([sample(1, "a blue star")], SETTINGS)
    calls: list[int] = []
    with hooked(pipe_of(made_by).text_encoder, lambda *_: calls.append(1)):
        made_by.generate([sample(0, "a red star"), sample(1, "a blue star")], SETTINGS, lambda: None)
    assert calls == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_that_is_not_finite_costs_only_itself(family: str, generator: Family) -> None:
    made_by = generator(family)
    expected = pixels(generate(made_by, samples(3)))
    pipe = pipe_of(made_by)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer

    def spoil(module: Any, args: Any, options: Any, output: Any) -> Any:
        output[0][1::3] = float("nan")  # the second of three, in both halves when guided
        return output

    with hooked(denoiser, spoil), np.errstate(all="raise"):
        answers = generate(made_by, samples(3))
        again = generate(made_by, samples(3), full_precision=True)
    assert answers[1].pixels is None
    assert answers[1].error is not None
    assert answers[1].error.kind == "not_finite"
    assert "latents" in answers[1].error.message
    assert "float32" in again[1].error.message
    assert np.array_equal(pixels([answers[0], answers[2]]), expected[[0, 2]])
    assert again[0].flags == ("retried_fp32",)


def test_pixels_that_are_not_finite_cost_only_their_sample(generator: Family) -> None:
    made_by = generator("sd15")

    def spoil(module: Any, args: Any, options: Any, output: Any) -> Any:
        output[0] = float("inf")
        return output

    with hooked(pipe_of(made_by).vae.decoder, spoil):
        first, second = generate(made_by, samples(2))
    assert first.error is not None
    assert first.error.message.startswith("pixels hold NaN")
    assert second.pixels is not None


def test_full_precision_mends_what_half_precision_breaks(folder: Callable[[str], Path]) -> None:
    """A decoder whose middle overflows float16, as that of SDXL does; here in bfloat16 with a check on the dtype."""
    from promptmill.pipeline.models.catalog.resolve import resolve_model
    from promptmill.schemas.generation import Model

    made_by = DiffusersGenerator(resolve_model(Model(path=str(folder("sd15")), dtype="bfloat16"), "model"), "cpu")
    assert made_by.dtype == "bfloat16"

    def overflow(module: Any, args: Any, options: Any, output: Any) -> Any:
        return output if output.dtype == torch.float32 else output * float("inf")

    pipe = pipe_of(made_by)
    for module, what in ((pipe.vae.decoder, "pixels"), (pipe.unet, "latents")):
        before = {name: value.clone() for name, value in module.state_dict().items()}
        spoil = overflow if module is pipe.vae.decoder else lambda m, a, o, out: (overflow(m, a, o, out[0]),)
        with hooked(module, spoil):
            broken = generate(made_by, samples(2))
            mended = generate(made_by, samples(2), full_precision=True)
        assert broken[0].error is not None
        assert what in broken[0].error.message
        assert pixels(mended).std() > 5
        assert mended[1].flags == ("retried_fp32",)
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert {value.dtype for value in module.state_dict().values()} == {torch.bfloat16}


def test_steps_are_reported(generator: Family) -> None:
    for family, steps in (("sd15", 3), ("pixart", 3), ("flux", 3)):
        calls: list[int] = []
        made_by = generator(family)
        made_by.prepare(samples(1), SETTINGS)
        settings = SETTINGS.model_copy(update={"num_inference_steps": steps})
        made_by.generate(samples(1), settings, lambda calls=calls: calls.append(1))  # type: ignore[misc]
        assert len(calls) == steps + 2  # before the first, after each, after decoding


def test_memory_errors_are_translated(generator: Family) -> None:
    made_by = generator("sd15")
    errors = (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
    )
    for error in errors:
        with hooked(pipe_of(made_by).unet, _raiser(error)), pytest.raises(DeviceMemoryError):
            generate(made_by, samples(2))
    assert len(pixels(generate(made_by, samples(2)))) == 2


def test_a_real_allocation_that_fails_is_a_memory_error(generator: Family) -> None:
    def allocate(*_: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    with hooked(pipe_of(generator("sd15")).unet, allocate), pytest.raises(DeviceMemoryError, match="allocate"):
        generate(generator("sd15"), samples(1))


def test_a_lost_device_is_told_apart(generator: Family) -> None:
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")
    with (
        hooked(pipe_of(generator("sd15")).unet, _raiser(error)),
        pytest.raises(DeviceLostError, match="illegal memory"),
    ):
        generate(generator("sd15"), samples(1))


def test_other_errors_name_the_sample_only_when_it_is_alone(generator: Family) -> None:
    made_by = generator("sd15")
    with hooked(pipe_of(made_by).unet, _raiser(ValueError("odd"))):
        with pytest.raises(SampleError, match="generation: ValueError: odd"):
            generate(made_by, samples(1))
        with pytest.raises(WorkerError) as raised:
            generate(made_by, samples(2))
    assert not isinstance(raised.value, SampleError)


def test_a_prompt_that_cannot_be_encoded_costs_only_itself(generator: Family) -> None:
    asked = [sample(0), sample(1, "a lone surrogate \ud800"), sample(2, "a star")]
    answers = generate(generator("sd15"), asked)
    assert [answer.error.kind if answer.error else None for answer in answers] == [None, "generation", None]
    assert answers[0].pixels is not None
    assert answers[2].pixels is not None


def test_errors_of_the_engine_pass_through(generator: Family) -> None:
    class StoppedError(WorkerError):
        pass

    def stop() -> None:
        raise StoppedError("stop")

    made_by = generator("sd15")
    with pytest.raises(StoppedError):
        made_by.generate(samples(1), SETTINGS, stop)
    assert type(pipe_of(made_by).scheduler).__name__ == "DDIMScheduler"


def test_size_follows_the_settings_and_else_the_model(generator: Family) -> None:
    made_by = generator("sd15")
    own = SETTINGS.model_copy(update={"width": None, "height": None})
    assert pixels(generate(made_by, samples(1), own)).shape == (1, 64, 64, 3)
    wide = SETTINGS.model_copy(update={"width": 96, "height": 32})
    assert pixels(generate(made_by, samples(1), wide)).shape == (1, 32, 96, 3)


def test_safety_checker_flags(folder: Callable[[str], Path], tmp_path: Path) -> None:
    from promptmill.pipeline.models.catalog.resolve import resolve_model
    from promptmill.schemas.generation import Model

    checked = tiny.build_sd15(tmp_path, **tiny.safety_parts())
    made_by = DiffusersGenerator(resolve_model(Model(path=str(checked)), "model"), "cpu")
    answers = generate(made_by, samples(2))
    assert [answer.flags for answer in answers] == [("nsfw",), ("nsfw",)]
    assert answers[0].pixels is not None
    assert answers[0].error is None


def _raiser(error: Exception) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        raise error

    return hook
