"""Scores that others gave come into the same statistics."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.jobs.export import export
from promptmill.jobs.report import report
from promptmill.jobs.score import score
from promptmill.pipeline.dataset.samples import read_samples
from promptmill.schemas.errors import JobError
from tests.report.conftest import Dataset, paint


@pytest.fixture(scope="module")
def sweep(claimed: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven prompts, two images each at two guidance scales, from a file as GenEval's."""
    source = tmp_path_factory.mktemp("suite") / "geneval.jsonl"
    prompts = [f"a {colour} circle" for colour in ("red", "green", "blue", "pink", "white", "black", "orange")]
    rows = [{"tag": "one", "include": [{"class": "bench", "count": 1}], "prompt": prompt} for prompt in prompts]
    source.write_text("\n".join(map(json.dumps, rows)))
    parts = {"sweep": {"guidance_scale": [1.0, 5.0]}, "select": None, "output": {"images_per_shard": 64}}
    generation = {"images_per_prompt": 2, "batch_size": 8}
    return paint(claimed(prompts_section={"source": str(source)}, generation=generation, **parts))


@pytest.fixture
def dataset(sweep: Dataset, tmp_path: Path) -> Dataset:
    return sweep.copy(tmp_path / "copy")


def by_guidance(dataset: Dataset) -> dict[str, bool]:
    """Whether a sample was made with guidance 5, by its id."""
    samples = read_samples(dataset.store)
    pairs = zip(samples.texts("sample_id"), samples.texts("variant"), strict=True)
    return {sample: json.loads(variant)["guidance_scale"] == 5.0 for sample, variant in pairs}


def test_ratings_of_two_people(dataset: Dataset, tmp_path: Path) -> None:
    strong = by_guidance(dataset)
    lines = [f"{sample},{rater + 2 * is_strong},{rater}" for rater in (1, 3) for sample, is_strong in strong.items()]
    (tmp_path / "people.csv").write_text("\n".join(["sample_id,rating,rater", *lines, "somebody-else,5,1"]))
    found = score(str(dataset.folder), [], from_file=str(tmp_path / "people.csv"))
    assert (found.images, found.unknown, found.mean) == (28, 1, {"rating": 3.0, "rater": 2.0})
    summary = json.loads((dataset.folder / "report/summary.json").read_text())
    (weak, better), differences = summary["metrics"]["rating"]["means"], summary["metrics"]["rating"]["differences"]
    assert (weak[0], better[0]) == (2.0, 4.0) and differences[0][1][0] == 2.0 and summary["problems"] == []
    with pytest.raises(JobError, match="--again"):
        score(str(dataset.folder), [], from_file=str(tmp_path / "people.csv"))
    assert score(str(dataset.folder), [], again=True, from_file=str(tmp_path / "people.csv")).images == 28


def test_verdicts_of_geneval(dataset: Dataset, tmp_path: Path) -> None:
    """Its results name the images of the tree that we exported."""
    export(str(dataset.folder), "geneval", str(tmp_path / "tree"))
    images = sorted((tmp_path / "tree").rglob("*.png"))
    assert len(images) == 28
    rows = [{"filename": str(path), "tag": "one", "correct": "guidance_scale=5.0" in str(path)} for path in images]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert score(str(dataset.folder), [], from_file=str(tmp_path / "results.jsonl")).mean == {"correct": 0.5}
    samples, strong = read_samples(dataset.store), by_guidance(dataset)
    given = dict(zip(samples.texts("sample_id"), samples.score("correct"), strict=True))
    assert given == {sample: float(is_strong) for sample, is_strong in strong.items()}
    assert "correct" in report(str(dataset.folder)).metrics


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [
        ("excel.csv", "sample_id;mine\n", "{};2,50\n"),
        ("pandas.tsv", "sample_id\tmine\n", "{}\t2.50\n"),
        ("yes.csv", "sample_id,words,mine\n", '{},"good, or not",Yes\n'),
        ("lines.ndjson", "", '{{"sample_id": "{}", "mine": 2.5}}\n'),
        ("array.json", "", '{{"sample_id": "{}", "mine": true}},'),
        ("packed.csv.gz", "sample_id,mine\n", "{},2.50\n"),
    ],
)
def test_scores_as_others_write_them(dataset: Dataset, tmp_path: Path, name: str, head: str, row: str) -> None:
    """Semicolons, decimal commas, arrays and packed files ended in "expected a file of scores"."""
    text = head + "".join(row.format(sample) for sample in by_guidance(dataset))
    text = f"[{text.rstrip(',')}]" if name.endswith(".json") else text
    data = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (tmp_path / name).write_bytes(data)
    found = score(str(dataset.folder), [], from_file=(tmp_path / name).as_uri())
    assert found.images == 28 and found.mean == {"mine": 1.0 if "2" not in row else 2.5}


def test_what_is_no_file_of_scores(dataset: Dataset, tmp_path: Path) -> None:
    ids = list(by_guidance(dataset))
    tables = {
        "taken": (pa.table({"sample_id": ids, "clip": [1.0] * 28}), "names that no score"),
        "texts": (pa.table({"sample_id": ids, "words": ["good"] * 28}), "numbers or truth values"),
        "others": (pa.table({"sample_id": ["x"], "mine": [1.0]}), "samples of this dataset"),
        "empty": (pa.table({"sample_id": pa.array([], pa.string()), "mine": pa.array([], pa.float64())}), "no rows"),
        "unnamed": (pa.table({"mine": [1.0]}), "`sample_id` or `filename`"),
    }
    for name, (table, said) in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
        with pytest.raises(JobError, match=said):
            score(str(dataset.folder), [], from_file=str(tmp_path / f"{name}.parquet"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    for file, said in (("cut.parquet", "can be read"), ("gone.csv", "can be read"), ("notes.txt", r"\.jsonl")):
        with pytest.raises(JobError, match=said):
            score(str(dataset.folder), [], from_file=str(tmp_path / file))
    assert not list((dataset.folder / "scores").glob("from_*"))
