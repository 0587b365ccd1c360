"""The wheel holds all that the repository's packages hold, under the one name `promptmill`."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.infra.places import ROOT

PARTS = ("jobs", "pipeline", "schemas")
FOR_READERS = (".md", ".png", "evaluation.json")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("needs a git checkout")
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if name.startswith(PARTS) or "/" not in name:
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    build = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        "./source",
    ]
    answer = subprocess.run([sys.executable, *build], cwd=folder, capture_output=True, text=True, check=False)
    if "No module named" in answer.stderr and "setuptools" in answer.stderr:
        pytest.skip("needs setuptools")
    assert answer.returncode == 0, answer.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_everything_is_in_the_wheel_under_one_name(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in inside} == {"promptmill"}
    source = wheel.parent / "source"
    for part in PARTS:
        for path in (source / part).rglob("*"):
            name = str(path.relative_to(source)).replace("jobs/public/", "")
            if path.is_file() and not path.name.endswith(FOR_READERS) and "egg-info" not in name:
                assert f"promptmill/{name}" in inside, name


@pytest.mark.slow
def test_the_wheel_works_in_a_project_with_the_same_names(wheel: Path, tmp_path: Path) -> None:
    """It installed packages called `pipeline`, `jobs` and `schemas`, which many projects have themselves."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for name in ("pipeline/__init__.py", "jobs.py", "schemas/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("MINE = True\n")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "job.yaml").write_text("name: mine\nprompts: {source: prompts.txt}\noutput: {url: out}\n")
    script = (
        "import promptmill, pipeline, jobs, schemas\n"
        "assert pipeline.MINE and jobs.MINE and schemas.MINE\n"
        f"assert promptmill.__file__.startswith({str(tmp_path / 'site')!r}), promptmill.__file__\n"
        "print(promptmill.run('job.yaml', in_process=True).kept)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "1", answer.stderr
