"""The training command on a few steps: it learns, and an interrupted run ends where an uninterrupted one does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from promptmill.pipeline.shapes.captions import claims_of_scene, flip
from promptmill.pipeline.shapes.render import render
from promptmill.pipeline.shapes.verify import see
from promptmill.pipeline.shapes.world import Claims, Object, ObjectClaim, Scene, sample_scene
from promptmill.pipeline.training.loop import Stage, StepRandom, draw
from promptmill.pipeline.training.schedule import Schedule
from promptmill.pipeline.training.shapes import clip, text
from promptmill.pipeline.training.shapes.drawn import UNCLEAR, matches, seen_labels
from promptmill.pipeline.training.shapes.settings import DrawnSettings, Settings, VaeSettings
from promptmill.pipeline.training.shapes.train import main
from promptmill.pipeline.training.shapes.vae import build, standardise, train

PLAN = Schedule(steps=8, batch=4, rate=1e-2, warmup=2, ema=0.9)


def run_line(folder: Path, stop_at: int | None, plan: Schedule = PLAN) -> dict[str, Tensor]:
    """Fit a line with the shared loop; the weights that it ends with, averaged ones included."""
    torch.manual_seed(0)
    stage = Stage("text", nn.Linear(3, 1), plan, 7, folder, torch.device("cpu"), stop_at)
    stage.restore()

    def losses(now: StepRandom) -> dict[str, Tensor]:
        x = torch.randn(plan.batch, 3, generator=now.torch)
        return {"loss": functional.mse_loss(stage.module(x), x.sum(1, keepdim=True))}

    stage.run(losses, log_every=2, save_every=3)
    return {**stage.module.state_dict(), **{f"average.{k}": v for k, v in stage.average.state_dict().items()}}


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    whole = run_line(tmp_path / "whole", None)
    run_line(tmp_path / "parts", stop_at)
    parts = run_line(tmp_path / "parts", None)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_the_log_holds_one_json_object_a_line(tmp_path: Path) -> None:
    run_line(tmp_path, None)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4, 6, 8]
    assert {"stage", "step", "loss", "seconds_per_step"} <= set(rows[0])


def test_batches_depend_on_seed_stage_step_and_process() -> None:
    same, again = draw(0, "vae", 3), draw(0, "vae", 3)
    assert same.numpy.random() == again.numpy.random()
    assert torch.equal(torch.rand(2, generator=same.torch), torch.rand(2, generator=again.torch))
    numbers = {draw(*w).numpy.random() for w in ((0, "vae", 3), (1, "vae", 3), (0, "unet", 3), (0, "vae", 4))}
    assert len(numbers | {draw(0, "vae", 3, rank=1).numpy.random()}) == 5


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    plan = Schedule(steps=100, batch=1, rate=1.0, warmup=10, decay=0.2)
    rates = [plan.rate_at(s) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == 1.0
    assert 0 < rates[99] < 0.06
    assert np.diff(rates[80:]).max() < 0


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch": 0}, {"decay": 1.5}, {"ema": 1.0}])
def test_plans_that_cannot_be_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        replace(PLAN, **change)  # type: ignore[arg-type]


@pytest.mark.slow
def test_all_stages_run_from_the_command_line_resume_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import StableDiffusionPipeline

    tiny = Settings()
    tiny = replace(
        tiny,
        vae=replace(tiny.vae, channels=(8, 8, 8, 8), plan=replace(tiny.vae.plan, batch=8)),
        unet=replace(tiny.unet, channels=(16, 32), cached=16, plan=replace(tiny.unet.plan, batch=4)),
        clip=replace(tiny.clip, drawn=DrawnSettings(count=12, batch=4), plan=replace(tiny.clip.plan, batch=4)),
    )
    monkeypatch.setattr("promptmill.pipeline.training.shapes.train.Settings", lambda: tiny)
    monkeypatch.setattr("promptmill.pipeline.training.shapes.vae.measure", lambda *_: {})
    monkeypatch.setattr("promptmill.pipeline.training.shapes.unet.measure", lambda *_: {})
    for stage in ("vae", "text", "unet", "decoder", "clip"):
        common = ["--stage", stage, "--steps", "4", "--threads", "1"]
        main([*common, "--out", str(tmp_path / "whole")])
        main([*common, "--out", str(tmp_path / "parts"), "--stop-at", "2"])
        main([*common, "--out", str(tmp_path / "parts")])
        states = [torch.load(tmp_path / f / f"{stage}.checkpoint.pt")["module"] for f in ("whole", "parts")]
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0]), stage
    main(["--stage", "export", "--out", str(tmp_path / "whole")])
    further = ["--out", str(tmp_path / "further"), "--start-from", str(tmp_path / "whole" / "weights")]
    main([*further, "--stage", "unet", "--steps", "1", "--rate", "1e-6", "--threads", "1"])
    before, after = (
        load_file(tmp_path / folder / "diffusion_pytorch_model.safetensors")
        for folder in ("whole/unet", "further/unet")
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "whole" / "weights" / "model", use_safetensors=True)
    assert pipeline("a red circle", num_inference_steps=1).images[0].size == (64, 64)


def test_the_vae_learns_and_standardised_latents_decode_alike(tmp_path: Path) -> None:
    settings = replace(VaeSettings(), channels=(8, 8, 8, 8), plan=Schedule(steps=2, batch=8, rate=1e-3, ema=0.5))
    stage = Stage("vae", build(settings), settings.plan, 0, tmp_path, torch.device("cpu"))
    model = train(stage, settings)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.decode(model.encode(image).latent_dist.mean).sample
        deviation = model.encode(image).latent_dist.std / model.encode(image).latent_dist.mean.std()
        standardise(model, torch.device("cpu"), 64)
        after = model.decode(model.encode(image).latent_dist.mean).sample
        assert (
            model.encode(image).latent_dist.std / model.encode(image).latent_dist.mean.std()
        ).shape == deviation.shape
    assert torch.allclose(before, after, atol=1e-4)


def test_labels_put_the_left_or_upper_object_first() -> None:
    pair = Claims((ObjectClaim("red", "ring"), ObjectClaim("blue", "cross")), "right of", "gray")
    assert text.labels(pair) == text.labels(flip(pair))
    assert text.labels(None) == [0] * len(text.ATTRIBUTES)


def test_what_is_seen_has_the_labels_of_what_was_rendered() -> None:
    rng = np.random.default_rng(1)
    for count in (1, 2):
        for scene in [sample_scene(rng, "train", count) for _ in range(30)]:
            assert seen_labels(see(render(scene))) == text.labels(claims_of_scene(scene))
    three = Scene("black", tuple(Object("red", "circle", x, 32.0, 7.0) for x in (10.0, 32.0, 54.0)))
    assert set(seen_labels(see(render(three)))) == {UNCLEAR}
    said = Claims((ObjectClaim("red", "circle"),), ground="black")
    assert not matches(said, seen_labels(see(render(three))))
    assert matches(said, seen_labels(see(render(replace(three, objects=three.objects[:1])))))


def test_in_batch_captions_that_happen_to_be_true_are_no_negatives() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, "train", 1 + i % 2) for i in range(40)]
    truths = np.array([text.labels(claims_of_scene(s)) for s in scenes])
    assert clip.holds(truths, truths).diagonal().all()
    vague = Claims((ObjectClaim(colour="red"),))
    expected = [len(s.objects) == 1 and s.objects[0].colour == "red" for s in scenes]
    assert clip.holds(np.array([text.labels(vague)]), truths)[:, 0].tolist() == expected
    a, b = scenes[1].objects
    either = Claims((ObjectClaim(b.colour, b.shape), ObjectClaim(a.colour, a.shape)))
    assert clip.holds(np.array([text.labels(either)]), truths)[1, 0]
