"""Which versions acted stands beside what they made, and a command under others says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.execution.run import _Versions
from promptmill.pipeline.models.catalog import versions
from promptmill.pipeline.models.diffusion.device import device_facts
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Counts, ShardStats
from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
BEGUN = "this dataset was begun under other versions"


@pytest.fixture
def as_if(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """As if other versions of these were installed."""
    real = versions.version

    def install(**others: str) -> None:
        monkeypatch.setattr(versions, "version", lambda name: others.get(name) or real(name))
        versions.library_versions.cache_clear()

    yield install
    monkeypatch.undo()
    versions.library_versions.cache_clear()


def footer(out: Path, number: int) -> dict[str, Any]:
    metadata = pq.read_metadata(out / "data" / f"part-{number:06d}.parquet").metadata
    content: dict[str, Any] = json.loads(metadata[b"promptmill"])
    return content


def test_where_they_stand(cli: Cli, job: MakeJob, tmp_path: Path, as_if: Callable[..., None]) -> None:
    """One dataset under two versions, from claim to card."""
    out = tmp_path / "out"
    made = job(score=None, output={"images_per_shard": 4})
    as_if(torch="1.2.3")
    assert BEGUN not in cli("run", made, "--in-process").err
    claimed = json.loads((out / "job.json").read_text())["versions"]
    first = footer(out, 0)["versions"]
    assert first["torch"] == claimed["torch"] == "1.2.3"
    assert {"python", "platform", "promptmill", "diffusers", "transformers", "device"} <= first.keys()
    assert json.loads((out / "receipts" / "part-000000.json").read_text())["versions"] == first
    assert "torch 1.2.3" in (out / "README.md").read_text()
    (out / "data" / "part-000001.parquet").unlink()
    as_if(torch="4.5.6")
    said = " ".join(cli("run", made, "--in-process").err.split())
    assert said.count(BEGUN) == 1 and "torch 4.5.6 (then 1.2.3)" in said and "diffusers" not in said
    assert footer(out, 0)["versions"] == first and footer(out, 1)["versions"]["torch"] == "4.5.6"
    card = (out / "README.md").read_text()
    assert "torch 1.2.3" in card and "torch 4.5.6" in card
    (out / "data" / "part-000000.parquet").unlink()
    assert BEGUN not in cli("run", made, "--in-process").err  # that has been said
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert {each["torch"] for each in summary["run"]["versions"]} == {"4.5.6"}


def test_a_retry_says_so(cli: Cli, job: MakeJob, source: Path, tmp_path: Path, as_if: Callable[..., None]) -> None:
    made = job(score=None, generation={"width": 64})
    as_if(diffusers="0.1")
    assert cli("run", made, "--in-process").code == 0
    out = tmp_path / "out"
    sample = records(out)[0]["sample_id"]
    as_if(diffusers="0.2")
    answer = cli("reproduce", out, sample, "--out", tmp_path / "again.png", "--json")
    assert answer.json["other_versions"] == {"diffusers": {"then": "0.1", "now": "0.2"}}
    assert answer.json["versions_then"]["diffusers"] == "0.1"
    assert "diffusers 0.2 (then 0.1)" in " ".join(
        cli("reproduce", out, sample, "--out", tmp_path / "b.png").out.split()
    )


def test_rows_at_fault_have_no_device(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """Whether a worker holds a model by then is chance, and the bytes of the object must not be."""
    text = tmp_path / "prompts.csv"
    text.write_text("prompt,tag\n,1\n,2\n,3\na red circle,4\n")
    made = job(prompts={"source": str(text)}, score=None, output={"images_per_shard": 4})
    assert cli("run", made, "--in-process").code == 3
    whole = {number: (tmp_path / "out" / "data" / f"part-{number:06d}.parquet").read_bytes() for number in (0, 1)}
    assert "device" not in footer(tmp_path / "out", 0)["versions"]
    assert "device" in footer(tmp_path / "out", 1)["versions"]
    for number in (1, 0):
        (tmp_path / "out" / "data" / f"part-{number:06d}.parquet").unlink()
    assert cli("run", made, "--in-process").code == 3
    assert {n: (tmp_path / "out" / "data" / f"part-{n:06d}.parquet").read_bytes() for n in (0, 1)} == whole


class Said:
    def __init__(self) -> None:
        self.notices: list[str] = []

    def shard_done(self, receipt: ShardStats) -> None: ...

    def pulse(self, pulse: Pulse) -> None: ...

    def notice(self, text: str) -> None:
        self.notices.append(text)


def test_nodes_that_differ_are_told_once() -> None:
    said = Said()
    known = _Versions({"torch": "1"}, [{}, {"torch": "1", "device": "A"}], said)
    for acted in ({"torch": "1", "device": "A"}, {"torch": "1", "device": "B"}, {"torch": "1", "device": "B"}, {}):
        known.made(ShardStats(0, Counts(), versions=acted))
    assert len(said.notices) == 1 and "device B (then A)" in said.notices[0]
    assert known.acted == [{"torch": "1", "device": "A"}, {"torch": "1", "device": "B"}]


def test_what_an_older_dataset_does_not_say_is_no_difference() -> None:
    said = Said()
    _Versions({}, [{}], said).look({"torch": "1"})
    assert not said.notices


def test_a_processor_has_a_name() -> None:
    assert device_facts("cpu")["device"]
