"""The Containerfile, read: no engine builds it here."""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePosixPath

import pytest

from tests.infra.places import INFRA, ROOT

TEXT = (INFRA / "Containerfile").read_text()
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]


def sources() -> list[str]:
    """What is copied out of the project."""
    found = []
    for instruction, arguments in INSTRUCTIONS:
        words = arguments.split()
        if instruction == "COPY" and not any(word.startswith("--from=") for word in words):
            found += [word for word in words if not word.startswith("--")][:-1]
    return found


def let_through(path: str) -> bool:
    """The last pattern of the ignore file that matches a path, or a folder over it, decides."""
    allowed = True
    names = [path, *(str(folder) for folder in PurePosixPath(path).parents if str(folder) != ".")]
    for line in (INFRA / "Containerfile.dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!").replace("**/", "*")
        if pattern and not line.startswith("#") and any(fnmatch.fnmatch(name, pattern) for name in names):
            allowed = line.startswith("!")
    return allowed


@pytest.mark.parametrize("source", sources())
def test_what_is_copied_exists_and_may_enter(source: str) -> None:
    assert (ROOT / source).exists()
    assert let_through(source)


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/bin/python", "out/data", "tests/conftest.py", "jobs/.env", ".env"]
)
def test_nothing_else_may_enter(path: str) -> None:
    assert not let_through(path)


def test_every_package_is_copied() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(sources())


def test_bases_are_pinned_by_tag_and_the_only_names_of_images() -> None:
    bases = [arguments.split()[0] for instruction, arguments in INSTRUCTIONS if instruction == "FROM"]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu[\d.]+", bases[0])
    assert not re.search(r"https?://|[\w-]+\.(io|com|org|net|dev)\b|index-url", TEXT)


def test_cuda_is_that_of_torch() -> None:
    toolkit = re.search(r"^cuda-toolkit==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert toolkit is not None
    assert f"cuda:{toolkit[1]}." in TEXT


def test_versions_are_those_of_the_constraints() -> None:
    installs = [arguments for instruction, arguments in INSTRUCTIONS if "uv pip install" in arguments]
    assert installs
    assert all("--constraint constraints.txt" in install or "--no-deps" in install for install in installs)


def test_the_last_stage_is_a_plain_user_without_secrets_or_leftovers() -> None:
    last = INSTRUCTIONS[max(i for i, (instruction, _) in enumerate(INSTRUCTIONS) if instruction == "FROM") :]
    users = [arguments for instruction, arguments in last if instruction == "USER"]
    assert users
    assert users[-1].split(":")[0].isdigit()
    assert int(users[-1].split(":")[0]) > 0
    assert ["ENTRYPOINT", '["promptmill"]'] in last
    assert all("rm -rf /var/lib/apt/lists/*" in arguments for _, arguments in last if "apt-get install" in arguments)
    assert not any(instruction in ("ARG", "HEALTHCHECK", "ADD") for instruction, _ in last)
    assert not re.search(r"AWS_|PASSWORD|_KEY\b|_TOKEN=", TEXT)
