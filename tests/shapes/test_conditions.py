"""Styles, edge maps and what learns them: exact to look at, and trainings that go on where they stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from promptmill.pipeline.models.catalog.adapters import resolve_adapter
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.shapes.edits import keeps_place, sample_edits
from promptmill.pipeline.shapes.render import render
from promptmill.pipeline.shapes.styles import edge_maps, fill_holes, is_hollow, is_wide, overlap, render_styled
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import Scene, sample_scene
from promptmill.pipeline.training.shapes.evaluate_conditions import control
from promptmill.pipeline.training.shapes.evaluate_edits import Drawer
from promptmill.pipeline.training.shapes.settings import GUIDANCE
from promptmill.pipeline.training.shapes.train_conditions import main
from promptmill.schemas.additions import Adapter
from promptmill.schemas.generation import Generation, Model


def scenes(n: int = 60) -> list[Scene]:
    """Of one figure that the styles change: neither a cross nor a ring."""
    rng = np.random.default_rng(0)
    found = (sample_scene(rng, "held_out", 1) for _ in range(4 * n))
    return [scene for scene in found if scene.objects[0].shape not in ("cross", "ring")][:n]


@pytest.mark.parametrize("styles", [(), ("hollow",), ("wide",), ("hollow", "wide")])
def test_a_style_is_seen_and_every_other_claim_stays(styles: tuple[str, ...]) -> None:
    for image, scene in zip(render_styled(scenes(), styles), scenes(), strict=True):
        assert is_hollow(image) == ("hollow" in styles)
        assert is_wide(image) == ("wide" in styles)
        assert verify(fill_holes(image), scene).correct


def test_an_edge_map_is_a_line_around_the_figure() -> None:
    (scene,) = scenes(1)
    (lines,) = edge_maps([scene])
    figure = np.abs(render(scene).astype(int) - render(scene)[0, 0]).max(2) > 0
    assert lines.shape == (64, 64, 3) and lines.max() == 255
    assert 0.02 < (lines[..., 0] > 128).mean() < 0.15
    assert lines[..., 0][~np.pad(figure, 2, mode="edge")[2:-2, 2:-2]].mean() < 10
    assert overlap(render(scene), scene) == 1.0


@pytest.mark.parametrize("figures", [1, 2])
def test_an_edit_asks_for_what_the_image_does_not_show(figures: int) -> None:
    for edit in sample_edits(20, 1, figures):
        assert not verify(edit.image, edit.claims).correct
        assert verify(edit.image, edit.caption).claims.keys() >= {"colour 1" if figures == 2 else "colour"}
        changed = (render(edit.scene) != edit.image).any()
        assert not changed
        if figures == 1:
            assert verify(edit.image, keeps_place(edit.scene)).correct
            assert (edit.mask > 0).any()


def test_what_is_shipped_steers_the_built_in_model() -> None:
    base = resolve_model(Model(), "model")
    drawer = Drawer(DiffusersGenerator(base, "cpu"), Generation(guidance_scale=GUIDANCE))
    rows = control(drawer, "builtin:edges", 4, 1, scales=(1.0,))
    assert rows["1"]["overlap"] > 0.6
    for style in ("hollow", "wide"):
        adapter = Adapter(name=style, path=f"builtin:{style}")
        drawer.generator.use([resolve_adapter(adapter, base, style)])


@pytest.mark.slow
def test_a_stopped_training_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptmill.pipeline.training.shapes.lora.measure", lambda *_: {})
    common = ["--stage", "hollow", "--steps", "2", "--cached", "16", "--threads", "1"]
    main([*common, "--out", str(tmp_path / "whole")])
    main([*common, "--out", str(tmp_path / "parts"), "--stop-at", "1"])
    main([*common, "--out", str(tmp_path / "parts")])
    states = [torch.load(tmp_path / name / "hollow.checkpoint.pt")["module"] for name in ("whole", "parts")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    adapter = Adapter(name="h", path=str(tmp_path / "whole" / "hollow.safetensors"))
    assert resolve_adapter(adapter, resolve_model(Model(), "model"), "model").modules > 20
