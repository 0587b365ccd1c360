"""A project that was copied, moved or renamed reads its own prompts and models, and is still the same job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.open import located, open_dataset, open_output
from promptmill.pipeline.jobfile.reader import load_job
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.planning.plan_json import from_json, to_json
from tests.engine.conftest import PROMPTS, Answer, records

Cli = Callable[..., Answer]


def write_job(project: Path, name: str = "job.yaml", **sections: Any) -> Path:
    content: dict[str, Any] = {
        "name": "moving",
        "prompts": {"source": "prompts"},
        "model": {"path": "models/sd"},
        "generation": {"num_inference_steps": 2, "batch_size": 4},
        "score": [{"clip": "local-dir:models/clip"}],
        "output": {"url": "out/a", "images_per_shard": 2},
    }
    (project / name).write_text(yaml.safe_dump({**content, **sections}))
    return project / name


@pytest.fixture
def project(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything in it, which the job names by relative paths; the current folder."""
    root = tmp_path / "project"
    shutil.copytree(models, root / "models")
    (root / "prompts").mkdir()
    pq.write_table(pa.table({"prompt": PROMPTS}), root / "prompts" / "a.parquet")
    write_job(root)
    monkeypatch.chdir(root)
    return root


def claim(job: str = "job.yaml") -> Plan:
    plan = plan_job(load_job(job))
    return claim_output(plan, open_output(plan.job.output.url))


def spoil(project: Path) -> None:
    """Other prompts and other weights behind the same names."""
    pq.write_table(pa.table({"prompt": [prompt[::-1] for prompt in PROMPTS]}), project / "prompts" / "a.parquet")
    for weights in project.glob("models/*/**/*.safetensors"):
        data = bytearray(weights.read_bytes())
        data[-4:] = bytes(4)
        weights.write_bytes(data)


def places(plan: Plan) -> list[str]:
    files = [file.path for segment in plan.segments for file in segment.files]
    return [*files, *(model.location for model in plan.models), *(clip.location for clip in plan.clips)]


def assert_inside(plan: Plan, project: Path) -> None:
    """All absolute, and all of them there."""
    for place in places(plan):
        path = Path(place.removeprefix("local-dir:"))
        assert path.is_absolute() and path.exists() and path.is_relative_to(project), place


def test_nothing_of_this_machine_is_recorded(project: Path) -> None:
    claim()
    text = (project / "out" / "a" / "job.json").read_text()
    assert str(project.parent) not in text
    plan = json.loads(text)["plan"]
    assert plan["folder"] == "../.."
    assert plan["models"][0]["location"] == "models/sd"
    assert plan["clips"][0]["location"] == "local-dir:models/clip"
    assert plan["segments"][0]["files"][0]["path"] == "prompts/a.parquet"


def test_workers_are_told_absolute_paths(project: Path) -> None:
    """They start in another folder."""
    assert_inside(from_json(to_json(claim())), project)


@pytest.mark.parametrize("original", ["gone", "spoiled", "as it was"])
def test_the_whole_project_is_copied(
    cli: Cli, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: str
) -> None:
    (project / "prompts" / "a.parquet").unlink()
    pq.write_table(pa.table({"prompt": [*PROMPTS[:3], ""]}), project / "prompts" / "a.parquet")  # one fails
    claim()
    copy = tmp_path / "elsewhere" / "copied"
    shutil.copytree(project, copy)
    monkeypatch.chdir(copy)
    if original == "gone":
        shutil.rmtree(project)
    elif original == "spoiled":
        spoil(project)
    assert_inside(claim(), copy)
    assert cli("run", "job.yaml", "--in-process").code == 3
    made = records(copy / "out" / "a")
    assert [row["prompt"] for row in made] == PROMPTS[:3]
    monkeypatch.chdir(tmp_path)  # what has no job file finds them from the dataset
    for command in ("verify", "report", "retry"):
        assert cli(command, copy / "out" / "a").code in (0, 3)
    answer = cli("reproduce", copy / "out" / "a", made[0]["sample_id"], "--out", tmp_path / "again.png", "--json")
    assert answer.code == 0 and answer.json["identical"] and answer.json["with_mates"], answer
    assert not (project / "out" / "a" / "data").exists()


def test_the_copy_counts_before_the_current_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim()
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    assert_inside(located(*open_dataset(str(copy / "out" / "a"))), copy)
    spoil(copy)  # the dataset belongs to what the project has now
    assert_inside(located(*open_dataset(str(copy / "out" / "a"))), project)


@pytest.mark.parametrize("name", ["out/b", "../b"])
def test_the_output_is_renamed_or_moved(project: Path, name: str) -> None:
    claim()
    (project / "out" / "a").rename(project / name)
    assert_inside(located(*open_dataset(name)), project)
    write_job(project, output={"url": name, "images_per_shard": 2})
    assert_inside(claim(), project)


def test_the_same_by_other_words(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute paths, from another folder, of the same things."""
    first = claim()
    monkeypatch.chdir(tmp_path)
    job = write_job(
        project,
        prompts={"source": str(project / "prompts")},
        model={"path": str(project / "models" / "sd")},
        score=[{"clip": f"local-dir:{project / 'models' / 'clip'}"}],
        output={"url": str(project / "out" / "a"), "images_per_shard": 2},
    )
    second = claim(str(job))
    assert second.fingerprint == first.fingerprint
    assert second.variant(0).model.path == "models/sd"  # what the sample ids are made of
    assert_inside(second, project)


def test_models_of_a_sweep_by_other_words(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project / "models" / "sd", project / "models" / "other")
    config = project / "models" / "other" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"clip_sample": false', '"clip_sample":  false'))
    both = ["models/sd", {"path": "models/other"}]
    write_job(project, sweep={"model": both, "exclude": [{"model": "models/sd", "guidance_scale": 1.0}],
                              "guidance_scale": [1.0, 2.0]})  # fmt: skip
    first = claim()
    absolute = [str(project / "models" / "sd"), {"path": str(project / "models" / "other")}]
    exclude = [{"model": absolute[0], "guidance_scale": 1.0}]
    write_job(project, sweep={"model": absolute, "exclude": exclude, "guidance_scale": [1.0, 2.0]})
    second = claim()
    assert [second.variant(i).values for i in range(3)] == [first.variant(i).values for i in range(3)]
    write_job(project, sweep={"model": both[::-1], "exclude": [{"model": "models/sd", "guidance_scale": 1.0}],
                              "guidance_scale": [1.0, 2.0]})  # fmt: skip
    with pytest.raises(Exception, match=r"sweep\.model"):
        claim()


def test_another_model_by_the_same_words(cli: Cli, project: Path) -> None:
    claim()
    spoil(project)
    answer = cli("run", "job.yaml", "--in-process")
    assert answer.code == 2
    for name in ("model.weights", "score[0].weights", "prompts.source.a.parquet.digest"):
        assert name in answer.err


def test_extended_from_another_folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim()
    pq.write_table(pa.table({"prompt": ["a green circle"]}), project / "prompts" / "b.parquet")
    monkeypatch.chdir(tmp_path)
    job = write_job(
        project,
        prompts={"source": "project/prompts"},
        model={"path": "project/models/sd"},
        score=[{"clip": "local-dir:project/models/clip"}],
        output={"url": "project/out/a", "images_per_shard": 2},
    )
    plan = plan_job(load_job(str(job)))
    assert_inside(claim_output(plan, open_output(plan.job.output.url), extend=True), project)
    (segment,) = (project / "out" / "a" / "segments").iterdir()
    assert json.loads(segment.read_text())["segments"][0]["files"][0]["path"] == "prompts/b.parquet"
    project.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    assert_inside(located(*open_dataset(str(tmp_path / "moved" / "out" / "a"))), tmp_path / "moved")


def test_a_project_behind_a_link(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (project / "out").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(project)
    monkeypatch.chdir(tmp_path / "link")
    claim()
    monkeypatch.chdir("/")
    for url in (tmp_path / "link" / "out" / "a", project / "out" / "a"):
        assert all(
            Path(place.removeprefix("local-dir:")).exists() for place in places(located(*open_dataset(str(url))))
        )


def as_older_versions_wrote(out: Path, project: Path) -> None:
    """Absolute paths, and no hash but those that enter the fingerprint."""
    path = out / "job.json"
    content = json.loads(path.read_text())
    plan = content["plan"]
    del plan["folder"]
    for model in plan["models"]:
        model["location"] = str(project / model["location"])
        del model["files"]
    for clip in plan["clips"]:
        clip["location"] = f"local-dir:{project / clip['location'].removeprefix('local-dir:')}"
        del clip["files"]
    for file in plan["segments"][0]["files"]:
        file["path"] = str(project / file["path"])
        del file["digest"], file["version"]
    path.write_text(json.dumps(content))


def test_a_dataset_of_an_older_version(
    cli: Cli, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim()
    as_older_versions_wrote(project / "out" / "a", project)
    monkeypatch.chdir("/")
    assert_inside(located(*open_dataset(str(project / "out" / "a"))), project)
    monkeypatch.chdir(project)
    assert cli("run", "job.yaml", "--in-process").code == 0
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    monkeypatch.chdir(copy)
    assert_inside(claim(), copy)
    assert_inside(located(*open_dataset("out/a")), copy)
    shutil.rmtree(project)
    assert_inside(located(*open_dataset("out/a")), copy)
