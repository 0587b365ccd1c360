"""What a run will cost, what it cost, and an end to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmill.pipeline.execution.budget import Budget
from promptmill.pipeline.execution.probe import probe
from promptmill.pipeline.report.cost import run_facts
from promptmill.schemas.compute import Compute
from promptmill.schemas.errors import DeviceMemoryError, JobError, SampleError
from promptmill.schemas.plan import Counts, ShardStats
from tests.engine.conftest import Answer

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]


class Now:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def test_a_budget_counts_workers_that_are_up() -> None:
    now = Now()
    budget = Budget(Compute(price_per_hour=3600.0, max_cost=25.0), before_s=5.0, clock=now)
    for at, workers in ((10, 2), (15, 1), (20, 0), (1000, 0)):
        now.s = at
        budget.pulse(workers)
    assert budget.spent == 5 + 2 * 5 + 1 * 5 and not budget.is_spent
    assert Budget(Compute(price_per_hour=1.0, gpus_per_worker=0.25), 3600.0).spent == 0.25
    free = Budget(Compute(), 1e9)
    assert free.spent is None and not free.is_spent
    assert Budget(Compute(price_per_hour=3600.0, max_cost=5.0), 5.0).is_spent


def test_a_budget_without_a_price_is_refused(cli: Cli, job: MakeJob) -> None:
    answer = cli("validate", job(compute={"max_cost": 5}))
    assert answer.code == 2 and "price_per_hour" in answer.err
    for wrong in ({"max_cost": 0, "price_per_hour": 1}, {"price_per_hour": -1}, {"max_cost": "5"}):
        assert cli("validate", job(compute=wrong)).code == 2


def test_a_budget_ends_a_run_gently_and_for_good(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """The first shards cost more than it allows: they are finished, and the same command makes no more."""
    dear = {"price_per_hour": 3.6e9, "max_cost": 1}
    path = job(compute=dear, output={"images_per_shard": 2})
    first = cli("run", path, "--in-process", "--json")
    told = first.json
    assert first.code == 2 and "of 1.00 (compute.max_cost) is spent" in told["over_budget"]
    assert 0 < told["shards_done"] < told["shards"] and not told["interrupted"] and told["spent"] > 1
    assert "no new shard begins" in first.err
    again = cli("run", path, "--in-process")
    assert again.code == 2 and "made 0 images" in again.out and "Raise it and run again" in again.out
    rest = cli("run", path, "--in-process", "--json", "--set", "compute.max_cost=1e15")
    assert rest.code == 0 and rest.json["shards_done"] == rest.json["shards"] and rest.json["over_budget"] is None
    told = cli("run", path, "--in-process", "--set", "compute.max_cost=1e15")
    assert re.search(r"It cost [\d,]+\.\d\d so far", told.out), "the person is told what --json says"
    summary = json.loads((tmp_path / "out" / "report" / "summary.json").read_text())["run"]
    assert summary["price_per_hour"] == 3.6e9 and summary["cost_per_thousand_kept"] > 0
    assert sum(summary["stage_costs"].values()) == pytest.approx(summary["cost"])
    (device,) = summary["by_device"]
    assert device["images"] == 8 and device["cost"] == pytest.approx(summary["cost"])
    (row,) = cli("runs", tmp_path / "out", "--json").json["datasets"]
    assert row["cost"] == pytest.approx(row["device_hours"] * 3.6e9, rel=0.01)


def test_a_budget_of_a_retry_is_raised_in_the_job_that_is_given(
    cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry knew what the dataset says alone, which nobody can change."""
    from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator

    def broken(self: Any, samples: Any, *rest: Any, **more: Any) -> Any:
        raise SampleError("generation", "no image")

    path = job(compute={"price_per_hour": 3.6e9, "max_cost": 1})
    with monkeypatch.context() as patch:
        patch.setattr(DiffusersGenerator, "generate", broken)
        assert cli("run", path, "--in-process").code == 3
    out = tmp_path / "out"
    spent = cli("retry", out, "--in-process", "--json")
    assert spent.code == 2 and spent.json["made"]["samples"] == 0 and "max_cost" in spent.json["over_budget"]
    raised = job("raised.yaml", compute={"price_per_hour": 3.6e9, "max_cost": 1e15})
    again = cli("retry", out, "--in-process", "--json", "--job", raised)
    assert again.code == 0, again.err
    assert again.json["made"]["kept"] == again.json["kept"] == 8 and not again.json["failed"]


def test_cost_of_each_kind_of_device() -> None:
    def receipt(shard: int, device: str, total: float) -> ShardStats:
        seconds = {"generate": total * 0.75, "encode": total * 0.25, "total": total}
        return ShardStats(
            shard, Counts(10, 5, 5), seconds, device, "cuda:0", began=100.0, versions={"device": f"NVIDIA {device}"}
        )

    facts = run_facts([receipt(0, "H100", 36.0), receipt(1, "A10", 72.0)], None, 100.0, 0.5)
    assert facts.cost == pytest.approx(1.5) and facts.cost_per_thousand_kept == pytest.approx(150)
    assert facts.stage_costs == pytest.approx({"generate": 1.125, "encode": 0.375})
    assert [(each.name, each.cost) for each in facts.by_device] == [("NVIDIA A10", 1.0), ("NVIDIA H100", 0.5)]


def test_a_probe_is_kept_beside_the_job_and_estimates_it(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = job(compute={"price_per_hour": 2.0, "workers": 4})
    answer = cli("probe", path, "--seconds", "1", "--json")
    found = answer.json
    assert answer.code == 0 and found["images_per_second"] > 0 and found["memory_bytes"] > 1 << 20
    assert found["batches"][0]["batch_size"] == 4 and found["largest_batch"] >= 4 and found["bytes_per_image"] > 50
    assert found["file"] == str(tmp_path / "job.probe.json") and not (tmp_path / "out").exists()
    planned = cli("plan", path, "--json").json["estimate"]
    assert planned["source"].startswith("probe on") and planned["workers"] == 4 and planned["images"] == 8
    hours = (8 / found["images_per_second"] / 4 + found["load_seconds"]) / 3600
    assert planned["hours"] == pytest.approx(hours, abs=1e-4)
    assert planned["cost"] == pytest.approx(2 * planned["device_hours"], abs=1e-3)
    other = cli("plan", path, "--json", "--set", "generation.num_inference_steps=9").json
    assert other["estimate"] is None
    refused = cli("plan", path, "--gpu", "h100")
    assert refused.code == 2 and "a device that was probed" in refused.err and "promptmill probe" in refused.err
    word = found["device"].split()[0]
    assert cli("plan", path, "--gpu", word.upper(), "--json").json["estimate"]["source"] == planned["source"]
    swept = cli("plan", path, "--json", "--set", "compute.max_cost=0.000001")
    assert any("compute.max_cost" in notice for notice in swept.json["notices"])


def test_an_estimate_by_a_given_speed(cli: Cli, job: MakeJob) -> None:
    path = job(compute={"price_per_hour": 3.0})
    found = cli("plan", path, "--images-per-second", "0.5", "--workers", "2", "--json").json["estimate"]
    assert (found["images"], found["source"], found["workers"]) == (8, "given", 2)
    assert found["hours"] == pytest.approx(8 / 3600, abs=1e-4)
    text = cli("plan", path, "--images-per-second", "0.5").out
    assert "0.5 images/s a worker (given)" in text and "at 3.00 an hour" in text
    for wrong in (("0",), ("nan",), ("-1",), ("1", "--gpu", "h100")):
        assert cli("plan", path, "--images-per-second", *wrong).code == 2
    (path.parent / "job.probe.json").write_text('[{"device": 5}]')
    assert cli("plan", path).code == 0


def test_a_probe_stops_at_the_memory(job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptmill.jobs.plan import plan_of
    from promptmill.pipeline.jobfile.reader import load_job
    from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator

    generate = DiffusersGenerator.generate

    def bounded(self: Any, samples: Any, *rest: Any, **more: Any) -> Any:
        if len(samples) > 4:
            raise DeviceMemoryError("8 GiB")
        return generate(self, samples, *rest, **more)

    monkeypatch.setattr(DiffusersGenerator, "generate", bounded)
    plan = plan_of(load_job(job()), False, False)
    found = probe(plan, 60.0)
    assert (found.ended_by, found.largest_batch) == ("memory", 4)
    large = plan_of(load_job(job(generation={"batch_size": 8})), False, False)
    with pytest.raises(JobError, match=r"generation.batch_size: expected a batch that fits the device, got 8: 8 GiB"):
        probe(large, 60.0)
