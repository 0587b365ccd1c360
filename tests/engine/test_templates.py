"""Texts put together from attributes: by arithmetic, the same in every worker, each choice a column."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from promptmill.jobs.options import loaded_job
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.prompts.expansion import Expansion
from promptmill.pipeline.prompts.reader import prompt_reader
from promptmill.pipeline.prompts.staging import stage
from promptmill.schemas.errors import InputError, JobError
from tests.heart import mill


def planned(seed: int = 0, **prompts: Any) -> Plan:
    return plan_job(
        mill.job(Path("unused"), seed=seed, prompts={"source": None, "classes": ["ring", "cross"], **prompts})
    )


def read(plan: Plan, start: int = 0, stop: int | None = None) -> list[dict[str, Any]]:
    """Of each prompt what its record would say of its text."""
    store = mill.memory()
    files = stage(plan.segments[0].files, plan.job.prompts, store)
    reader = prompt_reader(files, store, plan.source_schema, plan.job.prompts, plan.words)
    block = reader.read(start, plan.prompts if stop is None else stop)
    choices = block.passthrough.to_pylist()
    return [
        {**each, "id": prompt.prompt_id, "text": prompt.prompt, "error": prompt.error}
        for prompt, each in zip(block.prompts, choices, strict=True)
    ]


def texts(plan: Plan) -> list[str]:
    return [row["text"] for row in read(plan)]


def test_all_combinations_of_attributes_in_order() -> None:
    plan = planned(
        templates=["a {colour} {class}, {size}", "{class}"],
        attributes={"colour": ["red", "blue"], "size": ["small", "large", "tiny"]},
    )
    rows = read(plan)
    assert (plan.prompts, plan.samples, len({row["id"] for row in rows})) == (14, 28, 14)
    assert [row["text"] for row in rows[:8]] == [
        *("a red ring, small", "a red ring, large", "a red ring, tiny"),
        *("a blue ring, small", "a blue ring, large", "a blue ring, tiny"),
        *("ring", "a red cross, small"),
    ]
    assert [(row["colour"], row["size"]) for row in rows[5:7]] == [("blue", "tiny"), (None, None)]
    assert rows[0]["template"] == "a {colour} {class}, {size}"
    assert read(plan, 4, 9) == rows[4:9]


def test_an_attribute_inside_of_another_is_chosen_where_its_value_is() -> None:
    plan = planned(
        classes=["ring"],
        templates=["{place} {colour}"],
        attributes={"place": ["nowhere", "a {colour} {thing}"], "thing": ["wall", "sea"], "colour": ["red", "blue"]},
    )
    assert texts(plan) == [
        *("nowhere red", "nowhere blue"),
        *("a red wall red", "a red sea red", "a blue wall blue", "a blue sea blue"),
    ]
    assert read(plan)[2] == {
        **{"place": "a red wall", "thing": "wall", "colour": "red", "template": "{place} {colour}"},
        **{"id": "ring#2", "text": "a red wall red", "error": None},
    }


def test_draws_are_the_same_for_the_same_job_and_others_for_another_seed() -> None:
    given: dict[str, Any] = {
        "templates": ["a {colour} {class}, all {colour}"],
        "attributes": {"colour": {"red": 3, "blue": 1}},
        "draws": 400,
    }
    plan = planned(**given)
    rows = read(plan)
    assert plan.prompts == 800 and read(plan, 300, 310) == rows[300:310]
    assert all(row["text"].count(row["colour"]) == 2 for row in rows)
    share = Counter(row["colour"] for row in rows)["red"] / 800
    assert 0.7 < share < 0.8
    assert texts(planned(seed=1, **given)) != [row["text"] for row in rows]
    assert any("796 are repeated" in notice for notice in plan.notices)


def test_values_from_a_file_and_from_a_column(tmp_path: Path) -> None:
    (tmp_path / "places.txt").write_text("# where\nhills\n\nsea\n")
    (tmp_path / "sizes.csv").write_text("value,weight\nsmall,1\nlarge,9\n")
    path = mill.write_prompts(tmp_path / "a.parquet", ["x", "y", "z"], hue=["red", "blue", None])
    job = mill.job(
        path,
        prompts={
            "templates": ["{tone} in {place}, {size}"],
            "attributes": {
                "tone": {"column": "hue"},
                "place": {"file": str(tmp_path / "places.txt")},
                "size": {"file": str(tmp_path / "sizes.csv")},
            },
            "draws": 2,
        },
    )
    plan = plan_job(job)
    rows = read(plan)
    assert all(row["tone"] == row["hue"] for row in rows[:4])
    assert {row["place"] for row in rows} == {"hills", "sea"}
    assert rows[4]["error"] is not None and "tone: null" in rows[4]["error"].message
    (tmp_path / "places.txt").write_text("hills\nlake\n")
    assert plan_job(job).fingerprint != plan.fingerprint


def test_choices_are_columns_also_of_rejects_and_after_a_retry(tmp_path: Path) -> None:
    plan = planned(templates=["a {colour} {class}"], attributes={"colour": ["red", "blue"]})
    store = mill.memory()
    mill.make_missing(claim_output(plan, store), store, ("blue",))
    assert {row["colour"] for row in mill.rows(store, "failures")} == {"blue"}
    mill.make_missing(plan_retry(plan, store), store)
    rows = mill.rows(store)
    assert Counter((row["label_name"], row["colour"]) for row in rows) == {
        (name, colour): 2 for name in ("ring", "cross") for colour in ("red", "blue")
    }
    assert all(row["colour"] in row["prompt"] and row["template"] == "a {colour} {class}" for row in rows)


def test_ten_million_prompts_are_planned_by_arithmetic() -> None:
    numbers = [str(i) for i in range(100)]
    tracemalloc.start()
    started = time.monotonic()
    plan = planned(
        templates=["{class} {a} {b} {c} {d}"],
        attributes={"a": numbers, "b": numbers, "c": numbers, "d": numbers[:5]},
    )
    seconds, peak = time.monotonic() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.prompts == 10_000_000
    assert read(plan, 9_999_998)[1]["text"] == "cross 99 99 99 4"
    assert peak < 64 << 20 and seconds < 20


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"templates": ["{colur}"], "attributes": {"colour": ["red"]}}, r"templates\[0\].*Did you mean 'colour'"),
        ({"templates": ["{a}"], "attributes": {"a": ["{b}"], "b": ["{a}"]}}, "attributes.b: .*a cycle: a → b → a"),
        ({"templates": ["{a}"], "attributes": {"a": ["{nowhere}"]}}, r"attributes.a: expected .*nowhere"),
        ({"templates": ["{a}"], "attributes": {"a": []}}, "attributes.a: expected a list of values.*got nothing"),
        ({"templates": ["{a}"], "attributes": {"a": ["{"]}}, "attributes.a: expected braces that hold a name"),
        ({"templates": ["{a}"], "attributes": {"a": {"x": 2}}}, "Say how many|say how many"),
        ({"templates": ["{class}"], "attributes": {"class": ["x"]}}, "another name"),
        ({"attributes": {"a": ["x"]}}, "Attributes stand in templates"),
        ({"draws": 3}, "nothing to draw"),
        ({"templates": ["{a}"], "attributes": {"a": {"file": "nowhere.txt"}}}, "attributes.a: nowhere.txt"),
        (
            {
                "templates": [" ".join(f"{{a{i}}}" for i in range(20))],
                "attributes": {f"a{i}": [str(n) for n in range(10)] for i in range(20)},
            },
            "2\\^53",
        ),
    ],
)
def test_what_cannot_be_put_together_is_refused(prompts: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        planned(**prompts)


def test_a_wrong_line_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine\n# no value\nbad {nothing}\n")
    with pytest.raises(InputError, match=r"a.txt:3: expected one of the names .*nothing"):
        planned(templates=["{a}"], attributes={"a": {"file": str(tmp_path / "a.txt")}})
    (tmp_path / "a.txt").write_text("\n# nothing\n")
    with pytest.raises(InputError, match="a.txt: expected at least one line"):
        planned(templates=["{a}"], attributes={"a": {"file": str(tmp_path / "a.txt")}})


def test_a_name_that_is_unknown_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    text = "prompts:\n  classes: [a]\n  templates:\n    - a star\n    - a {colr}\n"
    path.write_text(f"name: x\n{text}output: {{url: memory://x}}\n")
    with pytest.raises(JobError, match=r"job.yaml:6: prompts.templates.1: .*'colr'"), loaded_job(str(path), []) as job:
        plan_job(job)


def test_templates_of_before_have_their_ids_and_no_new_columns(tmp_path: Path) -> None:
    path = mill.write_prompts(tmp_path / "a.parquet", ["x", "y"])
    plan = plan_job(mill.job(path, prompts={"templates": ["a {prompt}", "the {prompt}"]}))
    rows = read(plan)
    assert [row["id"] for row in rows] == ["a.parquet:0#0", "a.parquet:0#1", "a.parquet:1#0", "a.parquet:1#1"]
    assert set(rows[0]) == {"prompt", "id", "text", "error"}


def wild(tmp_path: Path, prompts: list[str], **more: Any) -> Plan:
    path = mill.write_prompts(tmp_path / "a.parquet", prompts)
    return plan_job(mill.job(path, prompts={"wildcards": str(tmp_path / "wild"), **more}))


@pytest.fixture
def wild_files(tmp_path: Path) -> Path:
    folder = tmp_path / "wild"
    (folder / "deep").mkdir(parents=True)
    (folder / "colour.txt").write_text("red\nblue\n{dark|light} green\n")
    (folder / "deep" / "place.txt").write_text("hills of __colour__\n")
    return folder


def test_wildcards_are_read_where_asked_for(tmp_path: Path, wild_files: Path) -> None:
    prompts = ["a {small|large} star", "{2$$a|b|c}", "{2$$ and $$a|b}", "__colour__", "at __deep/place__", "{1-2$$x|y}"]
    plan = wild(tmp_path, prompts, draws=50)
    rows = read(plan)
    found = {written: {row["text"] for row in rows if row["template"] == written} for written in prompts}
    assert found["a {small|large} star"] == {"a small star", "a large star"}
    assert found["{2$$a|b|c}"] == {"a, b", "b, a", "a, c", "c, a", "b, c", "c, b"}
    assert found["{2$$ and $$a|b}"] == {"a and b", "b and a"}
    assert found["__colour__"] == {"red", "blue", "dark green", "light green"}
    assert found["at __deep/place__"] == {f"at hills of {each}" for each in found["__colour__"]}
    assert found["{1-2$$x|y}"] == {"x", "y", "x, y", "y, x"}
    assert rows == read(wild(tmp_path, prompts, draws=50))


def test_a_prompt_with_braces_stays_text_without_wildcards(tmp_path: Path) -> None:
    path = mill.write_prompts(tmp_path / "a.parquet", ["a {small|large} __star__"])
    assert texts(plan_job(mill.job(path))) == ["a {small|large} __star__"]


def test_weights_of_options_count(tmp_path: Path, wild_files: Path) -> None:
    plan = wild(tmp_path, ["{9::a|1::b|0::c}"], draws=400)
    share = Counter(texts(plan))
    assert share["a"] > 320 and share["b"] and not share["c"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("__none__", "a.parquet row 0: expected a file none.txt"),
        ("__loop__", "loop.txt:1: expected lines that end somewhere, got a cycle"),
        ("__empty__", "got an empty one"),
        ("__bad__", "bad.txt:2: expected choices"),
    ],
)
def test_wildcard_files_that_cannot_be_read_are_refused(
    tmp_path: Path, wild_files: Path, prompt: str, message: str
) -> None:
    (wild_files / "loop.txt").write_text("x __loop__\n")
    (wild_files / "empty.txt").write_text("")
    (wild_files / "bad.txt").write_text("x\n{y\n")
    with pytest.raises(InputError, match=message):
        wild(tmp_path, [prompt])


def test_a_prompt_in_bad_notation_costs_itself(tmp_path: Path, wild_files: Path) -> None:
    rows = read(wild(tmp_path, ["{a|b", "a star"]))
    assert rows[0]["error"].kind == "invalid_syntax" and rows[1]["error"] is None


def test_names_and_choices_in_one_template(tmp_path: Path, wild_files: Path) -> None:
    plan = planned(
        templates=["{a|the} {colour} {class} {{|}}"],
        attributes={"colour": ["red"]},
        wildcards=str(wild_files),
        draws=20,
    )
    assert set(texts(plan)) == {f"{a} red {name} {{|}}" for a in ("a", "the") for name in ("ring", "cross")}


def test_combinations_are_counted_as_they_are_listed() -> None:
    plan = planned(
        classes=["x"],
        templates=["{a} {b}"],
        attributes={"a": ["1", "2 {c}", "3 {b} {c}"], "b": ["4", "5 {c}"], "c": ["6", "7"]},
    )
    expansion = Expansion(plan.job.prompts, plan.words)
    listed = [expansion.at("x", i, {"class": "x"}).text for i in range(expansion.each)]
    assert len(set(listed)) == len(listed) == 11


def test_a_row_without_a_prompt_that_is_drawn_often_costs_only_its_own_samples(tmp_path: Path) -> None:
    """All of them had one id, and their shard never added up."""
    file = mill.write_prompts(tmp_path / "a.parquet", ["a {red|blue} ring", None, " "])
    asked = {"source": str(file), "classes": None, "wildcards": True, "draws": 2}
    plan = plan_job(mill.job(file, prompts=asked))
    assert [row["id"] for row in read(plan)] == [f"a.parquet:{row}#{draw}" for row in range(3) for draw in range(2)]
    store = mill.memory()
    mill.make_missing(claim_output(plan, store), store)
    failed = [(row["error_kind"], row["message"]) for row in mill.rows(store, "failures")]
    assert sorted(set(failed)) == [("empty_prompt", "nothing but white space"), ("empty_prompt", "null")]
    assert (len(failed), len(mill.rows(store))) == (8, 4)


def test_lines_of_a_file_end_where_those_of_prompts_do(tmp_path: Path) -> None:
    (tmp_path / "places.txt").write_text("a wall\u2028of stone\r\na\x0bsea\n\nthe moon", encoding="utf-8", newline="")
    plan = planned(
        classes=["ring"], templates=["{place}"], attributes={"place": {"file": str(tmp_path / "places.txt")}}
    )
    assert texts(plan) == ["a wall\u2028of stone", "a\x0bsea", "the moon"]


def test_a_value_with_doubled_braces_shows_one() -> None:
    plan = planned(classes=["ring"], templates=["{mark}"], attributes={"mark": ["a }} b", "{{c}}"]})
    assert texts(plan) == ["a } b", "{c}"]


def test_weights_that_no_sum_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="1e\\+09|1000000000"):
        planned(templates=["{c}"], attributes={"c": {"y": 1e308, "z": 1e308}}, draws=2)
    (tmp_path / "c.csv").write_text("value,weight\ny,1e308\nz,1e308\n")
    with pytest.raises(InputError, match="at most 1e\\+09"):
        planned(templates=["{c}"], attributes={"c": {"file": str(tmp_path / "c.csv")}}, draws=2)


def test_a_count_of_many_digits_is_one_number() -> None:
    """It was read as 100000 to 0 of them."""
    plan = planned(classes=["ring"], templates=["{1000000$$ and $$a|b}"], wildcards=True, draws=8)
    assert {*texts(plan)} == {"a and b", "b and a"}


@pytest.mark.parametrize("kind", ["folder", "paths", "bytes"])
def test_prompts_of_other_images_are_no_repeats(tmp_path: Path, kind: str) -> None:
    """A class of four images was told that three of its four prompts repeat."""
    images = tmp_path / "images"
    (images / "ring").mkdir(parents=True)
    contents = []
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(images / "ring" / f"{i}.png")
        contents.append((images / "ring" / f"{i}.png").read_bytes())
    mapped = {"image": "image"}
    if kind == "folder":
        prompts: dict[str, Any] = {"source": str(images), "columns": {"image": "file_name"}}
    else:
        rows = contents if kind == "bytes" else [f"images/ring/{i}.png" for i in (0, 1, 1)]
        path = mill.write_prompts(tmp_path / "a.parquet", ["x"] * 3, image=rows, label=["ring"] * 3)
        prompts = {"source": str(path), "columns": mapped}
    prompts |= {"templates": ["a {colour} {label}"], "attributes": {"colour": ["red"]}}
    plan = plan_job(mill.job(tmp_path / "a.parquet", prompts=prompts))
    told = [notice for notice in plan.notices if "repeated" in notice]
    assert told == (["prompts: of 3 prompts 1 is repeated"] if kind == "paths" else [])
