"""Measure what steers the built-in model: `python -m promptmill.pipeline.training.shapes.evaluate_conditions`.

The ControlNet is given outlines of held-out scenes and prompts that name a colour alone; the LoRA styles draw held-out
prompts, each alone and both at once. All through the worker's own generator; the verifier sees pixels alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from promptmill.pipeline.models.catalog.adapters import resolve_adapter
from promptmill.pipeline.models.catalog.controls import resolve_control
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.shapes.edits import sample_cases
from promptmill.pipeline.shapes.styles import STYLES, overlap, render_styled
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.training.shapes.conditioned import shipped_parts
from promptmill.pipeline.training.shapes.evaluate_edits import Drawer, Images, share
from promptmill.pipeline.training.shapes.lora import held_out, judge
from promptmill.pipeline.training.shapes.settings import GUIDANCE, STEPS
from promptmill.pipeline.training.shapes.vae import round_trip, to_tensor, to_uint8
from promptmill.schemas.additions import Adapter, ControlNet
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.inputs import CONTROL, Input
from promptmill.schemas.plan import Sample

SCALES = (0.0, 0.5, 0.75, 1.0)
WEIGHTS = (0.5, 0.75, 1.0, 1.25)
BOTH = 0.75
"""Weight of each style where both act."""


def control(
    drawer: Drawer, net: str, cases: int, seed: int, scales: Sequence[float] = SCALES
) -> dict[str, dict[str, float]]:
    """For each scale: the median overlap with the figure of the map, and the share right in all that is asked for."""
    base = resolve_model(Model(), "model")
    resolved = resolve_control(ControlNet(name="edges", path=net), base, "text-to-image", False, "net")
    drawer.generator.use([], [resolved])
    asked = list(sample_cases(cases, seed))
    samples = [
        Sample(f"s{i}", "", i, 0, i, case.prompt, "", "", {CONTROL: Input("", pixels=case.edges)})
        for i, case in enumerate(asked)
    ]
    rows = {}
    for scale in scales:
        at = replace(drawer, generation=drawer.generation.model_copy(update={"control_scale": scale}))
        images = at.draw_samples(samples)
        overlaps = [overlap(image, case.scene) for image, case in zip(images, asked, strict=True)]
        right = [verify(image, case.claims).correct for image, case in zip(images, asked, strict=True)]
        rows[f"{scale:g}"] = {"overlap": round(float(np.median(overlaps)), 4), "right": share(right)}
    drawer.generator.use([], [])
    return rows


def styles(
    drawer: Drawer, files: dict[str, str], cases: int, seed: int, weights: Sequence[float] = WEIGHTS
) -> dict[str, dict[str, float]]:
    """For each adapter and weight, for both at once, without and for rendered scenes through the autoencoder: the share
    in each style, and the share right in every other claim once holes are filled."""
    base, prompts = resolve_model(Model(), "model"), held_out(cases, seed=seed)
    samples = [Sample(f"s{i}", "", i, 0, i, p.caption, "", p.caption) for i, p in enumerate(prompts)]
    sets = {f"{style} {weight:g}": {style: weight} for style in STYLES for weight in weights}
    sets = {"none": {}, **sets, f"both {BOTH:g}": dict.fromkeys(STYLES, BOTH)}
    rows = {}
    for title, chosen in sets.items():
        adapters = [Adapter(name=name, path=files[name], weight=weight) for name, weight in chosen.items()]
        drawer.generator.use([resolve_adapter(each, base, each.name) for each in adapters])
        rows[title] = judge(drawer.draw_samples(samples), prompts, list(STYLES))
    drawer.generator.use([])
    for wanted in (["hollow"], ["wide"], list(STYLES)):
        seen = _through_the_autoencoder(render_styled([p.scene for p in prompts], wanted))
        rows[f"ceiling {' and '.join(wanted)}"] = judge(seen, prompts, list(STYLES))
    return rows


@torch.no_grad()
def _through_the_autoencoder(images: np.ndarray) -> Images:
    vae, _, _ = shipped_parts(torch.device("cpu"))
    parts = [to_uint8(round_trip(vae, to_tensor(images[i : i + 64]))) for i in range(0, len(images), 64)]
    return list(np.concatenate(parts))


def main(arguments: Sequence[str] | None = None) -> None:
    module = "promptmill.pipeline.training.shapes.evaluate_conditions"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--controlnet", default="builtin:edges", help="folder of another ControlNet")
    parser.add_argument("--hollow", default="builtin:hollow", help="another LoRA file")
    parser.add_argument("--wide", default="builtin:wide", help="another LoRA file")
    parser.add_argument("--only", choices=["controlnet", "styles"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    generation = Generation(num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    drawer = Drawer(DiffusersGenerator(resolve_model(Model(), "model"), "cpu"), generation)
    found: dict[str, dict[str, dict[str, float]]] = {}
    if options.only != "styles":
        found["controlnet"] = control(drawer, options.controlnet, options.cases, options.seed)
    if options.only != "controlnet":
        files = {"hollow": options.hollow, "wide": options.wide}
        found["styles"] = styles(drawer, files, options.cases, options.seed)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for title, rows in found.items():
        names = list(next(iter(rows.values())))
        table = Table("", *names, title=f"{title}, {options.cases} held-out cases")
        for name, row in rows.items():
            table.add_row(name, *(f"{row[key]:.1%}" for key in names))
        Console().print(table)


if __name__ == "__main__":
    main()
