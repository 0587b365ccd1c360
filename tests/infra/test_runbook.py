"""Commands that RUNBOOK.md and README.md name exist, with the options they name."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.engine.conftest import cli
from tests.infra.places import INFRA, ROOT
from tests.servers.s3 import S3Server

__all__ = ["cli"]
Cli = Callable[..., Any]

DOCUMENTS = ("RUNBOOK.md", "README.md")
SYMPTOMS = (
    *("Resume", "once", "Workers do not start", "503", "403", "Out of memory", "dies again", "another job"),
    *("Failed samples", "Disk full", "hangs", "Spot"),
)


def commands(program: str) -> Iterator[list[str]]:
    """The words after `program` wherever a document calls it: in code blocks and spans, also after `exec … --`."""
    for document in DOCUMENTS:
        text = (INFRA / document).read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in [line for block in blocks for line in block.splitlines()] + spans:
            for command in re.split(r"&&|\s--\s", line):
                words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
                if len(words) > 1 and words[0] == program:
                    yield words[1:]


def check(app: Any, words: list[str]) -> None:
    """`app` is a command group of click, or of the copy of click that typer brings."""
    assert words[0] in app.commands, " ".join(words)
    known = {option for parameter in app.commands[words[0]].params for option in parameter.opts}
    assert [word for word in words[1:] if word.startswith("--") and word.split("=")[0] not in known] == []


def test_promptmill_has_these_commands_and_options() -> None:
    cli = pytest.importorskip("promptmill.jobs.commands")
    app = typer.main.get_command(cli.app)
    found = list(commands("promptmill"))
    assert len(found) > 15
    assert {"run", "status", "verify", "retry", "doctor"} <= {words[0] for words in found}
    for words in found:
        check(app, words)


def test_overrides_name_fields_of_a_job() -> None:
    from promptmill.pipeline.jobfile.reader import load_job

    job = ROOT / "jobs" / "examples" / "cluster.yaml"
    for words in commands("promptmill"):
        overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set" and "=" in words[i + 1]]
        load_job(job, [override for override in overrides if not override.startswith("a.b=")])


@pytest.mark.slow
def test_ray_has_these_commands_and_options() -> None:
    from ray.scripts.scripts import cli

    found = list(commands("ray"))
    assert found
    for words in found:
        check(cli, words)


def lines_to_try() -> list[str]:
    """Each line of the runbook that is a command of ours, as it stands, without those that need a cluster."""
    text = (INFRA / "RUNBOOK.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ours = [line for line in lines if re.match(r'(?:[A-Z_]+=\S+ )*promptmill \w+.*"\$(?:URL|JOB)"', line)]
    return list(
        dict.fromkeys(line for line in ours if not re.search("--address|gpus_per_worker=1|promptmill watch", line))
    )


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_each_line_does_what_it_says(
    s3_server: S3Server, s3_env: dict[str, str], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """In a bucket of the name that the runbook has; `watch`, and what needs a cluster, have tests elsewhere."""
    monkeypatch.chdir(tmp_path)
    s3_server.make_bucket("my-bucket")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    url = "s3://my-bucket/datasets/first"
    job: dict[str, Any] = {
        "name": "small",
        "prompts": {"source": str(tmp_path / "prompts.txt")},
        "model": {"path": str(models / "sd")},
        "generation": {"num_inference_steps": 2, "images_per_prompt": 4},
        "score": [{"clip": f"local-dir:{models / 'clip'}"}],
        "select": {"keep": 2},
        "output": {"url": url},
        "compute": {"workers": 1},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert cli("run", tmp_path / "job.yaml", "--set", "output.url=s3://my-bucket/datasets/yesterday").code == 0
    assert cli("run", tmp_path / "job.yaml").code == 0  # the runbook begins when there is a dataset
    lines = lines_to_try()
    assert len(lines) > 18
    for line in lines:
        words = shlex.split(line.replace("$JOB", str(tmp_path / "job.yaml")).replace("$URL", url), comments=True)
        variables = [word for word in words if re.match(r"[A-Z_]+=", word)]
        with monkeypatch.context() as changed:
            for variable in variables:
                changed.setenv(*variable.replace("/scratch", str(tmp_path)).split("=", 1))
            answer = cli(*words[len(variables) + 1 :])
        assert answer.code == 0, (line, answer)


def test_every_symptom_has_a_heading() -> None:
    headings = "\n".join(re.findall(r"^## (.*)$", (INFRA / "RUNBOOK.md").read_text(), re.MULTILINE))
    assert [symptom for symptom in SYMPTOMS if symptom not in headings] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    text = (INFRA / document).read_text()
    named = re.findall(r"\binfra/[\w./]+[\w]", text)
    linked = [f"infra/{target}" for target in re.findall(r"\]\(([\w./]+)\)", text)]
    assert named + linked
    assert [path for path in named + linked if not (ROOT / path).exists()] == []


def test_of_each_line_it_is_said_how_it_was_tried() -> None:
    text, _, tried = (INFRA / "RUNBOOK.md").read_text().partition("## How each line here was tried")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    calls = [part.split() for line in lines for part in line.partition("#")[0].split("&&") if part.strip()]
    programs = {next(word for word in call if not re.match(r"[A-Z_]+=", word)) for call in calls}
    spans = re.findall(r"`([a-z-]+) [^`\n]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    programs |= {name for name in spans if shutil.which(name) or name in ("kubectl", "nvidia-smi")}
    assert {"promptmill", "kubectl", "scontrol", "infra/entrypoint.sh"} <= programs
    assert [name for name in sorted(programs) if f"`{name}" not in tried] == []


def test_every_file_has_its_place_in_the_readme() -> None:
    readme = (INFRA / "README.md").read_text()
    used_inside = {"README.md", "Containerfile.dockerignore", "prestop.sh"}
    files = {path.name for path in INFRA.rglob("*") if path.is_file()} - used_inside
    assert [name for name in sorted(files) if name not in readme] == []
