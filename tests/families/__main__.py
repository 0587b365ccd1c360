"""`python -m tests.families [CLASS …]` holds tiny pipelines to every promise and writes down what came of it.

Without names all that have a builder. `results.json` keeps what was found, and the table in the README of the models'
room is made of it; a class that nobody has tried is a row that says so.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import monotonic

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.families import MIXES_PROMPTS
from promptmill.pipeline.models.catalog.tasks import class_for
from tests.families.builders import BUILDERS, OLDER
from tests.families.trial import try_family

RESULTS = Path(__file__).with_name("results.json")
README = Path(__file__).parents[2] / "pipeline" / "models" / "README.md"
BEGIN, END = "<!-- families: made by `make families` -->", "<!-- /families -->"
PROCESSES = min(2, os.cpu_count() or 1)
Results = dict[str, dict[str, str]]


def table(results: Results) -> str:
    rows = [
        "| class | promises | a batch | text | image | inpaint | control | adapters | guidance | negative |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*rows, *(_row(name, results.get(name, {})) for name in sorted({*offered(), *results}))])


def offered() -> list[str]:
    """Classes that validation lets in by what they are."""
    return [name for name in diffusers_source.pipeline_modules() if diffusers_source.makes_images_from_text(name)]


def _row(row: str, found: dict[str, str]) -> str:
    name, _, kind = row.partition(" ")
    broken = [f"{promise.replace('_', ' ')}: {text}" for promise, text in found.items() if text != "kept"]
    kept = "not tried" if not found else f"all {len(found)}" if not broken else "; ".join(broken).replace("|", "/")
    call = diffusers_source.call_parameters(name)
    cells = [
        f"{name.removesuffix('Pipeline')}{kind and f', {kind}'}",
        kept,
        "together" if name in MIXES_PROMPTS else "one a call",
        "yes",
        _yes(class_for("image-to-image", name)),
        _yes(class_for("inpainting", name)),
        _yes(class_for("text-to-image", name, "controlnet")),
        _yes(diffusers_source.has_loader(name, "Lora")),
        _yes(call & {"guidance_scale", "true_cfg_scale", "distilled_guidance_scale"}),
        _yes("negative_prompt" in call, "ignored, flagged"),
    ]
    return f"| {' | '.join(cells)} |"


def _yes(is_so: object, otherwise: str = "–") -> str:
    return "yes" if is_so else otherwise


def refused() -> Results:
    """Classes that need what is not installed here, and are refused before anything is loaded."""
    missing = {name: diffusers_source.missing_package(name) for name in offered()}
    return {name: {"refused": f"needs the package {package}"} for name, package in missing.items() if package}


def read_results() -> Results:
    found: Results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    return found


def _write(results: Results) -> None:
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1, ensure_ascii=False) + "\n")


def write_readme(results: Results) -> None:
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}")


def main(names: list[str]) -> None:
    results, started = read_results(), monotonic()
    asked = names or sorted({*BUILDERS, *OLDER})
    # Tiny models do not fill two cores from one process; torch does not survive a fork.
    with tempfile.TemporaryDirectory() as root, ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        for name, found in zip(asked, pool.map(partial(try_family, root=Path(root)), asked), strict=True):
            results |= {name: found}
            _write(results)
    print(f"{len(asked)} rows in {monotonic() - started:.0f} s", flush=True)
    results |= refused()
    _write(results)
    write_readme(results)
    if any(text != "kept" for found in results.values() for key, text in found.items() if key != "refused"):
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
