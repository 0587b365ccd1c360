"""`select.per_class` through the command line: rounds until each class is full, and what is said of one that is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from promptmill.pipeline.execution.heartbeat import KEY
from promptmill.pipeline.storage.store import Store
from tests.engine.conftest import Answer

ASKED = 3


def job_of_classes(folder: Path, url: Path, **sections: Any) -> Path:
    """Of the second class no image can be right: the verifier knows no such word."""
    content = {
        "name": "classes",
        "prompts": {"classes": {"circle": "a red circle", "spaceship": "a spaceship"}},
        "model": {"path": "builtin:shapes"},
        "generation": {"num_inference_steps": 5, "guidance_scale": 2.5, "batch_size": 8, "images_per_prompt": 1},
        "score": [{"metric": "verified"}],
        "select": {"per_class": ASKED, "by": "verified", "min": 1, "max_rounds": 3},
        "output": {"url": str(url)},
        **sections,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_classes_are_filled_in_rounds_and_one_that_cannot_be_is_told(
    cli: Callable[..., Answer], tmp_path: Path
) -> None:
    url = tmp_path / "out"
    file = job_of_classes(tmp_path, url)
    first = cli("run", file, "--in-process")
    assert first.code == 3, first.err
    assert "Class spaceship: 0 of 3 kept" in first.out and "Class circle" not in first.out
    assert "round 2: " in first.err and "round 3: " in first.err
    kept = pq.read_table(url / "data").column("label_name").to_pylist()
    assert Counter(kept) == {"circle": ASKED}
    before = {path.name: path.read_bytes() for path in sorted((url / "data").iterdir())}
    again = cli("run", file, "--in-process")
    assert again.code == 3 and {path.name: path.read_bytes() for path in sorted((url / "data").iterdir())} == before
    assert cli("verify", url).code == 0
    circle, spaceship = json.loads((url / "report" / "summary.json").read_text())["classes"]
    told = {"asked": ASKED, "judge": "verified"}
    assert circle == {**told, "name": "circle", "made": circle["made"], "kept": 3, "judged": 3, "right": 1.0} | {
        "reason": circle["reason"]
    }
    assert spaceship["name"] == "spaceship" and spaceship["kept"] == spaceship["judged"] == 0
    assert spaceship["made"] == 3 + 6 + 12 and spaceship["right"] is None and spaceship["reason"] == "no_score"
    page = (url / "report" / "index.html").read_text()
    assert "What came of each class?" in page and "<td>spaceship</td>" in page


def test_the_run_is_alive_between_its_rounds(
    cli: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said "stopped" after each of them, and a second run with `--if-running exit` began."""
    said, try_put = [], Store.try_put

    def heard(self: Store, key: str, data: bytes) -> None:
        if key == KEY:
            said.append(json.loads(data)["state"])
        try_put(self, key, data)

    monkeypatch.setattr(Store, "try_put", heard)
    assert cli("run", job_of_classes(tmp_path, tmp_path / "out"), "--in-process").code == 3
    assert said[-1] == "stopped" and set(said[:-1]) == {"running"}


def test_a_budget_that_the_last_shard_of_a_round_spends(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """The round was whole, and the next one was taken for interrupted: exit code 130, which a scheduler tries again."""
    file = job_of_classes(tmp_path, tmp_path / "out", compute={"price_per_hour": 3.6e9, "max_cost": 1})
    first = cli("run", file, "--in-process", "--json")
    assert first.code == 2, first.err
    told = first.json
    assert "(compute.max_cost) is spent" in told["over_budget"] and not told["interrupted"]
    assert 0 < told["shards_done"] < told["shards"] and "no new shard begins" in first.err
    rest = cli("run", file, "--in-process", "--json", "--set", "compute.max_cost=1e15")
    assert rest.code == 3 and rest.json["shards_done"] == rest.json["shards"] > told["shards"]
