"""Values of the source that Python has no word for: carried, and shown as the text that Arrow has for them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from promptmill.opened import Dataset
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.row_values import values_of
from tests.heart import mill

FAR = pa.array([2**62, None, 0], pa.timestamp("us"))
ODD = {
    "far": FAR,
    "zone": pa.array([1, None, 2], pa.timestamp("us", tz="Mars/Phobos")),
    "span": pa.array([2**62, None, 2], pa.duration("s")),
    "day": pa.array([2**30, None, 0], pa.date32()),
    "list": pa.ListArray.from_arrays([0, 1, 2, 3], FAR),
    "struct": pa.StructArray.from_arrays([FAR], ["when"]),
}


@pytest.mark.parametrize("name", ODD)
def test_values(name: str) -> None:
    column = pa.chunked_array([ODD[name]])
    with pytest.raises((OverflowError, ValueError)):
        column.to_pylist()
    values = values_of(column)
    assert isinstance(values[0], str) and len(values) == 3
    assert values[1] == ODD[name].slice(1, 1).to_pylist()[0]


def test_a_dataset_of_such_values_is_read(tmp_path: Path) -> None:
    source = mill.write_prompts(tmp_path / "a.parquet", ["a red circle", "a blue square", "a green star"], **ODD)
    store = Store(str(tmp_path / "out"))
    plan = claim_output(plan_job(mill.job(source, output={"url": str(tmp_path / "out")})), store)
    assert all(stats.counts.kept for stats in mill.make_missing(plan, store))
    records = list(Dataset(str(tmp_path / "out")))
    assert len(records) == 6
    assert {record["prompt"] for record in records if "out of range" in str(record["far"])} == {"a red circle"}
