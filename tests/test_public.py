"""`import promptmill`: the same job as on the command line, with objects in place of text."""

from __future__ import annotations

import doctest
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import promptmill
from promptmill.jobs.schema import EVENTS_FILE, RESULTS_FILE, events_schema, results_schema

PROMPTS = ["a red circle", "a blue square <b>", "", "a red square"]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, models: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("public")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    return {
        "name": "public",
        "prompts": {"source": str(folder / "prompts.jsonl")},
        "model": {"path": str(models / "sd")},
        "generation": {"num_inference_steps": 2, "batch_size": 4, "images_per_prompt": 2},
        "output": {"url": str(folder / "out"), "images_per_shard": 4},
    }


@pytest.fixture(scope="module")
def made(job: dict[str, Any]) -> tuple[promptmill.RunResult, list[promptmill.Progress]]:
    told: list[promptmill.Progress] = []
    return promptmill.run(job, in_process=True, on_progress=told.append), told


def test_every_public_name_is_there() -> None:
    for name in promptmill.__all__:
        assert callable(getattr(promptmill, name)), name
    assert set(promptmill.__all__) <= set(dir(promptmill))
    with pytest.raises(AttributeError, match="nothing"):
        _ = promptmill.nothing  # type: ignore[attr-defined]


def test_importing_promptmill_imports_nothing_heavy() -> None:
    script = "import sys, promptmill; sys.exit(str({'torch', 'ray', 'pydantic', 'pyarrow'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert answer.stderr.strip() == "set()"


def test_a_job_is_read_from_fields_a_file_or_a_job(job: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    loaded = promptmill.load_job(path, ["seed=3"])
    assert loaded.seed == 3
    assert promptmill.load_job(loaded) == loaded
    assert promptmill.load_job({**job, "seed": 3}) == loaded
    with pytest.raises(promptmill.JobError, match="num_inference_step") as caught:
        promptmill.load_job({**job, "generation": {"num_inference_step": 2}})
    assert isinstance(caught.value.problems[0], promptmill.Problem)


def test_a_run_answers_with_counts(
    job: dict[str, Any], made: tuple[promptmill.RunResult, list[promptmill.Progress]]
) -> None:
    result, told = made
    assert (result.samples, result.kept, result.failed, result.shards_done) == (8, 6, 2, 2)
    assert (told[-1].done, told[-1].kept, told[-1].failed, told[-1].shards_done) == (8, 6, 2, 2)
    plan, status = promptmill.plan(job, extend=True), promptmill.status(result.output)
    assert (plan.prompts, plan.samples, plan.shards, plan.shards_done) == (4, 8, 2, 2)
    assert status.complete and status.fingerprint == plan.fingerprint == result.fingerprint
    assert promptmill.verify(result.output, deep=True).ok


def test_results_keep_to_their_published_schema(
    job: dict[str, Any], made: tuple[promptmill.RunResult, list[promptmill.Progress]]
) -> None:
    assert RESULTS_FILE.read_text() == results_schema(), "run: python -m promptmill.jobs.schema"
    assert EVENTS_FILE.read_text() == events_schema(), "run: python -m promptmill.jobs.schema"
    schema = json.loads(results_schema())
    answers = {"run": made[0], "plan": promptmill.plan(job), "status": promptmill.status(made[0].output)}
    for command, answer in answers.items():
        part = {"$defs": schema["$defs"], **schema["properties"][command]}
        jsonschema.validate(json.loads(json.dumps(answer.as_json())), part)


def test_the_researcher_s_functions_keep_to_theirs(
    made: tuple[promptmill.RunResult, list[promptmill.Progress]], tmp_path: Path
) -> None:
    url = tmp_path / "copy"
    shutil.copytree(made[0].output, url)
    answers = {
        "score": promptmill.score(url, ["image"]),
        "select": promptmill.select(url, keep=1, by=["sharpness"], least={"near_black": 1.0}, name="sharp"),
        "report": promptmill.report(url, selection="sharp"),
        "compare": promptmill.compare(url, url, tmp_path / "page", selection_b="sharp"),
    }
    schema = json.loads(results_schema())
    for command, answer in answers.items():
        part = {"$defs": schema["$defs"], **schema["properties"][command]}
        jsonschema.validate(json.loads(json.dumps(answer.as_json())), part)
    assert answers["report"].as_json()["kept"] == 3


def test_a_dataset_is_iterated_lazily(made: tuple[promptmill.RunResult, list[promptmill.Progress]]) -> None:
    dataset = promptmill.open_dataset(made[0].output)
    records = list(dataset)
    assert len(dataset) == len(records) == 6
    assert dataset.complete and dataset.counts.failed == 2
    assert [record["prompt"] for record in records][:2] == ["a red circle"] * 2
    assert records[-1].image.size == (records[-1]["width"], records[-1]["height"])
    assert len({record.image_bytes for record in records}) == 6
    assert "6 kept samples, complete" in repr(dataset)


def test_a_dataset_becomes_tables(made: tuple[promptmill.RunResult, list[promptmill.Progress]]) -> None:
    dataset = promptmill.open_dataset(made[0].output)
    assert dataset.to_arrow().num_rows == 6
    assert "image" not in dataset.to_arrow(images=False).column_names
    assert list(dataset.to_pandas()["sample_index"]) == [0, 1] * 3
    assert dataset.to_datasets()[0]["image"].size == (dataset.to_pandas()["width"][0],) * 2


def test_a_notebook_shows_images_and_escapes_captions(
    made: tuple[promptmill.RunResult, list[promptmill.Progress]],
) -> None:
    shown = promptmill.open_dataset(made[0].output)._repr_html_()
    assert shown.count("<img") == 6
    assert "data:image/webp;base64," in shown
    assert "&lt;b&gt;" in shown and "<b>" not in shown


def test_errors_are_those_of_the_command_line(job: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(promptmill.OutputMismatchError, match="seed"):
        promptmill.run({**job, "seed": 5}, in_process=True)
    with pytest.raises(promptmill.JobError, match="nothing"):
        promptmill.open_dataset(tmp_path / "nothing")


def test_a_run_outside_the_main_thread_leaves_signals_alone(job: dict[str, Any], tmp_path: Path) -> None:
    """Notebook servers and web applications run cells in threads, where Python lets nobody set handlers."""
    results: list[promptmill.RunResult] = []
    fields = {**job, "output": {**job["output"], "url": str(tmp_path / "out")}}
    thread = threading.Thread(target=lambda: results.append(promptmill.run(fields, in_process=True)))
    thread.start()
    thread.join(120)
    assert results[0].kept == 6


def test_ctrl_c_in_a_notebook_returns_what_was_done(job: dict[str, Any], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    fields = {**job, "output": {**job["output"], "url": str(tmp_path / "out")}}

    pressed: list[int] = []

    def interrupt(progress: promptmill.Progress) -> None:
        if progress.shards_done == 1 and not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)

    result = promptmill.run(fields, in_process=True, on_progress=interrupt)
    assert result.interrupted and result.shards_done >= 1
    assert signal.getsignal(signal.SIGINT) is before
    assert promptmill.run(fields, in_process=True).kept == 6


@pytest.mark.parametrize("module", ["promptmill", "promptmill.api", "promptmill.opened"])
def test_the_examples_in_docstrings_hold(module: str) -> None:
    __import__(module)
    assert doctest.testmod(sys.modules[module], extraglobs={"promptmill": promptmill}).failed == 0
