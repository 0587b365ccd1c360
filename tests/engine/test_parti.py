"""PartiPrompts × two guidance values on two Ray workers; the driver is killed half-way and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.engine.conftest import Answer
from tests.engine.test_dispatch import start, wait_for
from tests.engine.test_sources import SUITES, needs_suites

Cli = Callable[..., Answer]
SAMPLES = 2 * 1632


@needs_suites
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(900)
def test_killed_half_way(cli: Cli, job: Callable[..., Path], tmp_path: Path) -> None:
    def made(name: str) -> Path:
        return job(
            name=f"{name}.yaml",
            prompts={"source": str(SUITES / "PartiPrompts.tsv"), "columns": {"prompt": "Prompt"}},
            generation={"num_inference_steps": 1, "images_per_prompt": 1, "batch_size": 32},
            sweep={"guidance_scale": [1.0, 5.0]},
            output={"url": str(tmp_path / name), "images_per_shard": 128},
            compute={"workers": 2},
        )

    undisturbed = cli("run", made("whole"), "--in-process", "--json")
    assert (undisturbed.code, undisturbed.json["samples"]) == (0, SAMPLES)

    driver = start(["run", made("killed")], tmp_path)
    data = tmp_path / "killed" / "data"
    shards = undisturbed.json["shards"]
    wait_for(lambda: driver.poll() is not None or len(list(data.glob("*.parquet"))) >= shards // 2, timeout_s=600)
    assert driver.poll() is None, driver.communicate()
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    done = len(list(data.glob("*.parquet")))
    assert done < shards

    again = cli("run", made("killed"), "--in-process", "--json")
    assert again.code == 0, again
    assert (again.json["samples"], again.json["kept"]) == (SAMPLES, SAMPLES)
    assert again.json["made"]["samples"] < SAMPLES
    assert cli("verify", tmp_path / "killed", "--deep").code == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name / "data").iterdir()} for name in ("whole", "killed"))
    assert one == two
    ids = [value for path in sorted(data.iterdir()) for value in pq.read_table(path)["sample_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == SAMPLES
    assert {"Category", "Challenge", "Note"} <= set(pq.read_schema(data / "part-000000.parquet").names)
