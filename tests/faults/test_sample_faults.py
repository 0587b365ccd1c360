"""What goes wrong with one sample, with real models: the others of its batch and shard are as they always were."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from tests.faults.audit import Files, data_objects, failures
from tests.faults.bench import WORDS, Bench

pytestmark = pytest.mark.slow


def kept(files: Files) -> dict[str, str]:
    tables = [pq.read_table(io.BytesIO(content)) for content in data_objects(files).values()]
    return {row["sample_id"]: row["image_sha256"] for table in tables for row in table.to_pylist()}


def with_word(word: str) -> list[str]:
    return [*WORDS[:2], f"{WORDS[2]} {word}", *WORDS[3:]]


def test_nan_costs_one_sample_and_is_tried_in_full_precision_first(bench: Bench) -> None:
    """The embedding of one word is NaN, as a broken checkpoint has it."""
    job = bench.job(bench.prompts(with_word("blurry")), model={"path": str(bench.models / "sd-nan")}, select=None)
    output = bench.output()
    ended = bench.run(job, output)
    assert ended.code == 3, ended.printed
    rows = failures(output.files())
    assert [(row["prompt"], row["error_kind"], row["attempts"]) for row in rows] == [
        (with_word("blurry")[2], "not_finite", 2)
    ] * 2
    assert {"topic", "prompt_id", "message", "seed"} <= rows[0].keys()
    assert len(kept(output.files())) == 2 * len(WORDS) - 2


def test_a_pipeline_that_raises_on_one_prompt(bench: Bench) -> None:
    job, output = bench.job(bench.prompts(with_word("raise")), select=None), bench.output()
    ended = bench.run(job, output, PROMPTMILL_TEST_FAULTY="1")
    assert ended.code == 3, ended.printed
    rows = failures(output.files())
    assert [(row["prompt"], row["error_kind"]) for row in rows] == [(with_word("raise")[2], "generation")] * 2
    assert "does not like this prompt" in rows[0]["message"]


def test_out_of_memory_above_a_batch_of_two(bench: Bench) -> None:
    """The allocator really refuses; the batch is halved, nothing fails."""
    job, output = bench.job(bench.prompts(with_word("memory")), select=None), bench.output()
    ended = bench.run(job, output, PROMPTMILL_TEST_FAULTY="1")
    assert ended.code == 0, ended.printed
    assert ended.json["kept"] == 2 * len(WORDS)


def test_a_hang_in_process_ends_the_command(bench: Bench) -> None:
    """No worker's process could be ended here: the command says so and goes, and without the hang it goes on."""
    job = bench.job(bench.prompts(with_word("hang")), select=None, compute={"step_timeout_s": 2.0})
    output = bench.output()
    ended = bench.run(job, output, PROMPTMILL_TEST_FAULTY="1")
    assert ended.code == 5, ended.printed
    assert "no denoising step for" in ended.printed
    again = bench.run(job, output)
    assert (again.code, again.json["kept"]) == (0, 2 * len(WORDS)), again.printed


def test_what_the_safety_checker_blacks_out_is_not_kept(bench: Bench) -> None:
    job = bench.job(bench.prompts(WORDS), model={"path": str(bench.models / "sd-unsafe")}, select=None, score=None)
    output = bench.output()
    ended = bench.run(job, output)
    assert ended.code == 0, ended.printed
    assert (ended.json["kept"], ended.json["rejected"]) == (0, 2 * len(WORDS))
    files = output.files()
    rows = [
        row for key in files if key.startswith("rejects/") for row in pq.read_table(io.BytesIO(files[key])).to_pylist()
    ]
    assert {row["reason"] for row in rows} == {"nsfw"}


def test_a_model_that_does_not_load(bench: Bench) -> None:
    job, output = bench.job(model={"path": str(bench.models / "sd-broken")}), bench.output()
    ended = bench.run(job, output)
    assert ended.code == 2, ended.printed
    assert "sd-broken" in ended.printed
    assert "in_channels" in ended.printed or "size mismatch" in ended.printed or "shape" in ended.printed
