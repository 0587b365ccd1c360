"""`promptmill init` writes a job that explains itself and runs at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from promptmill.jobs.init import SAMPLE_PROMPTS, default_job, init, init_classes, schema_reference
from promptmill.jobs.schema import SCHEMA_FILE
from promptmill.pipeline.jobfile.document import printable
from promptmill.pipeline.jobfile.fields import describe_fields
from promptmill.pipeline.jobfile.reader import load_job
from promptmill.pipeline.planning.plan import plan_job
from promptmill.schemas.errors import JobError
from tests.job_problems import is_valid

SHAPES = Path(__file__).parents[1] / "jobs/examples/shapes.yaml"


def test_an_empty_folder_gets_a_job_and_its_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert init(Path("my-job")) == [Path("my-job/job.yaml"), Path("my-job/prompts.txt")]
    job = load_job("my-job/job.yaml")
    assert job == default_job("my-job", "my-job/prompts.txt")
    assert job.output.url == "out/my-job"
    assert Path(job.prompts.source).read_text().splitlines() == SAMPLE_PROMPTS.splitlines()


def test_the_job_is_the_demo_with_other_prompts(tmp_path: Path) -> None:
    written = load_job(init(tmp_path / "job.yml")[0]).model_dump(exclude={"name", "prompts"})
    demo = load_job(SHAPES).model_dump(exclude={"name", "prompts"})
    assert written["output"].pop("url") != demo["output"].pop("url")
    assert written == demo


def test_every_field_is_there_with_its_description(tmp_path: Path) -> None:
    path = init(tmp_path)[0]
    text = path.read_text()
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE.as_uri()}\n")
    assert max(map(len, text.splitlines())) <= 120
    plain = " ".join(text.replace("#", " ").split())
    for field in describe_fields():
        if not field.name.startswith(("sweep.", "prompts.shapes.", "model.ip_adapter.", "curate.")):
            assert f" {field.name.rsplit('.')[-1]}: " in plain
            assert " ".join(field.description.split()) in plain
    assert "that a crash can cost. Default: 256. images_per_shard: 64" in plain
    assert is_valid(yaml.safe_load(text))


def test_the_commented_axes_are_valid(tmp_path: Path) -> None:
    path = init(tmp_path)[0]
    head, sweep, tail = re.split(r"^(sweep:\n(?:  #.*\n)+)", path.read_text(), flags=re.M)
    axes = {"settings": ("fast", "fine"), "guidance_scale": (1.0, 5.0)}
    without = "\n".join(line for line in sweep.splitlines() if "from: 10" not in line)
    path.write_text(head + _uncommented(without) + tail)
    assert load_job(path).sweep.axes() == axes
    path.write_text(head + _uncommented("\n".join(sweep.splitlines()[:3])) + tail)
    assert load_job(path).sweep.axes()["num_inference_steps"] == (10, 20, 30)


def _uncommented(text: str) -> str:
    return re.sub(r"^  # ", "  ", text, flags=re.M) + "\n"


def test_prompts_that_are_there_already_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.csv").write_text("prompt\na cat\n")
    monkeypatch.chdir(tmp_path)
    assert init(Path()) == [Path("job.yaml")]
    assert load_job("job.yaml").prompts.source == "prompts.csv"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("mine")
    with pytest.raises(JobError, match="expected a new file, got one that exists"):
        init(tmp_path)
    assert (tmp_path / "job.yaml").read_text() == "mine"
    assert not (tmp_path / "prompts.txt").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="expected a folder that can be written"):
        init(tmp_path / "file" / "sub")


@pytest.mark.parametrize(
    "name", ["with space", "no", "012", "ünï…", "a: b", "#x", "- y", "'q'", '"', "{z}", "...", "\x1b[31m"]
)
def test_odd_folder_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(init(Path(name))[0])
    assert Path(job.prompts.source).exists()
    assert job.name == printable(name)
    assert set(job.output.url.removeprefix("out/")) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    )


def test_the_schema_is_relative_within_a_project(tmp_path: Path) -> None:
    assert schema_reference(SHAPES.parent) == "../../schemas/job.schema.json"
    assert schema_reference(tmp_path) == SCHEMA_FILE.as_uri()


def test_the_sample_prompts_are_in_the_words_of_the_model() -> None:
    from promptmill.pipeline.shapes.captions import parse

    prompts = SAMPLE_PROMPTS.splitlines()
    assert len(set(prompts)) == 16
    for prompt in prompts:
        claims = parse(prompt)
        assert claims.ground
        assert all(each.colour and each.shape for each in claims.objects)


def real_images(folder: Path) -> Path:
    for kind in ("ring: #1", "cross"):
        (folder / kind).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (640, 480), (number, 0, 0)).save(folder / kind / f"{number}.png")
    return folder


def test_a_folder_of_real_images_by_class_makes_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    real = real_images(tmp_path / "my {photos}")
    assert init_classes(Path("set"), real) == [Path("set/job.yaml")]
    job = load_job("set/job.yaml")
    assert job.prompts.classes == "my {photos}" and job.select is not None and job.select.per_class == 24
    plan = plan_job(job)
    assert plan.words.class_names == ("cross", "ring: #1") and plan.tasks == ("image-to-image",)
    assert job.curate is not None
    assert job.curate.per_class == 20
    assert (job.curate.to, job.curate.real) == ("out/my-photos-clean", ("my {photos}",))
    assert not plan.wrong and not any("own size" in notice for notice in plan.notices)
    with pytest.raises(JobError, match="a new file"):
        init_classes(Path("set"), real)


def test_a_folder_without_classes_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match="nothing there"):
        init_classes(tmp_path, tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
