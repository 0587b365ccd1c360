"""What a run counts: the same as the dataset says, by names that Prometheus takes, also when things go wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.execution.budget import Budget
from promptmill.pipeline.execution.events import Notice, Stop
from promptmill.pipeline.execution.exporter import Exporter
from promptmill.pipeline.execution.json_stream import JsonStream
from promptmill.pipeline.execution.metered import Metered
from promptmill.pipeline.execution.run import run_job
from promptmill.pipeline.report import build
from promptmill.pipeline.storage.faults import is_transient
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.compute import Compute
from promptmill.schemas.errors import JobError
from promptmill.schemas.events import Pulse
from promptmill.schemas.metrics import METRICS
from promptmill.schemas.plan import Counts, ShardStats
from tests.engine.conftest import Answer
from tests.heart.mill import memory, rows, small_plan
from tests.heart.test_run import InTurn, Notes

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
Values = dict[tuple[str, ...], float]


def values(text: str) -> Values:
    """By name and labels other than `dataset`; without the times at which counters began."""
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]
    assert {sample.labels["dataset"] for sample in samples} == {"small"}
    named = ((s.name, *(v for k, v in s.labels.items() if k != "dataset"), s.value) for s in samples)
    return {key: float(value) for *key_, value in named for key in [tuple(map(str, key_))]}


def get(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def counted_run(folder: Path, exporter: Exporter, store: Store, budget: Budget | None = None) -> Notes:
    plan, notes = claim_output(small_plan(folder), store), Notes()
    budget = budget or Budget(Compute())
    counting = Metered(notes, [exporter], budget)
    summary = run_job(plan, store, InTurn(plan, store, ["star"]), counting, Stop(), budget=budget)
    counting.complete = summary.shards_done == plan.shards
    counting.ended()
    return notes


def test_the_counts_are_those_of_the_dataset(tmp_path: Path) -> None:
    store, exporter = memory(), Exporter("small")
    port = exporter.serve("0")
    notes = counted_run(tmp_path, exporter, store, Budget(Compute(price_per_hour=3600.0, max_cost=1e9), 5.0))
    text = get(port)
    found = values(text)
    kept, failed = len(rows(store)), rows(store, "failures")
    assert found["promptmill_samples_total", "kept"] == kept > 0
    assert found["promptmill_samples_total", "failed"] == len(failed) > 0
    for kind in {row["error_kind"] for row in failed}:
        assert found["promptmill_failed_total", kind] == sum(row["error_kind"] == kind for row in failed)
    assert found[("promptmill_shards_total",)] == len(notes.done)
    written = sum(entry.size_bytes for entry in store.list("data"))
    assert found[("promptmill_written_bytes_total",)] == written
    done, asked = found[("promptmill_dataset_samples_done",)], found[("promptmill_dataset_samples",)]
    assert done == asked == kept + len(failed) + len(rows(store, "rejects"))
    assert found[("promptmill_model_loads_total",)] == 3 and found[("promptmill_workers",)] == 0
    cost, worker_s = found[("promptmill_cost",)], found[("promptmill_worker_seconds_total",)]
    assert cost == pytest.approx(5 + worker_s) and found[("promptmill_budget",)] == 1e9
    assert time.time() - found[("promptmill_last_success_timestamp_seconds",)] < 60
    assert {name for name, *_ in found} == {m.name for m in METRICS} - {"promptmill_rejected_total"}
    if promtool := shutil.which("promtool"):
        linted = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
        assert linted.returncode == 0, linted.stdout + linted.stderr
    exporter.close(print)
    with pytest.raises(OSError):
        get(port)


def test_rejected_by_reason_and_a_dispatcher_that_begins_again() -> None:
    exporter, now = Exporter("small"), [0.0]
    budget = Budget(Compute(), clock=lambda: now[0])
    counting = Metered(Notes(), [exporter], budget)
    for second, pulse in enumerate([Pulse(0, 2, 0, 4), Pulse(10, 2, 2, 4, 3, 1, 1, 2, 1.5), Pulse(4, 1, 1)]):
        now[0] = 10.0 * second
        budget.pulse(pulse.workers)
        counting.pulse(pulse)
    receipt = ShardStats(
        0, Counts(4, 1, 3), {"generate": 9.0, "score": 1.0, "total": 12.0}, rejected={"not_selected": 3}
    )
    counting.shard_done(receipt)
    counting.shard_done(ShardStats(1, Counts(4, 4), already_done=True))
    now[0] = 40.0
    budget.pulse(0)
    counting.ended()
    found = {
        name: exporter.registry.get_sample_value(name, {"dataset": "small", **labels})
        for name, labels in [
            ("promptmill_rejected_total", {"reason": "not_selected"}),
            *[(metric.name, {}) for metric in METRICS if not metric.labels],
        ]
    }
    assert found["promptmill_rejected_total"] == 3 and found["promptmill_images_total"] == 14
    assert found["promptmill_model_loads_total"] == 3 and found["promptmill_workers_lost_total"] == 1
    assert found["promptmill_storage_wait_seconds_total"] == 1.5
    assert found["promptmill_worker_seconds_total"] == 2 * 10 + 2 * 10 + 1 * 20
    assert found["promptmill_device_busy_ratio"] == pytest.approx(10 / 60)
    assert found["promptmill_shards_total"] == 1 and found["promptmill_shards_queued"] == 0
    assert not found["promptmill_last_success_timestamp_seconds"]


def test_the_report_is_no_worker_s_time(
    cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers had gone, and their seconds went on until the report was written."""
    file, build_report, seen = tmp_path / "small.prom", build.build_report, []

    def look(*arguments: Any, **options: Any) -> Any:
        seen.append(values(file.read_text()))
        return build_report(*arguments, **options)

    monkeypatch.setattr(build, "build_report", look)
    assert cli("run", job(), "--in-process", "--metrics-file", file).code == 0
    assert [each[("promptmill_run_active",)] for each in seen] == [0]
    assert values(file.read_text()) == seen[0]


def test_waits_of_the_storage_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    store, faults = Store("memory://waits", patience_s=5), [ConnectionResetError("a"), ConnectionResetError("b")]
    assert all(map(is_transient, faults))
    put = store.backend.put

    def fail_twice(key: str, data: bytes) -> None:
        if faults:
            raise faults.pop()
        put(key, data)

    monkeypatch.setattr(store.backend, "put", fail_twice)
    store.put("a", b"b")
    assert store.waits == 2 and 0 < store.waited_s < 5


def test_the_file_remembers_when_a_run_went_well(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    file = tmp_path / "small.prom"
    assert cli("run", job(), "--in-process", "--metrics-file", file).code == 0
    first = values(file.read_text())
    assert first["promptmill_samples_total", "kept"] == 8 and first[("promptmill_run_active",)] == 0
    assert first[("promptmill_last_success_timestamp_seconds",)] > 0
    failing = job(prompts={"source": str(_bad(tmp_path))}, output={"url": str(tmp_path / "b")}, select=None)
    stopped = cli("run", failing, "--in-process", "--metrics-file", file, "--set", "compute.max_failure_share=0.1")
    assert stopped.code == 2, stopped
    second = values(file.read_text())
    name = ("promptmill_last_success_timestamp_seconds",)
    assert second[name] == first[name] and second["promptmill_samples_total", "failed"] >= 100


def _bad(folder: Path) -> Path:
    path = folder / "bad.jsonl"
    path.write_text('{"prompt": ""}\n' * 150)
    return path


@pytest.mark.parametrize("address", ["x", "1:x", "70000", "", "-1"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(JobError, match="--metrics-port"):
        Exporter("small").serve(address)


def test_a_port_that_is_taken_and_a_file_that_cannot_be(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    exporter = Exporter("small")
    port = exporter.serve("127.0.0.1:0")
    answer = cli("run", job(), "--in-process", "--metrics-port", port)
    assert answer.code == 2 and f"--metrics-port {port}" in answer.err
    exporter.close(print)
    for file, expected in (("a.txt", ".prom"), ("none/a.prom", "written")):
        answer = cli("run", job(), "--in-process", "--metrics-file", tmp_path / file)
        assert answer.code == 2 and expected in answer.err
    assert not list((tmp_path / "out").glob("data/*"))


@pytest.fixture
def own_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given back after the test."""
    monkeypatch.setattr(sys, "stderr", sys.stderr)


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("own_stderr")
def test_each_line_is_an_object(cli: Cli, job: MakeJob) -> None:
    answer = cli("run", job(), "--in-process", "--log-format", "json", "--json")
    assert answer.code == 0 and answer.json["kept"] == 8
    said = objects(answer.err)
    assert [each["event"] for each in said if each["event"] not in ("message", "notice")] == [
        *("begun", "shard", "shard", "ended")
    ]
    assert len({each["run"] for each in said}) == 1 and all(each["time"].endswith("Z") for each in said)
    shard = next(each for each in said if each["event"] == "shard")
    assert (shard["dataset"], shard["kept"], shard["worker"], shard["node"]) == ("small", 4, "local", "local")
    wrong = cli("run", job(generation={"steps": 3}), "--in-process", "--log-format", "json")
    (error,) = objects(wrong.err)
    assert wrong.code == 2 and error["level"] == "error" and "num_inference_steps" in error["message"]


def test_words_of_others_become_objects(capsys: pytest.CaptureFixture[str]) -> None:
    stream = JsonStream(sys.stderr, run="r")
    stream.write("half a ")
    stream.write("line\nerror: no\x1b[31m\n\n")
    stream.write("rest")
    stream.say("warning", "notice", message="x", **Notice("x", shard=3, node="n1").about)
    said = objects(capsys.readouterr().err)
    assert [each.get("message") for each in said] == ["half a line", "error: no\x1b[31m", "x"]
    assert [each["level"] for each in said] == ["info", "error", "warning"]
    assert (said[2]["shard"], said[2]["node"]) == (3, "n1")
