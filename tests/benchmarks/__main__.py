"""`python -m tests.benchmarks`: Promptmill beside what else one could use, in one run on the built-in model."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tests.benchmarks.compare import VARIANTS, Goal, compare, comparison_goals, comparison_table, goals_table
from tests.benchmarks.measure import end_children_when_ended
from tests.benchmarks.photos import measure_photos, photos_table
from tests.benchmarks.scale import measure_plan, measure_resume, scale_goals, scale_table
from tests.benchmarks.setting import Setting
from tests.benchmarks.sleep import measure_sleep, sleep_goal
from tests.benchmarks.task import built_in, machine, write_prompts

PARTS: Final = (*VARIANTS, "photos", "sleep", "plan", "resume")
SLEEP_BATCH: Final = 8


def main() -> int:
    end_children_when_ended()
    options = parse()
    console = Console(width=120 if not os.isatty(1) else None)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        found, goals = measure(options, Path(name), console)
    console.print(goals_table(goals))
    if options.json:
        found["goals"] = [{**asdict(goal), "state": goal.state} for goal in goals]
        Path(options.json).write_text(json.dumps(found, indent=2, default=vars))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="images of 64×64 for each variant (256)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (20)")
    parser.add_argument("--batch", type=int, default=16, help="images in one batch (16)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant, of which the median counts (3)")
    parser.add_argument("--sleep-images", type=int, default=1024, help="images of the sleeping generator (1,024)")
    parser.add_argument("--photos", type=int, default=64, help="photos of 12 megapixels that are drawn over (64)")
    parser.add_argument("--prompts", type=int, default=10_000_000, help="prompts of the large plan (10,000,000)")
    parser.add_argument("--finished", type=int, default=10_000, help="shards that the resume finds (10,000)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="that all variants run on")
    parser.add_argument("--all-cores", dest="core", action="store_const", const=None, help="pin nothing, for a trial")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", metavar="FILE", help="write every measurement there")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path, console: Console) -> tuple[dict[str, Any], list[Goal]]:
    setting = built_in(folder, options.images, options.steps, options.batch, options.core)
    found: dict[str, Any] = {"machine": machine(), "options": vars(options)}
    goals: list[Goal] = []
    variants = [variant for variant in VARIANTS if variant in options.only]
    if variants:
        comparison = compare(setting, variants, options.rounds, console.print)
        caption = (
            f"{options.images} images of 64×64, {options.steps} steps, batches of {options.batch}; each variant with "
            f"all its processes on {'all cores' if options.core is None else 'one core'} of {machine()}; "
            f"medians of {options.rounds}"
        )
        console.print(comparison_table(comparison, caption))
        found["variants"], goals = comparison.as_json(), comparison_goals(comparison)
    if "photos" in options.only:
        photos = measure_photos(setting, folder, options.photos, options.rounds, console.print)
        console.print(photos_table(photos, options.photos))
        found["photos"] = {"rates": photos.rates.as_json(), "large": photos.most.as_json()}
        goals += photos.goals()
    if "sleep" in options.only:
        asleep = measure_sleep(sleeping(setting, options.sleep_images, folder))
        console.print(
            f"A generator that sleeps 0.1 s an image, {asleep.images} images of noise at 512×512: "
            f"{asleep.share:.1%} of {asleep.seconds:.1f} s asleep, one core {asleep.processor_share:.0%} at work"
        )
        found["sleep"] = asdict(asleep)
        goals.append(sleep_goal(asleep))
    commands = []
    for part, size in (("plan", options.prompts), ("resume", options.finished)):
        if part in options.only:
            (folder / part).mkdir()
            commands += (measure_plan if part == "plan" else measure_resume)(setting, folder / part, size)
    if commands:
        console.print(scale_table(commands))
        found["commands"] = commands
        goals += scale_goals(commands)
    return found, goals


def sleeping(setting: Setting, images: int, folder: Path) -> Setting:
    source = write_prompts(folder / "sleep-prompts.parquet", images)
    return replace(setting, source=source, images=images, batch=SLEEP_BATCH)


if __name__ == "__main__":
    raise SystemExit(main())
