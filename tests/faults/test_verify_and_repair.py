"""`verify` finds what is wrong, `--repair` removes it, `run` makes it again: the same bytes as ever."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from tests.faults.audit import data_objects, footer_of
from tests.faults.bench import Bench, Output

pytestmark = pytest.mark.slow
FIRST = "data/part-000000.parquet"


DAMAGES = ("empty", "cut", "no footer", "flipped in an image", "flipped in a caption", "foreign", "of another shard")


@pytest.fixture
def finished(bench: Bench) -> Output:
    return finish(bench, "disk")


def finish(bench: Bench, place: str) -> Output:
    output = bench.output(place)
    bench.run(bench.job(), output)
    return output


def damaged(content: bytes, how: str, other: bytes) -> bytes:
    def flipped(at: int) -> bytes:
        return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]

    return {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "no footer": content[:-8],
        "flipped in an image": flipped(content.index(b"IDAT") + 40),
        "flipped in a caption": flipped(content.rindex(b"IEND") + 400),
        "foreign": b"PAR1 is how this text begins and ends PAR1",
        "of another shard": other,
    }[how]


@pytest.mark.parametrize(("place", "how"), [*(("disk", how) for how in DAMAGES), ("s3", "cut"), ("s3", "foreign")])
def test_a_damaged_data_object_is_found_removed_and_made_again(bench: Bench, place: str, how: str) -> None:
    finished = finish(bench, place)
    objects = data_objects(finished.files())
    finished.write(FIRST, damaged(objects[FIRST], how, objects["data/part-000001.parquet"]))
    found = bench.command("verify", finished, "--deep")
    assert found.code == 1, found.printed
    assert any(FIRST in problem for problem in found.json["problems"])
    repaired = bench.command("verify", finished, "--deep", "--repair").json
    assert FIRST in repaired["removed"]
    assert repaired["missing_shards"] == [0]
    assert repaired["orphans"] == []
    assert bench.run(bench.job(), finished).code == 3
    counted, problems = bench.end_state(bench.job(), finished)
    assert (counted.lost, counted.doubled, problems) == (0, 0, [])


def test_run_refuses_to_take_a_foreign_object_for_a_shard(bench: Bench, finished: Output) -> None:
    """It used to count the object as done and end with 0, one shard short."""
    finished.write(FIRST, b"not ours")
    ended = bench.run(bench.job(), finished)
    assert ended.code == 2
    assert FIRST in ended.printed
    assert "verify --repair" in ended.printed


def test_a_side_object_that_is_gone_and_one_that_nobody_names(bench: Bench, finished: Output) -> None:
    files = finished.files()
    side = footer_of(files[FIRST])["side_objects"][0]
    finished.remove(side)
    finished.write("rejects/part-000000-000000000000.parquet", b"an orphan")
    found = bench.command("verify", finished).json
    assert any(side in problem for problem in found["problems"])
    assert found["orphans"] == ["rejects/part-000000-000000000000.parquet"]
    bench.command("verify", finished, "--repair")
    assert bench.run(bench.job(), finished).code == 3
    counted, problems = bench.end_state(bench.job(), finished)
    assert (counted.lost, counted.doubled, problems) == (0, 0, [])


def test_a_shard_made_again_does_not_double_what_its_retry_made(bench: Bench) -> None:
    """A sample failed in shard 1, its retry made it in shard 4; then shard 1 was damaged and made again."""
    texts = ("red circle", "blue star", "green square raise", "red star", "blue circle", "yellow star")
    job, output = bench.job(bench.prompts(texts)), bench.output()
    faulty = bench.run(job, output, PROMPTMILL_TEST_FAULTY="1")
    assert faulty.json["failed"] == 2, faulty.printed
    retried = bench.command("retry", output, "--in-process")
    assert retried.code == 0, retried.printed
    output.write("data/part-000001.parquet", b"")
    bench.command("verify", output, "--repair")
    assert bench.run(job, output).code == 0
    counted, _ = bench.end_state(job, output)
    assert (counted.lost, counted.doubled, counted.failed) == (0, 0, 0)


def test_what_a_retry_made_is_known_without_its_inputs(bench: Bench) -> None:
    """Deleted as left-overs, they ended the next `retry` with 4: check that the bucket or folder exists."""
    job, output = bench.job(bench.prompts(("red circle", "green square raise"))), bench.output("disk")
    assert bench.run(job, output, PROMPTMILL_TEST_FAULTY="1").json["failed"] == 2
    assert bench.command("retry", output, "--in-process").code == 0
    for key in output.files():
        if key.startswith("inputs/"):
            output.remove(key)
    again = bench.command("retry", output, "--in-process")
    assert (again.code, again.json["made"]["samples"]) == (0, 0), again.printed


@pytest.mark.parametrize("images_per_shard", [1, 3, 4])
def test_a_retry_keeps_the_best_of_each_prompt(bench: Bench, images_per_shard: int) -> None:
    """All samples of three prompts failed; of each, `retry` keeps what an undisturbed run keeps."""
    texts = ("green square raise", "red circle", "blue star raise", "yellow star raise")
    changes = {"generation": {"images_per_prompt": 3}, "output": {"images_per_shard": images_per_shard}}
    job, output = bench.job(bench.prompts(texts), **changes), bench.output()
    assert bench.run(job, output, PROMPTMILL_TEST_FAULTY="1").json["failed"] == 9
    retried = bench.command("retry", output, "--in-process")
    assert (retried.code, retried.json["kept"], retried.json["failed"]) == (0, 4, 0), retried.printed
    assert kept(output.files()) == kept(bench.reference(job))
    assert bench.command("verify", output, "--deep").code == 0


def kept(files: dict[str, bytes]) -> set[str]:
    tables = [pq.read_table(io.BytesIO(content), columns=["sample_id"]) for content in data_objects(files).values()]
    return {sample for table in tables for sample in table.column("sample_id").to_pylist()}


def test_a_job_in_which_most_samples_fail_is_stopped(bench: Bench) -> None:
    """`compute.max_failure_share` is looked at after 100 samples, and named with the commonest cause."""
    texts = [f"green square raise {i}" for i in range(80)]
    job, output = bench.job(bench.prompts(texts)), bench.output()
    ended = bench.run(job, output, PROMPTMILL_TEST_FAULTY="1")
    assert ended.code == 2, ended.printed
    assert "compute.max_failure_share" in ended.printed
    assert "does not like this prompt" in ended.printed
    made = bench.command("status", output).json["samples"]
    assert 100 <= made < 120
    again = bench.run(job, output, "--in-process", "--set", "compute.max_failure_share=1.0")
    assert again.json["samples"] == 160
