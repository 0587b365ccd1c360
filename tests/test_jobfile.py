"""A job file becomes a `Job`, or one JobError that names every problem with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from promptmill.pipeline.jobfile.reader import MAX_PROBLEMS, parse_job
from promptmill.schemas.errors import JobError
from promptmill.schemas.job import Job
from tests.job_problems import JOB, NAME, OUTPUT, PROMPTS, only, problems


def test_the_smallest_job() -> None:
    job = parse_job(JOB, "job.yaml")
    assert (job.name, job.prompts.source, job.output.url) == ("a", "p.txt", "out/x")
    assert job == Job.model_validate(yaml.safe_load(JOB))


_STEPS = "an integer from 1 to 1000"
_SIZE = "an integer from 8 to 16384 or null"
_WIDTHS = f"a list (each {_SIZE}) or a mapping (from, to, step, count)"
_GUIDANCE = "a number from 0 to 1000"


@pytest.mark.parametrize(
    ("line", "where", "expected", "got", "hint"),
    [
        ("generation: {num_inference_steps: 0}", "generation.num_inference_steps", _STEPS, "0", ""),
        ("generation: {num_inference_steps: -3}", "generation.num_inference_steps", _STEPS, "-3", ""),
        ("generation: {num_inference_steps: true}", "generation.num_inference_steps", _STEPS, "true", ""),
        (
            "generation: {num_inference_steps: '20'}",
            "generation.num_inference_steps",
            _STEPS,
            "the string '20'",
            "Remove the quotes.",
        ),
        ("generation: {num_inference_steps: 'ten'}", "generation.num_inference_steps", _STEPS, "the string 'ten'", ""),
        (
            "generation: {num_inference_steps: 1_000}",
            "generation.num_inference_steps",
            _STEPS,
            "the string '1_000'",
            "",
        ),
        ("generation: {width: 64.0}", "generation.width", _SIZE, "64.0", "Write 64."),
        ("generation: {guidance_scale: .nan}", "generation.guidance_scale", _GUIDANCE, ".nan", ""),
        ("generation: {guidance_scale: .inf}", "generation.guidance_scale", _GUIDANCE, ".inf", ""),
        ("generation: {guidance_scale: 1e999}", "generation.guidance_scale", _GUIDANCE, "1e999", ""),
        ("generation: {guidance_scale: no}", "generation.guidance_scale", _GUIDANCE, "the string 'no'", ""),
        (
            "generation: {scheduler: 5}",
            "generation.scheduler",
            "a non-empty string or null",
            "5",
            'Put it in quotes: "5".',
        ),
        (
            "generation: {negative_prompt: }",
            "generation.negative_prompt",
            "a string",
            "null",
            'Write "" for an empty text.',
        ),
        ("generation: 3", "generation", None, "3", ""),
        (
            "model: {revision: 012345}",
            "model.revision",
            "a non-empty string or null",
            "012345",
            'Put it in quotes: "012345".',
        ),
        (
            "model: {dtype: fp16}",
            "model.dtype",
            "auto, float32, bfloat16 or float16",
            "the string 'fp16'",
            "Did you mean float16?",
        ),
        ("compute: {workers: x}", "compute.workers", "an integer from 1 to 100000 or auto", "the string 'x'", ""),
        ("compute: {workers: atuo}", "compute.workers", None, "the string 'atuo'", "Did you mean auto?"),
        ("compute: {gpus_per_worker: -1}", "compute.gpus_per_worker", "a number from 0 to 64 or auto", "-1", ""),
        ("compute: {step_timeout_s: 0}", "compute.step_timeout_s", "a number above 0", "0", ""),
        ("compute: {max_failure_share: 2}", "compute.max_failure_share", "a number above 0 and at most 1", "2", ""),
        ("seed: -1", "seed", "an integer from 0 to 9007199254740991", "-1", ""),
        ("prompts: {source: p, limit: 0}", "prompts.limit", "an integer of at least 1 or null", "0", ""),
        ("output: {url: o, embed_parameters: yes}", "output.embed_parameters", "true or false", None, "Write true."),
        ("output: {url: o, image_format: jpg}", "output.image_format", "png, webp or jpeg", None, "Did you mean jpeg?"),
        ("output: {url: ''}", "output.url", "a non-empty string", "an empty string", ""),
        ("name: false", "name", "a non-empty string of at most 200 characters", "false", 'Put it in quotes: "false".'),
        (
            "score: {clip: x}",
            "score",
            "a list (each a mapping (clip, relative, distractors, metric, classifier, python, …))",
            "a mapping (clip)",
            "Write it as a list: [ … ].",
        ),
        ("sweep: {width: []}", "sweep.width", _WIDTHS, "an empty list", ""),
        ("sweep: {width: 64}", "sweep.width", _WIDTHS, "64", "Write it as a list: [ … ]."),
        ("sweep: {guidance_scale: [1, q]}", "sweep.guidance_scale.1", _GUIDANCE, "the string 'q'", ""),
        (
            "sweep: {model: [1]}",
            "sweep.model.0",
            "a non-empty string or a mapping (path, revision, dtype, quantization, offload, device_map, …)",
            "1",
            None,
        ),
        ("sweep: {model: [x, {path: ''}]}", "sweep.model.1.path", "a non-empty string", "an empty string", ""),
        ("prompts: {source: p, columns: {mask: m}}", "prompts.columns.image", "a column's name", "null", None),
        ("score: [{metric: fid}]", "score.0.metric", "image or verified or null", "the string 'fid'", None),
    ],
)
def test_wrong_value(line: str, where: str, expected: str | None, got: str | None, hint: str | None) -> None:
    key = line.partition(":")[0]
    base = "".join(each for each in (NAME, PROMPTS, OUTPUT) if not each.startswith(key))
    problem = only(base + line)
    assert problem.where == f"job.yaml:{base.count(chr(10)) + 1}: {where}"
    for found, wanted in ((problem.expected, expected), (problem.got, got), (problem.hint, hint)):
        assert wanted is None or found == wanted


def test_values_are_shown_short_and_without_control_characters() -> None:
    problem = only(JOB + 'seed: "' + "\\e[31m\\u202e" + "x" * 500 + '"')
    assert problem.got.startswith("the string '\\x1b[31m\\u202exxx")
    assert problem.got.isprintable()
    assert len(problem.got) < 100


@pytest.mark.parametrize(
    ("line", "key", "hint"),
    [
        ("generation: {steps: 3}", "generation.steps", "Did you mean `num_inference_steps`?"),
        ("generation: {guidence_scale: 3}", "generation.guidence_scale", "Did you mean `guidance_scale`?"),
        ("generation: {cfg_scale: 3}", "generation.cfg_scale", "Did you mean `guidance_scale`?"),
        ("generation: {Width: 64}", "generation.Width", "Did you mean `width`?"),
        ("generation: {seed: 3}", "generation.seed", "`seed` belongs at the top level of the job."),
        ("guidance_scale: 3", "guidance_scale", "`guidance_scale` belongs under `generation`."),
        ("guidance-scale: 3", "guidance-scale", "Did you mean `generation.guidance_scale`?"),
        ("columns: {}", "columns", "`columns` belongs under `prompts`."),
        ("genration: {}", "genration", "Did you mean `generation`?"),
        ("score: [{clipp: x, clip: y}]", "score.0.clipp", "Did you mean `clip`?"),
        ("model: {name: x}", "model.name", "Did you mean `path`?"),
        ("sweep: {model: [{pth: x}]}", "sweep.model.0.pth", "Did you mean `path`?"),
        ("sweep: {frobs: [1]}", "sweep.frobs", "Its fields are: model, settings, num_inference_steps, "),
        ("sweep: {seed: [1, 2]}", "sweep.seed", "Seeds are no axis: "),
        ("xyzzy: 1", "xyzzy", "The job's fields are: name, seed, prompts, "),
        ("1: 1", "1", "The job's fields are: "),
        ("'': 1", "", "The job's fields are: "),
    ],
)
def test_unknown_key(line: str, key: str, hint: str) -> None:
    problem = only(JOB + line)
    assert problem.where == f"job.yaml:4: {key}".rstrip(": ")
    assert problem.got == f"the unknown key `{key.rpartition('.')[-1]}`"
    assert problem.hint.startswith(hint)
    section = ".".join(part for part in key.split(".")[:-1] if not part.isdigit()).replace("sweep.model", "model")
    assert problem.expected == (f"a field of `{section}`" if section else "a field of the job")


def test_missing_keys_point_at_their_section() -> None:
    text = "# a comment\nname: a\nprompts:\n  limit: 3\nscore:\n  - name: x\n"
    found = problems(text)
    assert [(each.where, each.got) for each in found] == [
        ("job.yaml:2: output", "nothing"),
        ("job.yaml:3: prompts.source", "nothing"),
        ("job.yaml:6: score.0.clip", "nothing"),
    ]
    assert found[0].expected.startswith("a mapping (url, image_format, ")
    assert found[1].hint.startswith("File, folder, glob or URL")


def test_a_section_with_all_lines_commented_out_takes_its_defaults() -> None:
    text = JOB + "model:\ngeneration:\n  # width: 3\nsweep:\nscore:\nselect:\ncompute:\n"
    assert parse_job(text, "job.yaml") == parse_job(JOB, "job.yaml")
    assert only(NAME + OUTPUT + "prompts:\n").where == "job.yaml:3: prompts.source"


KINDS = "one of `clip`, `relative`, `metric`, `classifier`, `python`"


@pytest.mark.parametrize(
    ("lines", "where", "expected", "got"),
    [
        ("score: [{clip: x}]\nselect: {keep: 3}", "job.yaml:5: select.keep", "at most 1, the images per prompt", "3"),
        ("select: {}", "job.yaml:4: select.by", "the name of a score (this job has none)", "'clip'"),
        ("score: [{clip: x}]\nselect: {by: aes}", "job.yaml:5: select.by", "the name of a score (clip)", "'aes'"),
        ("score:\n- clip: x\n- clip: y", "job.yaml:6: score.1.name", "names that differ", "'clip' twice"),
        (
            "score:\n- metric: image\n- {clip: x, name: contrast}",
            "job.yaml:6: score.1.name",
            "names that differ",
            "'contrast' twice",
        ),
        ("score:\n- {clip: x, metric: image}", "job.yaml:5: score.0.metric", KINDS, "clip and metric"),
        ("score:\n- {name: x}", "job.yaml:5: score.0.clip", KINDS, "nothing"),
        ("score:\n- {metric: image, name: x}", "job.yaml:5: score.0.name", "null", "'x'"),
        ("score:\n- relative: x", "job.yaml:5: score.0.distractors", "captions", "[]"),
        (
            "score: [{clip: x}]\nselect:\n  where:\n  - {score: aes, at_least: 1}",
            "job.yaml:7: select.where.0.score",
            "the name of a score (clip)",
            "'aes'",
        ),
        (
            "score: [{clip: x}]\nselect:\n  where:\n  - score: clip",
            "job.yaml:7: select.where.0.at_least",
            "a number, here or in at_most",
            "null",
        ),
        (
            "score: [{clip: x}]\nselect:\n  where:\n  - {score: clip, at_least: 2, at_most: 1}",
            "job.yaml:7: select.where.0.at_least",
            "up to at_most, 1",
            "2.0",
        ),
        (
            "score: [{clip: x}]\nselect:\n  where:\n  - {score: clip, at_least_percentile: 30}",
            "job.yaml:7: select.where.0.at_least_percentile",
            "at_least or at_most",
            "30",
        ),
        (
            "score:\n- {clip: x, distractors: [y]}",
            "job.yaml:5: score.0.distractors",
            "none without `relative`",
            "['y']",
        ),
        (
            "generation: {images_per_prompt: 2}\nscore: [{metric: image}]\nselect: {by: near_black, min: 1}",
            "job.yaml:6: select.min",
            "null with near_black",
            "1",
        ),
        ("sweep: {width: [64, 72, 64]}", "job.yaml:4: sweep.width.2", "values that differ", "64"),
        ("sweep: {guidance_scale: [1, 1.0]}", "job.yaml:4: sweep.guidance_scale.1", "values that differ", "1.0"),
        ("sweep: {model: [x, {path: x}]}", "job.yaml:4: sweep.model.1", "values that differ", "path='x'"),
    ],
)
def test_rule_between_fields(lines: str, where: str, expected: str, got: str) -> None:
    problem = only(JOB + lines)
    assert (problem.where, problem.expected) == (where, expected)
    assert problem.got.startswith(got)


def test_a_sweep_of_images_per_prompt_bounds_what_can_be_kept() -> None:
    counts = "generation: {images_per_prompt: 8}\nsweep: {images_per_prompt: [2, 4]}\n"
    assert only(JOB + counts + "score: [{clip: x}]\nselect: {keep: 3}\n").expected == "at most 2, the images per prompt"


def test_rules_are_checked_beside_other_mistakes_but_not_on_top_of_them() -> None:
    both = problems(JOB + "seed: x\nscore: [{clip: x}]\nselect: {keep: 3}\n")
    assert [each.where for each in both] == ["job.yaml:4: seed", "job.yaml:6: select.keep"]
    # `keep` may be right once `images_per_prompt` is.
    wrong = "generation: {images_per_prompt: '8'}\nscore: [{clip: x}]\nselect: {keep: 3}\n"
    assert only(JOB + wrong).where == "job.yaml:4: generation.images_per_prompt"
    assert (
        only(PROMPTS + OUTPUT + "select: {by: x}\nscore: [{clip: 3, name: x}]\nname: a\n").where
        == "job.yaml:4: score.0.clip"
    )


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    found = problems("seed: x\nfoo: 1\nname: 3\nname: b\nprompts: {}\ngeneration: {width: 3}\n", "seed=-1", "bad")
    assert [each.where.removeprefix("job.yaml:") for each in found] == [
        "1: output",
        "2: foo",
        "3: name",
        "4: name",
        "5: prompts.source",
        "6: generation.width",
        "--set seed=-1",
        "--set bad",
    ]


def test_endless_problems_are_counted() -> None:
    with pytest.raises(JobError) as caught:
        parse_job(JOB + "".join(f"k{n}: 1\n" for n in range(200)), "job.yaml")
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert caught.value.problems[-1] == "… and 150 more"


def test_what_is_found_after_reading_has_its_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models, scores and sources are looked at together, and each problem says where in the file it comes from."""
    from promptmill.jobs.validate import validate
    from promptmill.pipeline.jobfile.reader import located, read_job

    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(
        "name: x\nprompts:\n  source: nowhere/*.csv\ngeneration:\n  scheduler: nope\n"
        "score:\n  - clip: local-dir:none\noutput: {url: out}\n"
    )
    job, document = read_job("job.yaml")
    with pytest.raises(JobError) as caught:
        validate(job, False)
    lines = str(located(caught.value, document)).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["job.yaml:5", "generation.scheduler"],
        ["job.yaml:7", "score.0.clip"],
        ["job.yaml:3", "prompts.source"],
    ]
