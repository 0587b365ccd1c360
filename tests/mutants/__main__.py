"""`make mutants`: one-line mutants of the heart, each run against the fast tests of the heart.

mutmut forks a worker per mutant from a process that has imported everything, so that a mutant costs about a second. It
wants packages where their import names say; they are copied so, with the tests, into `.mutants/`.

    python -m tests.mutants                  # all, some 2,000
    python -m tests.mutants --every 5        # each fifth; --first 1 others than before
    python -m tests.mutants 'promptmill.schemas.identity*'
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".mutants"
HEART = (
    *("schemas/identity.py", "schemas/plan.py"),
    *("pipeline/planning/plan.py", "pipeline/planning/plan_json.py", "pipeline/planning/fingerprint.py"),
    "pipeline/planning/variants.py",
    *("pipeline/dataset/keys.py", "pipeline/dataset/claim.py", "pipeline/dataset/commit.py"),
    *("pipeline/dataset/open.py", "pipeline/dataset/state.py", "pipeline/dataset/retry.py"),
    *("pipeline/worker/selection.py", "pipeline/execution/run.py", "pipeline/display.py"),
)
WITH_TORCH = ("test_yesterday.py",)
SETTINGS = """
[tool.pytest.ini_options]
timeout = 60

[tool.mutmut]
source_paths = ["promptmill"]
only_mutate = [{only}]
pytest_add_cli_args = ["-q", "-x", "-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = ["tests/heart"]
use_git_change_detection = false
track_dependencies = false
"""
PAST = {0: "survived", 33: "no test", 5: "no test"}


def lay_out() -> None:
    # What mutmut has found out stays in .mutants/mutants, and a run goes on there; other files it copies only once.
    for old in ("promptmill", "tests", "mutants/tests"):
        shutil.rmtree(PLACE / old, ignore_errors=True)
    for file in (PLACE / "mutants" / "promptmill").rglob("*"):
        if file.is_file() and file.suffix not in (".py", ".meta"):
            file.unlink()
    skip = shutil.ignore_patterns("__pycache__", "public", *WITH_TORCH)
    shutil.copytree(ROOT / "jobs" / "public", PLACE / "promptmill", ignore=shutil.ignore_patterns("__pycache__"))
    for room in ("jobs", "pipeline", "schemas"):
        shutil.copytree(ROOT / room, PLACE / "promptmill" / room, ignore=skip)
    for part in ("heart", "engine", "servers"):
        shutil.copytree(ROOT / "tests" / part, PLACE / "tests" / part, ignore=skip)
    for file in ("__init__.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / file, PLACE / "tests" / file)
    only = ", ".join(f'"promptmill/{file}"' for file in HEART)
    (PLACE / "pyproject.toml").write_text(SETTINGS.format(only=only))


def results() -> dict[str, str]:
    """Of each mutant its name and what became of it."""
    found = {}
    for file in sorted((PLACE / "mutants").rglob("*.meta")):
        for name, code in json.loads(file.read_text())["exit_code_by_key"].items():
            found[name] = PAST.get(code, "not run" if code is None else "killed")
    return found


def mutmut(*names: str) -> int:
    return subprocess.run([sys.executable, "-m", "mutmut", "run", *names], cwd=PLACE, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("names", nargs="*", help="only these mutants; * stands for anything")
    parser.add_argument("--every", type=int, default=1, help="only each n-th mutant")
    parser.add_argument("--first", type=int, default=0, help="of these, the place of the first")
    asked = parser.parse_args()
    lay_out()
    names: list[str] = asked.names
    if asked.every > 1:
        mutmut("promptmill.schemas.identity.x_sample_seed*")  # makes all mutants, and tries these few
        names = [name for name in results() if not names or any(map(name.startswith, names))][
            asked.first :: asked.every
        ]
    code = mutmut(*names)
    found = {name: fate for name, fate in results().items() if asked.every == 1 or name in names}
    for name, fate in found.items():
        if fate not in ("killed", "not run"):
            print(f"{fate}: {name}")
    tried = [fate for fate in found.values() if fate != "not run"]
    killed = tried.count("killed")
    print(f"{killed} of {len(tried)} mutants killed ({killed / max(1, len(tried)):.1%})")
    return code


if __name__ == "__main__":
    sys.exit(main())
