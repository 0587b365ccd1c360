"""Several scores at once, in the run itself: each a field of `scores`, and any of them can select."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from promptmill.jobs.score import score
from promptmill.pipeline.dataset.samples import read_samples
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError
from promptmill.schemas.scores import METRIC_SCORES
from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
DISTRACTORS = ["a blue square", "noise", "a photo of a dog"]


@pytest.fixture
def scores(models: Path) -> list[dict[str, Any]]:
    clip = f"local-dir:{models / 'clip'}"
    return [
        {"metric": "image"},
        {"relative": clip, "distractors": DISTRACTORS},
        {"clip": clip},
        {"metric": "verified"},
        {"clip": clip, "name": "second"},
    ]


def run(cli: Cli, job: Path) -> None:
    answer = cli("run", job, "--in-process", "--json")
    assert answer.code == 0, answer


def test_a_run_gives_what_score_gives_later(
    cli: Cli, job: MakeJob, scores: list[dict[str, Any]], tmp_path: Path, models: Path
) -> None:
    run(cli, job(score=scores))
    rows = records(tmp_path / "out")
    names = [*METRIC_SCORES["image"], "relative", "clip", *METRIC_SCORES["verified"], "second"]
    assert list(rows[0]["scores"]) == names
    assert all(row["clip_score"] == row["scores"]["clip"] == row["scores"]["second"] for row in rows)
    assert all(value is not None for row in rows for value in row["scores"].values())
    text = tmp_path / "distractors.txt"
    text.write_text("\n".join(DISTRACTORS))
    clip = f"local-dir:{models / 'clip'}"
    url = str(tmp_path / "out")
    ran = read_samples(Store(url))
    score(url, ["image", "verified", f"clip={clip}", f"relative={clip}"], str(text))
    later = read_samples(Store(url))
    assert later.score_names != ran.score_names  # the siblings took their place
    for name in names:
        np.testing.assert_allclose(later.score(name), ran.score(name), atol=1e-5, err_msg=name)


def test_one_score_more_changes_no_other_column(
    cli: Cli, job: MakeJob, scores: list[dict[str, Any]], tmp_path: Path
) -> None:
    run(cli, job())
    run(cli, job(score=scores, output={"url": str(tmp_path / "more")}))
    few, many = records(tmp_path / "out"), records(tmp_path / "more")
    assert all({**b, "scores": {"clip": b["scores"]["clip"]}} == a for a, b in zip(few, many, strict=True))


@pytest.mark.parametrize(("by", "best"), [("contrast", max), ("near_black", min)])
def test_any_score_selects(cli: Cli, job: MakeJob, tmp_path: Path, by: str, best: Callable[..., float]) -> None:
    select = {"keep": 1, "by": by}
    run(cli, job(score=[{"metric": "image"}], select=select, output={"keep_rejected_images": True}))
    kept, rejected = records(tmp_path / "out"), records(tmp_path / "out", "rejects")
    assert len(kept) == len(rejected) == 4
    for row, other in zip(kept, rejected, strict=True):
        assert row["prompt_id"] == other["prompt_id"] and row["clip_score"] is None
        assert row["scores"][by] == best(row["scores"][by], other["scores"][by])
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), np.float32) / 255
        assert row["scores"]["contrast"] == pytest.approx((pixels @ [0.299, 0.587, 0.114]).std(), abs=1e-5)


def test_a_metric_that_breaks_costs_only_its_image(
    cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptmill.pipeline.scores import verified

    whole = verified.Verified.score

    def fragile(self: verified.Verified, pictures: Any) -> Any:
        if pictures[0].caption == "a blue square":
            raise RuntimeError("odd image")
        return whole(self, pictures)

    monkeypatch.setattr(verified.Verified, "score", fragile)
    answer = cli("run", job(score=[{"metric": "verified"}]), "--in-process", "--json")
    assert (answer.code, answer.json["kept"], answer.json["failed"]) == (3, 6, 2)
    rows = records(tmp_path / "out", "failures")
    assert {(row["prompt"], row["error_kind"], row["message"]) for row in rows} == {
        ("a blue square", "scoring", "RuntimeError: odd image")
    }


def test_scores_of_two_models_or_lists_never_meet_in_one_column(
    cli: Cli, job: MakeJob, tmp_path: Path, models: Path
) -> None:
    """What was interrupted went on with another CLIP, or among other captions, and half of the column was of each."""
    run(cli, job(score=None))
    url, clip = str(tmp_path / "out"), f"local-dir:{models / 'clip'}"
    text = tmp_path / "distractors.txt"
    text.write_text("\n".join(DISTRACTORS))
    metrics = [f"clip={clip}", f"relative={clip}"]
    score(url, metrics, str(text))
    (tmp_path / "out" / "scores" / "relative-part-000001.parquet").unlink()
    text.write_text("\n".join([*DISTRACTORS, "a cat"]))
    with pytest.raises(JobError, match=r"relative-part-000000.*the same distractors.*--again"):
        score(url, metrics, str(text))
    assert score(url, metrics[:1], str(text)).done_before == 2
    other = Path(shutil.copytree(models / "clip", tmp_path / "other"))
    (other / "open_clip_config.json").write_text((other / "open_clip_config.json").read_text() + "\n")
    with pytest.raises(JobError, match=r"clip-part-000000.*the same model"):
        score(url, [f"clip=local-dir:{other}"])
    assert score(url, [f"clip=local-dir:{other}"], again=True).done_before == 0
    assert score(url, metrics[1:], str(text), again=True).done_before == 0
