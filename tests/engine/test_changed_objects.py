"""Prompts in object storage are held against what the store said when they were planned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.jobfile.reader import load_job
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.pipeline.storage.entry import etag_of
from promptmill.pipeline.storage.remote import ObjectChangedError
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, OutputMismatchError
from tests.engine.conftest import PROMPTS
from tests.engine.test_changed_sources import OTHERS, write

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("s3_env")]
MakeJob = Callable[..., Path]


@pytest.fixture
def bucket(s3_bucket: str) -> Store:
    return Store(f"s3://{s3_bucket}")


@pytest.fixture
def contents(tmp_path: Path) -> tuple[bytes, bytes]:
    """Two files of one size and footer."""
    return write(tmp_path / "a.parquet", PROMPTS), write(tmp_path / "a.parquet", OTHERS)


@pytest.fixture
def planned(job: MakeJob, bucket: Store, contents: tuple[bytes, bytes]) -> Plan:
    bucket.put("p/a.parquet", contents[0])
    return plan_job(load_job(job(prompts={"source": f"{bucket.url}/p/*.parquet"}, score=None)))


def reader(plan: Plan, out: Path) -> PromptReader:
    return PromptReader(plan.segments[0].files, Store(str(out)), plan.source_schema, plan.job.prompts.mapped)


def test_replaced_before_and_between_reads(
    planned: Plan, bucket: Store, contents: tuple[bytes, bytes], tmp_path: Path
) -> None:
    assert etag_of(planned.segments[0].files[0].version)
    reading = reader(planned, tmp_path / "out")
    assert [prompt.prompt.strip() for prompt in reading.read(0, 2).prompts] == PROMPTS[:2]
    bucket.put("p/a.parquet", contents[0])  # written anew, the same
    assert [prompt.prompt.strip() for prompt in reading.read(2, 4).prompts] == PROMPTS[2:]
    bucket.put("p/a.parquet", contents[1])
    for one in (reading, reader(planned, tmp_path / "out")):
        with pytest.raises(InputError, match="as it was planned, got other content"):
            one.read(0, 4)
    bucket.delete("p/a.parquet")
    with pytest.raises(InputError, match="nothing there"):
        reading.read(0, 4)


def test_replaced_while_it_is_read(bucket: Store) -> None:
    """S3 refuses the second half of another object."""
    bucket.put("x", b"a" * 200_000)
    entry = bucket.entry("x")
    assert entry is not None
    with bucket.open("x", entry.version) as file:
        assert file.read(10) == b"a" * 10
        bucket.put("x", b"b" * 200_000)
        file.seek(150_000)
        with pytest.raises(ObjectChangedError):
            file.read(10)
    with bucket.open("x") as file:
        assert file.read(10) == b"b" * 10


def test_replaced_between_two_runs(
    planned: Plan, job: MakeJob, bucket: Store, contents: tuple[bytes, bytes], tmp_path: Path
) -> None:
    store = open_output(planned.job.output.url)
    claim_output(planned, store)
    bucket.put("p/a.parquet", contents[1])
    again = plan_job(load_job(tmp_path / "job.yaml"))
    assert again.fingerprint == planned.fingerprint
    with pytest.raises(OutputMismatchError, match=r"prompts.source.a.parquet.version"):
        claim_output(again, store)


def test_moved_to_another_place(
    planned: Plan, job: MakeJob, bucket: Store, contents: tuple[bytes, bytes], tmp_path: Path
) -> None:
    store = open_output(planned.job.output.url)
    claim_output(planned, store)
    bucket.put("elsewhere/a.parquet", contents[0])
    bucket.delete("p/a.parquet")
    moved = plan_job(load_job(job(prompts={"source": f"{bucket.url}/elsewhere/*.parquet"}, score=None)))
    joined = claim_output(moved, store)
    assert joined.segments[0].files[0].path.endswith("/elsewhere/a.parquet")
    assert len(reader(joined, tmp_path / "out").read(0, 4).prompts) == 4
    local = tmp_path / "local"
    local.mkdir()
    (local / "a.parquet").write_bytes(contents[0])
    here = plan_job(load_job(job(prompts={"source": str(local)}, score=None)))
    assert claim_output(here, store).segments[0].files[0].path == str(local / "a.parquet")


def test_staged_copies_are_not_read_whole(job: MakeJob, bucket: Store, tmp_path: Path) -> None:
    """A copy below an output in a bucket is known by its etag; in another bucket by its content."""
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    url = f"{bucket.url}/out"
    plan = plan_job(load_job(job(prompts={"source": str(tmp_path / "p.txt")}, score=None, output={"url": url})))
    store = open_output(url)
    joined = claim_output(plan, store)
    (file,) = joined.segments[0].files
    assert file.version and file.digest
    right = store.read(file.path.removeprefix("staged:"))
    store.put(file.path.removeprefix("staged:"), right[::-1])
    with pytest.raises(InputError, match="other content"):
        PromptReader((file,), store, plan.source_schema, plan.job.prompts.mapped).read(0, 4)
    claim_output(plan, store)
    assert store.read(file.path.removeprefix("staged:")) == right
    pq.read_table(pa.BufferReader(right))
