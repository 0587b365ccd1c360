"""Folders as the scorers of GenEval and DPG-Bench read them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.jobs.doctor import doctor
from promptmill.jobs.export import export
from promptmill.jobs.schema import results_schema
from promptmill.jobs.select import select
from promptmill.pipeline.export import layouts
from promptmill.pipeline.export.registry import LAYOUTS, layout_of
from promptmill.schemas.errors import JobError
from tests.report.conftest import Dataset, paint

SUITE: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a red circle"},
    {
        "tag": "position",
        "include": [{"class": "cow", "count": 1}, {"class": "dog", "count": 1, "position": ["above", 0]}],
        "prompt": "a red circle above a blue square",
    },
]


@pytest.fixture(scope="module")
def suite(claimed: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four images of each of two prompts at two guidance scales, in WebP, from a JSONL file as GenEval's."""
    source = tmp_path_factory.mktemp("suite") / "geneval.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in SUITE))
    return paint(
        claimed(
            prompts_section={"source": str(source)},
            sweep={"guidance_scale": [1.0, 5.0]},
            generation={"images_per_prompt": 4, "batch_size": 8},
            select=None,
            output={"image_format": "webp"},
        )
    )


def test_geneval(suite: Dataset, tmp_path: Path) -> None:
    found = export(str(suite.folder), "geneval", str(tmp_path / "out"))
    assert (found.images, found.prompts) == (16, 2)
    for cell in ("guidance_scale=1.0", "guidance_scale=5.0"):
        for number, row in enumerate(SUITE):
            folder = tmp_path / "out" / cell / f"{number:05d}"
            metadata = json.loads((folder / "metadata.jsonl").read_text())
            assert metadata["prompt"] == row["prompt"] and metadata["tag"] == row["tag"]
            assert metadata["include"] == row["include"]
            assert sorted(path.name for path in (folder / "samples").iterdir()) == [f"{i:04d}.png" for i in range(4)]
            with Image.open(folder / "samples/0000.png") as image:
                assert image.format == "PNG"


def test_dpg(suite: Dataset, tmp_path: Path) -> None:
    export(str(suite.folder), "dpg", str(tmp_path / "out"))
    grids = sorted((tmp_path / "out/guidance_scale=5.0").iterdir())
    assert len(grids) == 2
    with Image.open(grids[0]) as sheet:
        assert sheet.size == (128, 128)
        corner = sheet.crop((64, 64, 128, 128)).tobytes()
    data = sorted((suite.folder / "data").iterdir())[-1]
    rows = pq.read_table(data).filter(pc.equal(pq.read_table(data)["prompt"], "a red circle")).to_pylist()
    with Image.open(io.BytesIO(rows[3]["image"]["bytes"])) as fourth:
        assert fourth.convert("RGB").tobytes() == corner


def test_what_the_layout_lacks(painted: Dataset, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="`include`"):
        export(str(painted.folder), "geneval", str(tmp_path))
    with pytest.raises(JobError, match="4 images"):
        export(str(painted.folder), "dpg", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_layout_is_one_file(suite: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flat.py").write_text(
        "from promptmill.pipeline.export.trees import Tree, as_png\n"
        "def fill(samples, places, folders):\n"
        "    names = {place: f'{i}' for i, place in enumerate(places)}\n"
        "    keys = {p: (lambda n, at=name: [f'{at}-{i}.png' for i in range(n)]) for p, name in names.items()}\n"
        "    return Tree(keys, lambda place, group: (as_png(data) for _, data in group))\n"
    )
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path)])
    made = export(str(suite.folder), "flat", str(tmp_path / "out"))
    assert (made.images, len(list((tmp_path / "out").glob("?-?.png")))) == (16, 16)
    assert {name for name in LAYOUTS if hasattr(layout_of(name), "fill")} == {"dpg", "geneval"}


def test_answers_keep_to_their_published_schema(suite: Dataset, tmp_path: Path) -> None:
    schema = json.loads(results_schema())
    answers = {
        "export": export(str(suite.folder), "dpg", str(tmp_path / "out")),
        "select": select(str(suite.folder), 1, ["clip"], [], "best"),
        "doctor": doctor(str(tmp_path / "new")),
    }
    for command, answer in answers.items():
        part = {"$defs": schema["$defs"], **schema["properties"][command]}
        jsonschema.validate(json.loads(json.dumps(answer.as_json())), part)
    assert "storage" not in doctor(None).as_json()
