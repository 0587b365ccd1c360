"""Two runs on the prompts they share, where the truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from promptmill.jobs.compare import _by_variant, command, compare
from promptmill.jobs.schema import results_schema
from promptmill.schemas.errors import JobError
from promptmill.schemas.reports import MetricAnswer, VariantAnswer
from tests.report.browser import CHROMIUM, DRIVER, Browser
from tests.report.conftest import Dataset, paint

CAPTIONS = [
    f"a {colour} {shape}" for colour in ("red", "green", "blue", "pink") for shape in ("circle", "square", "ring")
]


@pytest.fixture(scope="module")
def runs(claimed: Callable[..., Dataset]) -> tuple[Dataset, Dataset]:
    """The second is better at 11 of 12 prompts that both have, of another sweep and with a prompt of its own."""
    common = {"select": None, "output": {"images_per_shard": 64}}
    settings = {"images_per_prompt": 4, "batch_size": 16}
    weak = paint(claimed(prompts=CAPTIONS, sweep={}, generation={**settings, "guidance_scale": 0.5}, **common))
    strong = paint(
        claimed(
            prompts=[*CAPTIONS[:11], "a yellow ring"],
            sweep={"guidance_scale": [0.5, 5.0]},
            generation=settings,
            **common,
        )
    )
    return weak, strong


def test_says_which_is_better_and_what_differs(runs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    weak, strong = runs
    found = compare(str(weak.folder), str(strong.folder), str(tmp_path / "out")).as_json()
    assert found["shared_prompts"] == 11
    assert [cell["values"]["run"] for cell in found["cells"]] == ["A", "B", "B"]
    _, same, better = found["metrics"]["clip"]["differences"][0]
    assert same[0] == pytest.approx(0, abs=1e-6) and same[3] == 11, "same prompts, same seeds, same guidance"
    assert better[1] > 0
    answer = found["answers"]["clip"]["difference"]
    assert answer[0] == pytest.approx(0, abs=1e-6) and answer[3] == 11, "guidance 0.5 is what both have"
    assert found["same_seeds"]
    assert {"generation.guidance_scale", "sweep.guidance_scale"} <= {row["field"] for row in found["differences"]}
    written = json.loads((tmp_path / "out/summary.json").read_text())
    assert written == found
    for answer in (found["answers"]["clip"], *found["answers"]["clip"]["cells"]):
        assert {run: answer[run] for run in "AB"} == answer["runs"], "under its own name too, as before"
    schema = json.loads(results_schema())
    jsonschema.validate(written, {"$defs": schema["$defs"], **schema["properties"]["compare"]})


def test_the_command_compares_cell_by_cell(
    runs: tuple[Dataset, Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strong = str(runs[1].folder)
    command(strong, strong, str(tmp_path / "out"))
    said = " ".join(capsys.readouterr().out.split())
    assert "clip: B − A = +0 (95 %: +0 to +0), 12 prompts guidance_scale 0.5: B − A" in said
    assert said.count("p 1 by Holm") == 2 and (tmp_path / "out/summary.csv").exists()


def test_of_many_settings_the_command_says_those_that_differ() -> None:
    """45 settings and five scores made 230 lines."""
    cells = [
        VariantAnswer(f"setting {i}", {}, [0.1 * i, 0.0, 1.0, 12, 0.001], 0.01 if i == 7 else 1.0) for i in range(45)
    ]
    lines = list(_by_variant(MetricAnswer({}, [0.1, 0.0, 1.0, 12, 0.001], 45, cells), "A", "B"))
    assert [line.partition(":")[0] for line in lines[:1]] == ["setting 7"]
    assert lines[1:] == ["in 44 other settings by themselves it is not sure; the page and summary.json have each"]
    assert len(list(_by_variant(MetricAnswer({}, [], 12, cells[:12]), "A", "B"))) == 12


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver")
def test_the_page_opens(runs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    compare(str(runs[0].folder), str(runs[1].folder), str(tmp_path / "out"))
    with Browser(tmp_path / "profile") as browser:
        browser.open((tmp_path / "out/index.html").as_uri())
        browser.wait("document.documentElement.dataset.ready")
        text = browser.run("return document.body.innerText")
        assert "What differs" in text and "In the one setting that both have, B is at" in text
        cells = browser.run("return [...document.querySelectorAll('#compared tbody tr')].map((row) => row.innerText)")
        assert len(cells) == 1 and "guidance_scale 0.5" in cells[0] and "not distinguishable" in cells[0]
        strong = str(runs[1].folder)
        compare(strong, strong, str(tmp_path / "same"))
        browser.open((tmp_path / "same/index.html").as_uri())
        browser.wait("document.documentElement.dataset.ready")
        cells = browser.run("return [...document.querySelectorAll('#compared tbody tr')].map((row) => row.innerText)")
        assert len(cells) == 3 and "all of these together" in cells[0]
        assert "In none of them is the difference sure" in browser.run("return document.body.innerText")
        browser.size(420, 900)
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        browser.open((tmp_path / "out/index.html").as_uri())
        browser.wait("document.documentElement.dataset.ready")
        browser.wait("document.querySelectorAll('#grid .tile img').length >= 2")
        assert browser.console() == []


def test_nothing_in_common(claimed: Callable[..., Dataset], runs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    other = paint(claimed(prompts=["an orange cross"], sweep={}))
    with pytest.raises(JobError, match="both have"):
        compare(str(runs[0].folder), str(other.folder), str(tmp_path / "out"))
    with pytest.raises(JobError, match="Promptmill dataset"):
        compare(str(runs[0].folder), str(tmp_path), str(tmp_path / "out"))
