"""Prompt suites: as published in, with the same columns out; files of another shape are refused by line."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.pipeline.prompts.source import open_source
from promptmill.pipeline.prompts.staging import stage
from promptmill.pipeline.shapes.captions import parse
from promptmill.pipeline.shapes.world import Claims
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError
from promptmill.schemas.prompts import Prompts, ShapesSuite
from tests.engine.conftest import Answer, records
from tests.engine.test_sources import SUITES, needs_suites
from tests.job_problems import NAME, OUTPUT, only

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]

PARTI = "Prompt\tCategory\tChallenge\tNote\n"
CAR, DOG = '{"tag": "colors", "include": [{"class": "car", "count": 1}], "prompt": "a car"}', '{"prompt": "a dog"}'


def rows_of(prompts: Prompts, output: Path) -> list[dict[str, Any]]:
    """All rows as a worker reads them: `prompt_id`, `prompt`, and the columns carried along."""
    source, store = open_source(prompts), Store(str(output))
    reader = PromptReader(stage(source.files, prompts, store), store, source.schema, prompts.mapped)
    block = reader.read(0, source.rows)
    carried = block.passthrough.to_pylist()
    return [
        {"prompt_id": p.prompt_id, "prompt": p.prompt, **row} for p, row in zip(block.prompts, carried, strict=True)
    ]


@needs_suites
def test_parti_prompts_as_published(tmp_path: Path) -> None:
    path = SUITES / "PartiPrompts.tsv"
    prompts = Prompts(suite="partiprompts", source=str(path))
    rows = rows_of(prompts, tmp_path)
    assert len(rows) == 1632
    assert list(rows[0]) == ["prompt_id", "prompt", "category", "challenge", "note"]
    assert rows[0]["prompt_id"] == "PartiPrompts.tsv:0"
    assert len({row["category"] for row in rows}) == 12
    assert len({row["challenge"] for row in rows}) == 11
    source = open_source(prompts)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not source.notices


@needs_suites
def test_geneval_as_published(tmp_path: Path) -> None:
    prompts = Prompts(suite="geneval", source=str(SUITES / "geneval.jsonl"))
    rows = rows_of(prompts, tmp_path)
    assert len(rows) == 553 and not open_source(prompts).notices
    lines = [json.loads(line) for line in (SUITES / "geneval.jsonl").read_text().splitlines()]
    assert [row["category"] for row in rows] == [row["tag"] for row in rows] == [line["tag"] for line in lines]
    assert [row["include"][0]["class"] for row in rows] == [line["include"][0]["class"] for line in lines]


@needs_suites
def test_twenty_cells_over_parti_prompts_are_planned_in_a_second() -> None:
    text = (
        f"{NAME}{OUTPUT}prompts: {{suite: partiprompts, source: {SUITES / 'PartiPrompts.tsv'}}}\n"
        "sweep: {guidance_scale: {from: 1, to: 7, count: 7}, num_inference_steps: [5, 10, 20], "
        "exclude: [{guidance_scale: 7, num_inference_steps: 20}]}\n"
    )
    began = time.process_time()  # of this process: a busy machine does not count
    plan = plan_job(parse_job(text, "job.yaml"))
    assert (plan.variant_count, plan.samples) == (20, 20 * 1632)
    assert sum(plan.samples_in(shard) for shard in plan.all_shards()) == plan.samples
    assert time.process_time() - began < 1


def test_drawbench(tmp_path: Path) -> None:
    path = tmp_path / "tq?tqx=out:csv"
    path.write_text('"Prompts","Category",""\n"A red, ""shiny"" car.",Colors,\nThree cats.,Counting,\n')
    prompts = Prompts(suite="drawbench", source=str(path))
    assert [(row["prompt"], row["category"]) for row in rows_of(prompts, tmp_path / "out")] == [
        ('A red, "shiny" car.', "Colors"),
        ("Three cats.", "Counting"),
    ]
    assert open_source(prompts).notices == ("drawbench is published with 200 prompts, this source has 2",)


def test_t2i_compbench_takes_categories_from_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "color_val.txt").write_text("a green bench and a blue bowl\na red car\n\n")
    (folder / "numeracy_val.txt").write_text("two boys\r\nsix airplanes\r\n")
    (folder / "README.md").write_text("not a prompt")
    for source in (folder, folder / "*_val.txt"):
        rows = rows_of(Prompts(suite="t2i-compbench", source=str(source)), tmp_path / "out")
        assert [(row["prompt_id"], row["category"], row["prompt"]) for row in rows] == [
            ("color_val.txt:0", "color_val", "a green bench and a blue bowl"),
            ("color_val.txt:1", "color_val", "a red car"),
            ("numeracy_val.txt:0", "numeracy_val", "two boys"),
            ("numeracy_val.txt:1", "numeracy_val", "six airplanes"),
        ]


def test_dpg_bench_takes_ids_from_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    texts = {"1": "A red truck on a beach.\n", "partiprompts97": "\ufeffA long paragraph.\nAnd its second line.\n"}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    prompts = Prompts(suite="dpg", source=str(folder))
    assert rows_of(prompts, tmp_path / "out") == [
        {"prompt_id": "1", "prompt": "A red truck on a beach."},
        {"prompt_id": "partiprompts97", "prompt": "A long paragraph.\nAnd its second line."},
    ]
    # What `sha256sum *.txt | sha256sum` prints there.
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(folder.iterdir())]
    assert open_source(prompts).sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert len(open_source(prompts).files) == 1


@pytest.mark.parametrize(
    ("suite", "content", "place", "expected", "got"),
    [
        ("partiprompts", "Text\tCategory\na\tb\n", ":1", "the column names prompt, category", "'Text\\tCategory'"),
        ("partiprompts", "prompt,category,challenge,note\n", ":1", "with tabs between", "'prompt,category"),
        ("partiprompts", PARTI + "bond\tA\tB\tC\nlife\tA\n", ":3", "4 fields", "2: 'life'"),
        ("partiprompts", PARTI + " \tA\tB\tC\n", ":2", "a prompt", "an empty field"),
        ("partiprompts", PARTI, "", "at least one prompt", "none"),
        ("drawbench", 'Prompts,Category\n"a, b",C\nx,y,z\n', ":3", "2 fields", "3: 'x'"),
        ("drawbench", 'Prompts,Category\n"a"b,C\n', ":2", "comma-separated", "','"),
        ("geneval", f"{CAR}\n{DOG}\n", ":2", "a text `tag`", "'null'"),
        ("geneval", f"{CAR}\n\n[1]\n", ":3", "one JSON object", "list"),
        ("geneval", f"{CAR}\n{CAR[:20]}\n", ":2", "one JSON object", "Unterminated"),
        ("geneval", CAR.replace('"count": 1', '"n": 1'), ":1", "`class` and `count`", "car"),
        ("t2i-compbench", "a\n\nb\n", ":2", "a prompt", "an empty line"),
        ("t2i-compbench", "a\nb\tc\n", ":2", "plain text", "'b\\tc'"),
        ("t2i-compbench", CAR, ":1", "plain text", "tag"),
        ("dpg", " \n", ":1", "one prompt", "an empty file"),
        ("dpg", "a list\n" * 300, ":11", "a file holds one prompt", "300 lines"),
        ("dpg", "fine\n\udcff\n", ":2", "UTF-8", "0xff"),
    ],
)
def test_files_of_another_shape(tmp_path: Path, suite: Any, content: str, place: str, expected: str, got: str) -> None:
    path = tmp_path / "suite.txt"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        open_source(Prompts(suite=suite, source=str(path)))
    (problem,) = caught.value.problems
    assert not isinstance(problem, str)
    assert problem.where == f"prompts.source: suite.txt{place}"
    assert expected in problem.expected and got in problem.got


def test_every_odd_line_is_told_until_there_are_too_many(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text(PARTI + "short\n" * 50)
    with pytest.raises(InputError) as caught:
        open_source(Prompts(suite="partiprompts", source=str(path)))
    assert len(caught.value.problems) == 21 and caught.value.problems[-1] == "… and 30 more"


def test_a_suite_that_changes_between_plan_and_run(tmp_path: Path) -> None:
    path = tmp_path / "geneval.jsonl"
    path.write_text(CAR)
    prompts = Prompts(suite="geneval", source=str(path))
    files = open_source(prompts).files
    path.write_text(CAR.replace("a car", "a cat"))
    with pytest.raises(InputError, match="the file as it was planned"):
        stage(files, prompts, Store(str(tmp_path / "out")))


def test_sources_that_are_no_suite(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(CAR)
    cases: list[tuple[Any, object, str]] = [
        ("geneval", tmp_path, "the one file of geneval"),
        ("dpg", tmp_path, "a .txt file"),
        ("geneval", tmp_path / "none", "nothing there"),
        ("geneval", "https://user:secret@host/x", "user and password"),
    ]
    for suite, source, words in cases:
        with pytest.raises(InputError, match=words):
            open_source(Prompts(suite=suite, source=str(source)))
    for folder in ("x", "y"):
        (tmp_path / "dpg" / folder).mkdir(parents=True)
        (tmp_path / "dpg" / folder / "1.txt").write_text("a prompt")
    with pytest.raises(InputError, match="a file name that comes once"):
        open_source(Prompts(suite="dpg", source=str(tmp_path / "dpg")))


@pytest.mark.parametrize(
    ("prompts", "where", "got"),
    [
        ("{suite: partiprompt, source: x}", "suite", "the string 'partiprompt'"),
        ("{suite: geneval}", "source", "nothing"),
        ("{suite: shapes, source: x}", "source", "'x'"),
        ("{suite: geneval, source: x, columns: {prompt: text}}", "columns", "a mapping"),
        ("{source: x, shapes: {seed: 1}}", "shapes", "a mapping"),
        ("{suite: shapes, shapes: {per_category: 0}}", "shapes.per_category", "0"),
        ("{suite: shapes, shapes: {split: test}}", "shapes.split", "the string 'test'"),
        ("{suite: shapes, shapes: {sed: 1}}", "shapes.sed", "the unknown key `sed`"),
    ],
)
def test_what_is_wrong_with_a_suite_in_a_job(prompts: str, where: str, got: str) -> None:
    problem = only(f"{NAME}{OUTPUT}prompts: {prompts}\n")
    assert (problem.where, problem.got) == (f"job.yaml:3: prompts.{where}", got)


def test_the_built_in_suite_says_what_is_true(tmp_path: Path) -> None:
    rows = rows_of(Prompts(suite="shapes"), tmp_path)
    assert Counter(row["category"] for row in rows) == dict.fromkeys(
        ("colour", "shape", "one", "size", "place", "relation"), 12
    )
    assert len({row["prompt"] for row in rows}) == len({row["prompt_id"] for row in rows}) == len(rows)
    for row in rows:
        assert parse(row["prompt"]) == Claims.from_dict(row["truth"])
    more = {
        row["prompt_id"]: row for row in rows_of(Prompts(suite="shapes", shapes=ShapesSuite(per_category=20)), tmp_path)
    }
    assert all(more[row["prompt_id"]] == row for row in rows)
    (notice,) = open_source(Prompts(suite="shapes", shapes=ShapesSuite(per_category=20))).notices
    assert notice.endswith("shape 12")
    trained = rows_of(Prompts(suite="shapes", shapes=ShapesSuite(split="train")), tmp_path)
    assert not {row["prompt"] for row in trained if row["category"] == "relation"} & {row["prompt"] for row in rows}


def test_the_built_in_suite_over_named_settings(cli: Cli, job: MakeJob, tmp_path: Path, models: Path) -> None:
    """From the job to the records: categories, truth, checksum, settings by name, and each model loaded once."""
    shutil.copytree(models / "sd", tmp_path / "other")
    made = job(
        prompts={"source": None, "suite": "shapes", "shapes": {"per_category": 2}},
        sweep={
            "settings": {
                "fast": {"num_inference_steps": 1, "scheduler": "ddim"},
                "other": {"model": str(tmp_path / "other"), "num_inference_steps": 2},
            },
            "guidance_scale": {"from": 1, "to": 3, "count": 2},
            "exclude": [{"settings": "other", "guidance_scale": 3}],
        },
        generation={"images_per_prompt": 1},
        score=[{"metric": "verified"}],
        output={"images_per_shard": 12},
    )
    planned = cli("plan", made, "--json").json
    assert (planned["prompts"], planned["variants"], planned["variants_excluded"]) == (12, 3, 1)
    sha256 = planned["suite"]["sha256"]
    assert sha256 in cli("validate", made).out and sha256[:40] in cli("plan", made).out.replace("\n", "")
    ran = cli("run", made, "--in-process", "--json")
    assert (ran.code, ran.json["kept"], ran.json["model_loads"], ran.json["suite"]["sha256"]) == (0, 36, 2, sha256)
    assert sha256 in (tmp_path / "out" / "job.json").read_text()
    rows = records(tmp_path / "out")
    variants = [json.loads(row["variant"]) for row in rows]
    assert Counter((each["settings"], each["guidance_scale"], each["num_inference_steps"]) for each in variants) == {
        ("fast", 1.0, 1): 12,
        ("fast", 3.0, 1): 12,
        ("other", 1.0, 2): 12,
    }
    assert {each["settings"]: each.get("model") for each in variants} == {
        "fast": None,
        "other": str(tmp_path / "other"),
    }
    assert {row["num_inference_steps"] for row in rows} == {1, 2}
    assert {row["category"] for row in rows} == {"colour", "shape", "one", "size", "place", "relation"}
    assert all(Claims.from_dict(row["truth"]) == parse(row["prompt"]) for row in rows)
    assert all(row["scores"]["verified"] is not None for row in rows)
    by_prompt: dict[str, set[int]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], set()).add(row["seed"])
    assert all(len(seeds) == 1 for seeds in by_prompt.values())
    changed = cli("plan", made, "--set", "prompts.shapes.seed=1")
    assert changed.code == 2 and "prompts.suite" in changed.err


def test_the_example_sweep_is_planned_without_a_heavy_library() -> None:
    script = (
        "import sys; from promptmill.pipeline.jobfile.reader import load_job\n"
        "from promptmill.pipeline.planning.plan import plan_job\n"
        "plan = plan_job(load_job('jobs/examples/sweep.yaml'))\n"
        "heavy = {'torch', 'ray', 'diffusers', 'scipy'} & set(sys.modules)\n"
        "print(plan.prompts, plan.variant_count, plan.samples, heavy)"
    )
    root = Path(__file__).parents[2]
    answer = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == f"72 12 {72 * 12 * 3} set()"


def test_what_a_model_cannot_do_may_be_left_out(cli: Cli, job: MakeJob) -> None:
    sweep = {"scheduler": ["ddim", "DDIMM"], "guidance_scale": [1.0, 2.0]}
    assert cli("plan", job(sweep=sweep)).code == 2
    assert cli("plan", job(sweep={**sweep, "exclude": [{"scheduler": "DDIMM", "guidance_scale": 1}]})).code == 2
    answer = cli("plan", job(sweep={**sweep, "exclude": [{"scheduler": "DDIMM"}]}), "--json")
    assert (answer.code, answer.json["variants"]) == (0, 2)


def test_a_million_cells_with_exclusions_ask_for_yes(cli: Cli, job: MakeJob) -> None:
    wide = {
        "num_inference_steps": {"from": 1, "to": 1000, "step": 1},
        "guidance_scale": {"from": 0, "to": 999, "step": 1},
        "exclude": [{"num_inference_steps": n} for n in range(1, 11)],
    }
    euler = {"scheduler": "euler"}  # the model's own makes 999 steps at most
    refused = cli("plan", job(sweep=wide, generation=euler))
    assert refused.code == 2 and "990,000 (" in refused.err and "10,000 excluded" in refused.err
    answer = cli("plan", job(sweep=wide, generation=euler), "--yes", "--json")
    assert (answer.code, answer.json["variants"]) == (0, 990_000)
