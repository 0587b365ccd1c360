"""Prompts as lists for AUTOMATIC1111 have them: weights, tags and flags act, and what cannot is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.pipelines import load_pipeline
from promptmill.pipeline.models.diffusion.prompt_encoder import PromptEncoder
from promptmill.pipeline.prompts.a1111 import read_line
from promptmill.schemas.emphasis import parts_of_prompt, words_of, wrong_emphasis
from promptmill.schemas.generation import Model
from tests.engine.conftest import Answer, records
from tests.engine.test_inputs import picture
from tests.models import tiny
from tests.models.test_adapters import write_lora

Cli = Callable[..., Answer]
Job = Callable[..., Path]
BY_TEN = 1 / 1.1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a (red:1.2) circle", [[("a ", 1.0), ("red", 1.2), (" circle", 1.0)]]),
        ("((red)) [blue]", [[("red", 1.1 * 1.1), (" ", 1.0), ("blue", BY_TEN)]]),
        ("a BREAK b (c BREAK d:1.3)", [[("a", 1.0)], [("b ", 1.0), ("c", 1.3)], [("d", 1.3)]]),
        (r"\(a\) b", [[("(a) b", 1.0)]]),
        ("BREAK", [[("", 1.0)]]),
        ("breakfast: a", [[("breakfast: a", 1.0)]]),
        ("(a:0.5), b", [[("a", 0.5), (", b", 1.0)]]),
    ],
)
def test_weights_are_read_as_their_tool_reads_them(text: str, parts: list[list[tuple[str, float]]]) -> None:
    assert parts_of_prompt(text) == parts
    assert wrong_emphasis(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a (red circle", "no other half"),
        ("a red) circle", "no other half"),
        ("(a]b)", "no other half"),
        ("(a:1.2.3)", "no weight"),
        ("(a:11)", "at most 10"),
        ("(" * 30 + "a" + ")" * 30, "at most 10"),
        ("[a:b:0.5]", "from step to step"),
        ("[a|b]", "from step to step"),
        ("a AND b", "several prompts"),
        ("a <lora:>", "<lora:name>"),
        ("a <hypernet:x:1>", "<lora:name>"),
        ("a <lora:x:big>", "a weight is"),
        ("a <lora:x:nan>", "a weight is"),
        ("a <lora:x:1:0.5>", "<lora:name>"),
        ("a <lora:x> <lora:x:0.5>", "twice"),
        ("a --seed", "without a value"),
        ("a --seed 1 --seed 2", "twice"),
        ("a --width wide", "no number"),
        ("a --width 4", "greater than or equal"),
        ("a --cfg_scale nan", "--cfg_scale nan"),
        ("a --ar 16", "16:9"),
        ("a --ar 0:9", "16:9"),
        ("a --ar 1000:1", "16:9"),
        ("a --ar 1:1 --width 64", "beside an aspect ratio"),
        ("a --sampler_name Euler", "--sampler_name"),
        ("a --prompt b", "two prompts"),
    ],
)
def test_what_cannot_be_drawn_as_it_is_meant_says_why(text: str, said: str) -> None:
    line = read_line(text)
    assert line.wrong is not None and said in line.wrong
    assert line.prompt == text


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (
            '--prompt "a \\"red\\" dog\'s --ball" --negative_prompt \'no cat\' --seed 5 --cfg-scale=2.5 --steps 7',
            ('a "red" dog\'s --ball', "no cat", "5", {"guidance_scale": 2.5, "num_inference_steps": 7}),
        ),
        ("a dog's ball --ar 16:9 --no cats, dogs --v 5", ("a dog's ball", "cats, dogs", None, {"aspect": 16 / 9})),
        ("a 5--6 -- dash", ("a 5--6 -- dash", None, None, {})),
        ('a ring --seed 3 --do_not_save_samples true --outpath-samples "a b"', ("a ring", None, "3", {})),
        ("--prompt a red circle --width 64", ("a red circle", None, None, {"width": 64})),
    ],
)
def test_flags_are_read_line_by_line(text: str, read: tuple[str, str | None, str | None, dict[str, Any]]) -> None:
    line = read_line(text)
    assert line.wrong is None
    assert (line.prompt, line.negative_prompt, line.seed, line.settings) == read


def encoder(path: Path) -> PromptEncoder:
    model = resolve_model(Model(path=str(path), dtype="float32"), "model")
    return PromptEncoder(load_pipeline(model, torch.float32, torch.device("cpu")))


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_weight_moves_its_own_words_and_no_mate(family: str, models: Path, tmp_path: Path) -> None:
    if family == "sdxl":
        tiny.build_sdxl(tmp_path / "sdxl")
    texts = encoder(models / "sd" if family == "sd" else tmp_path / "sdxl")
    texts.prepare(["a red circle", "a blue square"])
    plain = texts.prompt("a red circle").tensors
    texts.read_weights(True)
    texts.prepare(["a red circle", "a (red:1.5) circle", "a (blue:0.3) square BREAK a star"])
    same, weighed = texts.prompt("a red circle").tensors, texts.prompt("a (red:1.5) circle").tensors
    assert same.keys() == plain.keys() and all(torch.equal(same[name], plain[name]) for name in plain)
    moved = (weighed["prompt_embeds"] != plain["prompt_embeds"]).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [2]  # after the start and `a`
    empty = texts.prompt("").tensors["prompt_embeds"]
    expected = empty[2] + 1.5 * (plain["prompt_embeds"][2] - empty[2])
    assert torch.allclose(weighed["prompt_embeds"][2], expected, atol=1e-6)
    texts.prepare(["a (red:1.5) circle", "a (star:2)"])
    assert torch.equal(texts.prompt("a (red:1.5) circle").tensors["prompt_embeds"], weighed["prompt_embeds"])


def test_long_prompts_and_breaks_are_read_whole(models: Path) -> None:
    texts = encoder(models / "sd")
    long = ", ".join(["a red circle"] * 12)
    assert texts.prompt(long).truncated == ("",)
    texts.read_weights(True)
    assert texts.prompt(long).truncated == ()
    least = tiny.CLIP_TOKENS - 2
    assert texts.parts(long) == -(-12 // (least // 4))  # three words and a comma, and none is cut in two
    assert len(texts.prompt(long).tensors["prompt_embeds"]) == texts.parts(long) * tiny.CLIP_TOKENS
    two = texts.prompt("a red circle BREAK a star").tensors["prompt_embeds"]
    assert torch.equal(two[: tiny.CLIP_TOKENS], texts.prompt("a red circle").tensors["prompt_embeds"])
    assert torch.equal(two[tiny.CLIP_TOKENS :], texts.prompt("a star").tensors["prompt_embeds"])
    filled = texts.filled(texts.negative("a star"), 2).tensors["prompt_embeds"]
    assert torch.equal(filled[tiny.CLIP_TOKENS :], texts.prompt("").tensors["prompt_embeds"])


LINES = [
    "a (red:1.3) circle <lora:bold:0.7>",
    'a red circle --seed 5 --width 32 --height 64 --steps 3 --cfg-scale 2.5 --negative_prompt "(blurry:1.2)"',
    "a green triangle BREAK a star --ar 2:1 --v 6",
    "a broken (circle",
    "a red circle --width 33",
    r"a \(red\) circle",
]


def test_a_list_of_another_tool_is_drawn_as_it_is_meant(
    cli: Cli, job: Job, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_lora(models / "sd", tmp_path / "lora", 1)
    source = tmp_path / "list.txt"
    source.write_text("\n".join(LINES) + "\n")
    path = job(
        prompts={"source": str(source), "syntax": "a1111"},
        model={"adapters": [{"name": "bold", "path": str(file)}]},
        generation={"images_per_prompt": 1},
        output={"images_per_shard": 8},
    )
    answer = cli("validate", path)
    assert answer.code == 0, answer.err
    assert "1 prompts have `--v`, left out" in answer.out
    assert "1 prompts cannot be read as `prompts.syntax` says: list.txt row 3: '(' has no other half" in answer.out
    assert cli("run", path, "--in-process").code == 3
    rows = records(tmp_path / "out")
    assert [row["prompt_written"] for row in rows] == [LINES[i] for i in (0, 1, 2, 5)]
    assert [row["prompt"] for row in rows] == [
        "a (red:1.3) circle",
        "a red circle",
        "a green triangle BREAK a star",
        r"a \(red\) circle",
    ]
    assert [row["caption"] for row in rows] == [
        "a red circle",
        "a red circle",
        "a green triangle a star",
        "a (red) circle",
    ]
    assert [[each["weight"] for each in row["adapters"]] for row in rows] == [[0.7], [], [], []]
    own = rows[1]
    assert (own["seed"], own["width"], own["height"]) == (5, 32, 64)
    assert (own["num_inference_steps"], own["guidance_scale"], own["negative_prompt"]) == (3, 2.5, "(blurry:1.2)")
    assert (rows[2]["width"], rows[2]["height"]) == (88, 48)
    assert not any("truncated" in flag for row in rows for flag in row["flags"])
    failures = records(tmp_path / "out", "failures")
    failed = {row["prompt_written"]: (row["error_kind"], row["message"]) for row in failures}
    assert failed[LINES[3]][0] == "invalid_syntax" and failed[LINES[4]][0] == "invalid_setting"
    assert "a multiple of 8" in failed[LINES[4]][1]
    assert cli("reproduce", tmp_path / "out", rows[2]["sample_id"], "--json").json["identical"]
    source.unlink()  # from the row alone
    for row in rows[:2]:
        assert cli("reproduce", tmp_path / "out", row["sample_id"], "--json").json["max_difference"] <= 1


def test_mates_and_their_weights_change_nothing(cli: Cli, job: Job, tmp_path: Path) -> None:
    first, found = "a red circle --seed 7", []
    for number, mate in enumerate(["a blue star --seed 1", "a ((blue:1.4)) [star] --seed 1"]):
        source = tmp_path / f"{number}.txt"
        source.write_text(f"{first}\n{mate}\n")
        out = tmp_path / str(number)
        prompts = {"source": str(source), "syntax": "a1111"}
        path = job(prompts=prompts, generation={"images_per_prompt": 1}, output={"url": str(out)}, score=None)
        assert cli("run", path, "--in-process").code == 0
        found.append([row["image_phash"] + str(row["image"]["bytes"][-3000:]) for row in records(out)])
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def test_a_retry_draws_what_its_row_says(cli: Cli, job: Job, models: Path, tmp_path: Path) -> None:
    file = write_lora(models / "sd", tmp_path / "lora", 1)
    source = tmp_path / "rows.jsonl"
    text = "a (red:1.5) circle <lora:bold:0.7> --steps 3 --seed 5 --width 32 --height 64"
    source.write_text(json.dumps({"prompt": text, "photo": "a.png"}) + "\n")
    (tmp_path / "a.png").write_bytes(b"")
    found = []
    for out in ("late", "at once"):
        path = job(
            prompts={"source": str(source), "syntax": "a1111", "columns": {"image": "photo"}},
            model={"adapters": [{"name": "bold", "path": str(file), "weight": 0.2}]},
            generation={"images_per_prompt": 1},
            output={"url": str(tmp_path / out)},
            score=None,
        )
        assert cli("run", path, "--in-process").code == (3 if out == "late" else 0)
        if out == "late":
            picture(1).save(tmp_path / "a.png")
            assert cli("retry", tmp_path / out, "--in-process").code == 0
        found += records(tmp_path / out)
    assert found[0].pop("image_sha256") == found[1].pop("image_sha256")
    assert found[0] == found[1]
    assert (found[0]["width"], found[0]["adapters"][0]["weight"], found[0]["prompt_written"]) == (32, 0.7, text)


def test_what_no_model_of_the_job_can_is_refused(cli: Cli, job: Job, models: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_text("a red circle\na circle <lora:wild:0.5>\na (blue:1.2) star\n")
    prompts = {"source": str(source), "syntax": "a1111"}
    answer = cli("validate", job(prompts=prompts))
    assert answer.code == 2
    assert "prompts.syntax: list.txt row 1" in answer.err and "it has none" in answer.err and "'wild'" in answer.err
    tiny.build_flux(tmp_path / "flux")
    answer = cli("validate", job(prompts=prompts, model={"path": str(tmp_path / "flux")}))
    assert "prompts.syntax: list.txt row 2" in answer.err and "a FluxPipeline" in answer.err
    answer = cli("validate", job(prompts={**prompts, "suite": "drawbench"}))
    assert answer.code == 2 and "prompts.syntax" in answer.err


def test_without_the_setting_it_is_said_that_letters_are_drawn(cli: Cli, job: Job, tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_text("a (red:1.2) circle\na blue star --ar 16:9\na green star --ar 1:1\n")
    answer = cli("plan", job(prompts={"source": str(source)}))
    assert "of 3 prompts 2 are written for another tool: `--ar` and its kin" in answer.out
    assert "of 3 prompts 1 is written for another tool: weights `(a:1.2)`" in answer.out
    assert answer.out.count("`prompts.syntax: a1111` reads it") == 2
    assert words_of("a (red:1.2) circle BREAK b") == "a red circle b"
