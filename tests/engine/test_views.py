"""A selection is a source of prompts and images, and a reference set, like the dataset that it lies in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.evaluation.looked import reference_images
from promptmill.schemas.errors import InputError
from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]


def run(cli: Cli, job: Path) -> None:
    answer = cli("run", job, "--in-process")
    assert answer.code == 0, answer


@pytest.fixture
def view(cli: Cli, job: MakeJob, tmp_path: Path) -> Path:
    """Keeps other images than the job did: of two a prompt the one of less contrast."""
    select = {"keep": 1, "by": "contrast"}
    run(cli, job(score=[{"metric": "image"}], select=select, output={"keep_rejected_images": True}))
    answer = cli("select", tmp_path / "out", "--keep", "1", "--by", "sharpness", "--name", "best", "--json")
    assert answer.code == 0, answer
    return tmp_path / "out" / "selections" / "best.parquet"


def kept(view: Path) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(view).to_pylist() if row["reason"] is None]


def test_the_samples_that_it_keeps_are_prompts_and_images(cli: Cli, job: MakeJob, tmp_path: Path, view: Path) -> None:
    chosen = {row["sample_id"]: row for folder in ("data", "rejects") for row in records(tmp_path / "out", folder)}
    assert {row["object"].partition("/")[0] for row in kept(view)} == {"data", "rejects"}
    columns = {"image": "image", "id": "sample_id"}
    again = job(
        name="again.yaml",
        prompts={"source": str(view), "columns": columns},
        generation={"images_per_prompt": 1},
        output={"url": str(tmp_path / "again")},
    )
    run(cli, again)
    made = records(tmp_path / "again")
    assert [row["prompt_id"] for row in made] == [row["sample_id"] for row in kept(view)]
    for row in made:
        before = chosen[row["prompt_id"]]
        assert (row["prompt"], row["tag"]) == (before["prompt"], before["tag"])
        assert row["input_image_sha256"]["image"] == before["image_sha256"]
        assert row["input_seed"] == before["seed"] and "image" in row
    shutil.rmtree(tmp_path / "again" / "data")
    run(cli, again)
    assert [row["image_sha256"] for row in records(tmp_path / "again")] == [row["image_sha256"] for row in made]


def test_without_its_images_it_is_a_list_of_prompts(cli: Cli, job: MakeJob, tmp_path: Path, view: Path) -> None:
    run(cli, job(name="again.yaml", prompts={"source": str(view)}, output={"url": str(tmp_path / "again")}))
    made = records(tmp_path / "again")
    assert [row["prompt_id"] for row in made[::2]] == [f"best.selection:{row}" for row in range(4)]
    assert [row["prompt"] for row in made[::2]] == [row["prompt"] for row in records(tmp_path / "out")]
    assert "input_image" not in made[0]


def test_its_images_are_a_reference_set(tmp_path: Path, view: Path) -> None:
    assert len(list(reference_images(str(view)))) == len(kept(view)) == 4
    assert len(list(reference_images(str(tmp_path / "out")))) == 4


def test_more_images_than_fit_are_refused(
    cli: Cli, job: MakeJob, tmp_path: Path, view: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptmill.pipeline.prompts.views._MOST_BYTES", 10_000)
    made = job(prompts={"source": str(view), "columns": {"image": "image"}}, output={"url": str(tmp_path / "again")})
    answer = cli("validate", made)
    assert answer.code == 2 and "Select fewer, or map no column to images" in answer.err


def test_one_that_is_not_in_its_dataset_is_refused(cli: Cli, job: MakeJob, tmp_path: Path, view: Path) -> None:
    astray = tmp_path / "astray" / "selections" / "best.parquet"
    astray.parent.mkdir(parents=True)
    shutil.copy(view, astray)
    answer = cli("validate", job(prompts={"source": str(astray)}))
    assert answer.code == 2 and "A selection is read in the dataset that it was made in" in answer.err
    with pytest.raises(InputError, match="in the dataset that it was made in"):
        list(reference_images(str(astray)))
    table = pq.read_table(view)
    ids = table.column("sample_id").take(list(range(1, len(table))) + [0])
    pq.write_table(table.set_column(0, "sample_id", ids), view)
    data = next((tmp_path / "out" / "data").iterdir())
    rows = pq.read_table(data)
    unnamed = pa.array([None] * len(rows), pa.string())
    pq.write_table(rows.set_column(rows.column_names.index("sample_id"), "sample_id", unnamed), data)
    answer = cli("validate", job(prompts={"source": str(view)}, output={"url": str(tmp_path / "again")}))
    assert answer.code == 2 and "Make the selection again" in answer.err
