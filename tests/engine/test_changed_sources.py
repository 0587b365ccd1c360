"""Rows of two sources never meet in one dataset: what is read is held against the plan, whatever was swapped when."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.jobfile.reader import load_job
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.prompts.held import held_copy
from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.pipeline.prompts.retried import retry_reader
from promptmill.pipeline.prompts.staging import stage_table
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError
from promptmill.schemas.plan import SourceFile
from tests.engine.conftest import PROMPTS, Answer, records
from tests.heart import mill

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]

OTHERS = ["a red square", "a blue circle", "a blue triangle", "a red circle"]


def write(path: Path, prompts: list[str]) -> bytes:
    """The footer of a file that says nothing of its values: no statistics, no dictionary, nothing packed."""
    table = pa.table({"prompt": [f"{prompt:24}" for prompt in prompts]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    return path.read_bytes()


def swap(path: Path, prompts: list[str] = OTHERS) -> None:
    """Another content behind the same name, size, footer and time of the last change."""
    before, times = path.read_bytes(), path.stat()
    after = write(path, prompts)
    assert len(after) == len(before) and after != before
    assert pq.read_metadata(path) == pq.ParquetFile(pa.BufferReader(before)).metadata
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def twin(source: Path) -> Path:
    write(source, PROMPTS)
    return source


@pytest.fixture
def planned(twin: Path, job: MakeJob) -> Plan:
    return plan_job(load_job(job()))


def reader(plan: Plan, out: Path) -> PromptReader:
    return PromptReader(plan.segments[0].files, Store(str(out)), plan.source_schema, plan.job.prompts.mapped)


def texts(block: object) -> list[str]:
    return [prompt.prompt.strip() for prompt in block.prompts]  # type: ignore[attr-defined]


def refused(answer: Answer, *words: str) -> None:
    assert answer.code == 2, answer
    said = " ".join(answer.err.split())
    for word in words:
        assert word in said


def test_swapped_between_two_runs(cli: Cli, job: MakeJob, twin: Path) -> None:
    """The footer said the same, and so the second run mixed both files."""
    made = job(output={"images_per_shard": 2})
    assert cli("run", made, "--in-process").code == 0
    swap(twin)
    for command in ("run", "plan"):
        refused(cli(command, made, *(["--in-process"] if command == "run" else [])), "prompts.parquet", "digest")


def test_swapped_while_it_runs(cli: Cli, job: MakeJob, twin: Path, tmp_path: Path) -> None:
    many = [f"{text} {i}" for i in range(6) for text in PROMPTS]
    write(twin, many)
    made = job(output={"images_per_shard": 2}, score=None)

    def swap_soon() -> None:
        while not (tmp_path / "out" / "data" / "part-000000.parquet").exists():
            time.sleep(0.005)
        new = tmp_path / "new.parquet"
        write(new, [f"{text} {i}" for i in range(6) for text in OTHERS])
        new.rename(twin)

    thread = threading.Thread(target=swap_soon)
    thread.start()
    answer = cli("run", made, "--in-process")
    thread.join()
    refused(answer, "prompts.parquet", "as it was planned")
    assert {row["prompt"].strip() for row in records(tmp_path / "out")} <= set(many)


def test_swapped_between_plan_and_first_read(planned: Plan, twin: Path, tmp_path: Path) -> None:
    swap(twin)
    with pytest.raises(InputError, match=r"prompts.parquet.*as it was planned"):
        reader(planned, tmp_path / "out").read(0, 4)


def test_swapped_between_two_reads(planned: Plan, twin: Path, tmp_path: Path) -> None:
    reading = reader(planned, tmp_path / "out")
    assert texts(reading.read(0, 2)) == PROMPTS[:2]
    swap(twin)
    with pytest.raises(InputError, match="as it was planned"):
        reading.read(2, 4)


def test_swapped_while_it_is_read(planned: Plan, twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pq.ParquetFile

    def slow(*arguments: object, **options: object) -> pq.ParquetFile:
        monkeypatch.undo()
        swap(twin)
        return real(*arguments, **options)

    monkeypatch.setattr("promptmill.pipeline.prompts.source_rows.pq.ParquetFile", slow)
    with pytest.raises(InputError, match="as it was planned"):
        reader(planned, tmp_path / "out").read(0, 4)


def test_gone_while_it_runs(planned: Plan, twin: Path, tmp_path: Path) -> None:
    twin.unlink()
    with pytest.raises(InputError, match=r"as it was planned.*nothing at"):
        reader(planned, tmp_path / "out").read(0, 4)


def test_one_of_many_is_swapped(cli: Cli, job: MakeJob, twin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name in "abc":
        write(folder / f"{name}.parquet", [f"{text} {name}" for text in PROMPTS])
    made = job(prompts={"source": str(folder)}, score=None)
    assert cli("run", made, "--in-process").code == 0
    swap(folder / "b.parquet", [f"{text} z" for text in PROMPTS])
    answer = cli("run", made, "--in-process")
    refused(answer, "b.parquet")
    assert "a.parquet" not in answer.err and "c.parquet" not in answer.err


def test_touched_and_copied_is_the_same(cli: Cli, job: MakeJob, twin: Path, planned: Plan, tmp_path: Path) -> None:
    reading = reader(planned, tmp_path / "out")
    reading.read(0, 2)
    os.utime(twin, (1, 1))
    copy = tmp_path / "copy.parquet"
    shutil.copyfile(twin, copy)
    copy.rename(twin)
    assert texts(reading.read(2, 4)) == PROMPTS[2:]


def test_a_staged_copy_is_swapped(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """Below the output, and read by every worker: it is made again where the source is at hand."""
    text = tmp_path / "prompts.csv"
    text.write_text("prompt\n" + "\n".join(PROMPTS))
    made = job(prompts={"source": str(text)}, score=None)
    assert cli("run", made, "--in-process").code == 0
    (copy,) = (tmp_path / "out" / "inputs").iterdir()
    right = copy.read_bytes()
    pq.write_table(pa.table({"prompt": OTHERS}), copy)
    (tmp_path / "out" / "data" / "part-000001.parquet").unlink()
    assert cli("run", made, "--in-process").code == 0
    assert copy.read_bytes() == right
    assert {row["prompt"] for row in records(tmp_path / "out")} == set(PROMPTS)


def test_the_rows_of_a_retry_are_swapped(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = ["sample_id", "prompt_id", "caption", "prompt", "negative_prompt", "sample_index", "seed", "room"]
    rows = pa.table({**{name: [None] for name in names}, "prompt_id": ["a"], "prompt": ["a red circle"]})
    file = stage_table(rows, SourceFile("retry-0", "retry-0", 1, 1), "retry-0", store)
    assert retry_reader((file,), store, mill.job(tmp_path)).passthrough_schema.names == []
    others = rows.set_column(names.index("prompt"), "prompt", pa.array(["a red square"]))
    pq.write_table(others, tmp_path / "inputs" / "retry-0.parquet")
    with pytest.raises(InputError, match="as it was planned"):
        retry_reader((file,), store, mill.job(tmp_path))


def test_a_copy_by_another_version_of_arrow_stays(tmp_path: Path) -> None:
    """The same rows, packed into other bytes: another driver may be reading them."""
    store, rows = Store(str(tmp_path)), pa.table({"prompt": PROMPTS})
    first = stage_table(rows, SourceFile("p", "p", 1, 4), "p", store)
    pq.write_table(rows, tmp_path / "inputs" / "p.parquet", compression="none")
    theirs = (tmp_path / "inputs" / "p.parquet").read_bytes()
    again = stage_table(rows, SourceFile("p", "p", 1, 4), "p", store)
    assert (tmp_path / "inputs" / "p.parquet").read_bytes() == theirs
    assert again.digest != first.digest and held_copy(again, store) == again and held_copy(first, store) is None
