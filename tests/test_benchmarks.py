"""The benchmarks run: with counts so small that their figures mean nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from promptmill.pipeline.dataset.open import require_plan
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.storage.store import Store
from tests.benchmarks import compare, photos, scale, sleep
from tests.benchmarks.measure import run_module
from tests.benchmarks.setting import Setting
from tests.benchmarks.task import write_prompts
from tests.models import tiny

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    tiny.build_sd15(tmp_path / "model")
    tiny.build_clip(tmp_path / "clip")
    source = write_prompts(tmp_path / "prompts.parquet", 6)
    model, clip = str(tmp_path / "model"), str(tmp_path / "clip")
    return Setting("", source, model, clip, images=6, steps=2, batch=4, images_per_file=4)


@pytest.mark.slow
def test_variants_in_one_process_do_the_same_task(setting: Setting) -> None:
    said: list[str] = []
    found = compare.compare(setting, ["bare", "script", "in-process"], 1, said.append)
    assert found.rounds.keys() == {"bare", "script", "in-process"}, said
    for rounds in found.rounds.values():
        assert rounds[0].warm_rate > 0
        assert rounds[0].peak_bytes > 100e6 and 100e6 < rounds[0].private_bytes < 4e9
        assert rounds[0].cold_s > 0
    goals = compare.comparison_goals(found)
    assert [goal.state for goal in goals[1:]] == ["not measured"] * 6
    assert goals[0].measured is not None
    assert compare.comparison_table(found, "").row_count == 3


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ray-data", "ray"])
def test_variants_on_ray(setting: Setting, variant: str) -> None:
    done = compare.run_variant(setting, variant)
    assert done.warm_rate > 0
    assert done.peak_bytes > 100e6


def test_a_variant_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError("no Ray today")

    said: list[str] = []
    monkeypatch.setattr(compare, "run_variant", fail)
    found = compare.compare(Setting("", "", "", ""), ["script"], 1, said.append)
    assert found.rounds == {}
    assert "FAILED: no Ray today" in said[0]
    assert found.ratio("in-process", "warm_rate") is None


@pytest.mark.slow
def test_drawing_over_photos(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "LARGE", (900, 700))
    said: list[str] = []
    found = photos.measure_photos(setting, tmp_path, 5, 1, said.append)
    assert [goal.measured is not None for goal in found.goals()] == [True, True], said
    assert photos.photos_table(found, 5).row_count == 4


@pytest.mark.slow
def test_sleeping_generator(setting: Setting) -> None:
    asleep = sleep.measure_sleep(setting)
    assert asleep.images == 6
    assert 0.1 < asleep.share <= 1


@pytest.mark.slow
def test_plan_and_resume(setting: Setting, tmp_path: Path) -> None:
    for name in ("plan", "resume"):
        (tmp_path / name).mkdir()
    commands = scale.measure_plan(setting, tmp_path / "plan", 1000) + scale.measure_resume(
        setting, tmp_path / "resume", 10
    )
    assert [command.printed.get("shards_done") for command in commands] == [0, None, 10, None]
    assert all(10e6 < command.peak_bytes < 2e9 for command in commands)
    store = Store(str(tmp_path / "resume" / "out"))
    verified = verify_dataset(require_plan(store), store, deep=True)
    assert (verified.shards_done, verified.images_checked, len(verified.missing)) == (10, 10, 10)


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="No module named"):
        run_module("tests.benchmarks.nothing")
