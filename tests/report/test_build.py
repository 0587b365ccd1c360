"""The first questions: is it all there, what failed, what came out best; and hostile text stays text."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from PIL import Image

from promptmill.jobs.report import report
from promptmill.jobs.schema import results_schema
from promptmill.pipeline.export.card import write_card
from promptmill.pipeline.prompts.thumbs import thumbnail
from promptmill.pipeline.report.build import build_report, number
from promptmill.pipeline.report.cost import run_facts
from promptmill.schemas.errors import JobError
from promptmill.schemas.plan import Counts, ShardStats
from tests.report.conftest import HOSTILE, Dataset, paint


def test_summary_adds_up(painted: Dataset) -> None:
    summary = build_report(painted.plan, painted.store, seconds=12.0).as_json()
    assert painted.summary is not None
    counts = painted.summary.counts
    assert (summary["kept"], summary["rejected"], summary["failed"]) == (counts.kept, counts.rejected, counts.failed)
    assert summary["finished"] and summary["made"] == summary["samples"] == 4 * 3 * 100
    assert summary["failures"] == {"empty_prompt": 4 * 3}
    assert summary["rejects"] == {"not_selected": 4 * 2 * 98, "no_score": 4 * 3}
    assert len(summary["cells"]) == 4
    assert sum(cell["kept"] for cell in summary["cells"]) == counts.kept
    assert summary["best"][0]["scores"]["clip"] >= summary["worst"][0]["scores"]["clip"]
    assert summary["run"]["images_per_second"] > 0
    assert json.loads((painted.folder / "report/summary.json").read_text()) == summary
    schema = json.loads(results_schema())
    jsonschema.validate(summary, {"$defs": schema["$defs"], **schema["properties"]["report"]})


def test_run_facts_and_cost(painted: Dataset) -> None:
    shown = report(str(painted.folder), price_per_hour=36.0).as_json()["run"]
    assert 0 < shown["device_busy_share"] < 1 and shown["model_loads"] >= 0 and shown["attempts_repeated"] == 0
    spent = sum(shown["stage_seconds"][stage] for stage in ("generate", "score"))
    assert shown["device_busy_share"] == pytest.approx(spent / shown["worker_seconds"])
    assert shown["cost"] == pytest.approx(0.01 * shown["worker_seconds"])
    assert shown["cost_per_thousand"] == pytest.approx(1000 * shown["cost"] / shown["images"])
    page = (painted.folder / "report/index.html").read_text()
    for words in ("for 1,000 images", "devices busy", "model loads", "shards tried again"):
        assert words in page
    assert report(str(painted.folder)).run.cost == shown["cost"], "built again, it still knows the price"
    with pytest.raises(JobError, match="price-per-hour"):
        report(str(painted.folder), price_per_hour=float("nan"))


def test_numbers_for_people() -> None:
    assert [number(value) for value in (None, 12345, 0.123456, 12.3456, 11980.4, 1234567.0)] == [
        "–",
        "12,345",
        "0.1235",
        "12.35",
        "11,980",
        "1,234,567",
    ]


def test_time_in_hand_counts_overlaps_once() -> None:
    def receipt(worker: str, began: float, total: float) -> ShardStats:
        return ShardStats(0, Counts(), {"generate": 2.0, "score": 1.0, "total": total}, worker, began=began)

    # Worker a: 10 to 16, with a pause until 20 to 24; worker b: 0 to 10 within which a shorter shard lies.
    several = [
        receipt("a", 12, 4),
        receipt("a", 10, 4),
        receipt("a", 20, 4),
        receipt("b", 1e-9, 10),
        receipt("b", 3, 2),
    ]
    facts = run_facts(several, None)
    assert facts.worker_seconds == pytest.approx(6 + 4 + 10)
    assert facts.device_busy_share == pytest.approx(5 * 3 / 20)
    old = run_facts([*several, receipt("a", 0.0, 4)], None)
    assert old.worker_seconds is None and old.device_busy_share is None


def test_prompts_stay_text_in_the_page(painted: Dataset) -> None:
    build_report(painted.plan, painted.store)
    page = (painted.folder / "report/index.html").read_text()
    assert "<script>alert" not in page
    assert "<b>of</b>" not in page


def test_unfinished_dataset_says_so(painted: Dataset, tmp_path: Path) -> None:
    half = painted.copy(tmp_path / "half")
    sorted((half.folder / "data").iterdir())[-1].unlink()
    summary = build_report(half.plan, half.store).as_json()
    assert not summary["finished"] and summary["shards_done"] == summary["shards"] - 1
    assert "Not finished" in (half.folder / "report/index.html").read_text()


def test_damaged_object_is_named_and_passed_over(painted: Dataset, tmp_path: Path) -> None:
    broken = painted.copy(tmp_path / "broken")
    sorted((broken.folder / "data").iterdir())[0].write_bytes(b"PAR1 no")
    summary = build_report(broken.plan, broken.store).as_json()
    assert "part-000000" in summary["problems"][0]


def test_empty_dataset(claimed: Callable[..., Dataset]) -> None:
    empty = claimed()
    summary = build_report(empty.plan, empty.store).as_json()
    assert summary["made"] == 0 and not summary["finished"]
    assert "Nothing has been made yet" in (empty.folder / "report/index.html").read_text()
    write_card(empty.plan, empty.store, Counts())


def test_all_failed(claimed: Callable[..., Dataset]) -> None:
    failed = paint(claimed(prompts=["", " ", None], sweep={}))
    summary = build_report(failed.plan, failed.store).as_json()
    assert summary["failed"] == summary["samples"] == 6
    assert "Every sample failed" in (failed.folder / "report/index.html").read_text()


def test_card_loads_and_says_what_it_is(painted: Dataset) -> None:
    assert painted.summary is not None
    write_card(painted.plan, painted.store, painted.summary.counts)
    text = (painted.folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["configs"][0]["data_files"] == "data/*.parquet" and front["size_categories"] == ["n<1K"]
    body = text.partition("---\n\n")[2]
    assert "generated by a model" in body and "<b>" not in body and HOSTILE not in body
    croissant = json.loads((painted.folder / "croissant.json").read_text())
    names = {field["name"] for field in croissant["recordSet"][0]["field"]}
    assert {"sample_id", "image", "prompt", "category"} <= names


def test_a_photo_that_lay_on_its_side_is_shown_upright() -> None:
    turned, sink = Image.Exif(), io.BytesIO()
    turned[0x0112] = 6
    Image.new("RGB", (1200, 900), "red").save(sink, "JPEG", exif=turned)
    shown = thumbnail(sink.getvalue())
    assert shown is not None
    assert Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).size == (144, 192)
