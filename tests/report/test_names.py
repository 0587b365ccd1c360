"""Columns of the source that carry names or shapes of ours: whatever `validate` lets in, every reader can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.jobs.compare import compare
from promptmill.jobs.export import export
from promptmill.jobs.report import report
from promptmill.jobs.score import score
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.dataset.samples import read_samples
from promptmill.pipeline.export.card import write_card
from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.worker.reproduce import _read_row, _sample, find_sample
from promptmill.schemas.errors import InputError, SampleError
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Counts, Sample
from tests.report.conftest import Dataset, paint
from tests.report.painter import Painter

PROMPTS = ["a red circle", "a blue square", "", "a green star"]
NAMES = [
    *(
        "status",
        "object",
        "row",
        "scores",
        "score:clip",
        "source:status",
        "reason",
        "error_kind",
        "message",
        "attempts",
    ),
    *("image", "image.bytes", "image.path", "variant", "room", "quota", "sample_id", "input_sample_id", "sample_id.x"),
    *("prompt.x", "scores.clip", "clip_score", "truth", "text", "item_id", "cell", "index", "name", "values", "run"),
    *("kept", "", "attempts", "__index_level_0__"),
]


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


def made_of(claimed: Callable[..., Dataset], folder: Path, rows: list[dict[str, Any]] | pa.Table) -> Dataset:
    source = folder / ("p.parquet" if isinstance(rows, pa.Table) else "p.jsonl")
    if isinstance(rows, pa.Table):
        pq.write_table(rows, source)
    else:
        source.write_text("\n".join(json.dumps(row) for row in rows))
    generation = {"images_per_prompt": 4, "batch_size": 8}
    parts = {"sweep": {}, "select": None, "output": {"images_per_shard": 8}}
    return paint(claimed(prompts_section={"source": str(source)}, generation=generation, **parts))


def read_by_all(dataset: Dataset, folder: Path) -> None:
    url = str(dataset.folder)
    assert report(url).problems == []
    write_card(dataset.plan, dataset.store, Counts(16, 12, 0, 4))
    assert compare(url, url, str(folder / "compare")).shared_prompts == 4
    assert score(url, ["image", "verified"]).images == 12
    assert export(url, "dpg", str(folder / "dpg")).images == 12
    first = read_samples(dataset.store).texts("sample_id")[0]
    assert _sample(_read_row(dataset.store, *find_sample(dataset.store, first))).sample_id == first


def test_names_of_ours(claimed: Callable[..., Dataset], tmp_path: Path) -> None:
    """A column `object` ended report, compare, export and score in "Can't unify schema with duplicate field names"."""
    rows = [{"prompt": prompt, **dict.fromkeys(NAMES, f"x{i % 2}")} for i, prompt in enumerate(PROMPTS)]
    dataset = made_of(claimed, tmp_path, rows)
    read_by_all(dataset, tmp_path)
    samples = read_samples(dataset.store)
    assert {"status", "object", "row", "score:clip", "source:status"} <= set(samples.source_columns)
    assert set(samples.texts("status")) == {"kept", "failed"} and set(samples.texts("source:status")) == {"x0", "x1"}
    assert "input_sample_id" in samples.source_columns and samples.score_names[0] == "clip"


@pytest.mark.parametrize(
    "shape",
    [
        {"meta": {"a": None, "b": [None], "c": [[None]], "d": {"e": None}}, "n": None},
        {"meta": nested(86, lambda value: {"a": value})},
        {"meta": nested(44, lambda value: [value])},
        {"a": {"b": 1}, "a.b": 2, "": 3},
    ],
    ids=["nulls", "objects", "lists", "dots"],
)
def test_shapes_that_are_let_in(claimed: Callable[..., Dataset], tmp_path: Path, shape: dict[str, Any]) -> None:
    """Nulls within objects stopped the run after its images were made."""
    read_by_all(made_of(claimed, tmp_path, [{"prompt": prompt, **shape} for prompt in PROMPTS]), tmp_path)


def test_nulls_in_parquet_and_a_name_twice_in_a_struct(claimed: Callable[..., Dataset], tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([1] * 4), pa.array([2] * 4)], names=["a", "a"])
    empty = pa.array([{"a": None}] * 4, pa.struct([("a", pa.null())]))
    lists = pa.array([[None]] * 4, pa.list_(pa.null()))
    table = pa.table({"prompt": PROMPTS, "empty": empty, "lists": lists, "null": pa.nulls(4), "twice": twice})
    read_by_all(made_of(claimed, tmp_path, table), tmp_path)


@pytest.mark.parametrize("levels", [120, 450, 900])
@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}], ids=["lists", "objects"])
def test_too_deep_is_refused_by_name(
    claimed: Callable[..., Dataset], tmp_path: Path, levels: int, wrap: Callable[[Any], Any]
) -> None:
    """They were let in, and the run ended in "Invalid flatbuffers message" or advised to copy the file again."""
    with pytest.raises(InputError, match="'meta'.*90 levels"):
        made_of(claimed, tmp_path, [{"prompt": "a red circle", "meta": nested(levels, wrap)}])


def test_a_column_of_the_name_that_retry_uses(
    claimed: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed for a moment is retried with its row as it was, whatever its columns are called."""
    extra = {"room": "kitchen", "quota": 5, "message": "m", "status": "old", "object": "o", "error_kind": "mine"}
    prompts = ["a red circle", "a blue square"]
    paint_one = Painter._paint

    def broken(self: Painter, sample: Sample, generation: Generation) -> Pixels:
        if sample.prompt == "a blue square" and sample.sample_index == 0:
            raise SampleError("generation", "a fault that lasts until the retry")
        return paint_one(self, sample, generation)

    monkeypatch.setattr(Painter, "_paint", broken)
    dataset = made_of(claimed, tmp_path, [{"prompt": prompt, **extra} for prompt in prompts])
    assert dataset.summary is not None and dataset.summary.counts.failed == 1
    monkeypatch.setattr(Painter, "_paint", paint_one)
    again = paint(Dataset(plan_retry(dataset.plan, dataset.store), dataset.store))
    assert again.summary is not None and again.summary.counts.failed == 0
    samples = read_samples(dataset.store)
    assert set(samples.texts("status")) == {"kept"} and set(samples.texts("source:room")) == {"kitchen"}
    assert set(samples.texts("source:status")) == {"old"} and set(samples.texts("source:input_error_kind")) == {"mine"}
