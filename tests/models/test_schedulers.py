"""Scheduler names: what is accepted runs, what cannot run is refused before any GPU is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest

from promptmill.pipeline.models.catalog import schedulers
from promptmill.pipeline.models.catalog.diffusers_source import scheduler_modules
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.schedulers import SHORT_NAMES, check_scheduler, fitting_schedulers
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.diffusion.scheduler import build_scheduler
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from promptmill.schemas.resolved import ResolvedModel
from tests.models.test_generator import SETTINGS, generate, pixels, samples

Family = Callable[[str], DiffusersGenerator]
WHERE = "job.yaml:12: generation.scheduler"


@pytest.fixture(scope="session")
def resolved(folder: Callable[[str], Path]) -> Callable[[str], ResolvedModel]:
    return lambda family: resolve_model(Model(path=str(folder(family))), "model")


NOISE_NAMES = [name for name, (kind, _) in SHORT_NAMES.items() if kind in schedulers.FOR_NOISE]


@pytest.mark.parametrize("name", [*NOISE_NAMES, "DDIMParallelScheduler", "DDPMParallelScheduler"])
def test_every_scheduler_for_noise_runs(name: str, generator: Family, resolved: Callable[[str], ResolvedModel]) -> None:
    settings = SETTINGS.model_copy(update={"scheduler": name, "num_inference_steps": 3})
    made_by = generator("sd15")
    class_name = check_scheduler(name, resolved("sd15"), WHERE)
    assert made_by.scheduler_name(settings) == class_name
    first = pixels(generate(made_by, samples(2), settings))
    assert first.std() > 5
    assert (first == pixels(generate(made_by, samples(2), settings))).all()


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("name", sorted(schedulers.FOR_FLOW | schedulers.FOR_BOTH))
def test_every_scheduler_let_through_for_a_flow_runs(
    name: str, family: str, generator: Family, resolved: Callable[[str], ResolvedModel]
) -> None:
    model = resolved(family)
    settings = SETTINGS.model_copy(update={"scheduler": name, "num_inference_steps": 3})
    if name not in fitting_schedulers(model):
        with pytest.raises(JobError, match="flow matching"):
            check_scheduler(name, model, WHERE)
        return
    assert check_scheduler(name, model, WHERE) == name
    assert pixels(generate(generator(family), samples(2), settings)).std() > 5


def test_flow_schedulers_reach_the_end_of_the_flow(generator: Family) -> None:
    """Not only a run without error: with many steps all arrive at what the pipeline's own scheduler finds."""
    many = SETTINGS.model_copy(update={"num_inference_steps": 40, "guidance_scale": 1.0})
    own = pixels(generate(generator("sd3"), samples(1), many))
    for name in ("unipc", "dpm++", "flow_heun"):
        other = pixels(generate(generator("sd3"), samples(1), many.model_copy(update={"scheduler": name})))
        assert abs(other - own).mean() < 4, name


def test_noise_schedulers_agree_on_the_image(generator: Family) -> None:
    many = SETTINGS.model_copy(update={"num_inference_steps": 30, "guidance_scale": 1.0})
    own = pixels(generate(generator("sd15"), samples(1), many))
    for name in ("dpm++", "euler", "heun", "unipc"):
        other = pixels(generate(generator("sd15"), samples(1), many.model_copy(update={"scheduler": name})))
        assert abs(other - own).mean() < 4, name


def test_null_is_the_pipelines_own(generator: Family, resolved: Callable[[str], ResolvedModel]) -> None:
    assert check_scheduler(None, resolved("sdxl"), WHERE) == "EulerDiscreteScheduler"
    assert generator("sdxl").scheduler_name(SETTINGS) == "EulerDiscreteScheduler"


@pytest.mark.parametrize("name", ["DPM++", "dpm++ 2m", "dpmsolver++", "DPMSolverMultistepScheduler", "dpm++-2m"])
def test_spellings(name: str, resolved: Callable[[str], ResolvedModel]) -> None:
    assert check_scheduler(name, resolved("sd15"), WHERE) == "DPMSolverMultistepScheduler"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("eular", "Did you mean euler"),
        ("DDIMSchedular", "DDIMScheduler"),
        ("unipcc", "unipc"),
        ("qqqq", "Short names:"),
    ],
)
def test_unknown_names_are_refused_with_a_hint(name: str, hint: str, resolved: Callable[[str], ResolvedModel]) -> None:
    with pytest.raises(JobError) as raised:
        check_scheduler(name, resolved("sd15"), WHERE)
    assert hint in str(raised.value)
    assert WHERE in str(raised.value)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize(
    ("family", "name"),
    [("sd3", "ddim"), ("flux", "euler"), ("sd15", "flow_euler"), ("pixart", "FlowMatchHeunDiscreteScheduler")],
)
def test_flow_and_noise_are_not_mixed(family: str, name: str, resolved: Callable[[str], ResolvedModel]) -> None:
    with pytest.raises(JobError, match="These fit: "):
        check_scheduler(name, resolved(family), WHERE)


def test_schedulers_of_other_trades_are_refused(resolved: Callable[[str], ResolvedModel]) -> None:
    for name in ("VQDiffusionScheduler", "DPMSolverSDEScheduler", "RePaintScheduler"):
        with pytest.raises(JobError):
            check_scheduler(name, resolved("sd15"), WHERE)


def test_a_models_own_scheduler_is_always_allowed(resolved: Callable[[str], ResolvedModel]) -> None:
    odd = replace(resolved("sd15"), scheduler="SCMScheduler")
    assert check_scheduler("SCMScheduler", odd, WHERE) == "SCMScheduler"


def test_names_read_from_source_are_those_of_diffusers() -> None:
    for name in schedulers.FOR_NOISE | schedulers.FOR_FLOW | schedulers.FOR_BOTH:
        assert hasattr(diffusers, name)
        assert name in scheduler_modules()


def test_settings_of_the_pipelines_own_scheduler_are_kept() -> None:
    own = diffusers.EulerDiscreteScheduler(
        beta_start=0.001,
        beta_end=0.02,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        use_karras_sigmas=True,
    )
    other = build_scheduler(own, "dpm++", lambda: None)
    assert other.config.prediction_type == "v_prediction"
    assert other.config.beta_end == 0.02
    assert other.config.timestep_spacing == "trailing"
    assert not other.config.use_karras_sigmas
    assert build_scheduler(own, None, lambda: None).config.use_karras_sigmas
    assert build_scheduler(own, "dpm++_sde", lambda: None).config.algorithm_type == "sde-dpmsolver++"
