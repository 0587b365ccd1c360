"""What import-linter cannot say; the floors and doors themselves are in pyproject.toml, held by `make check`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from promptmill.schemas.errors import FAILURE_KINDS, INPUT_FAILURES

ROOT = Path(__file__).parents[1]
FACE = ROOT / "jobs" / "public"
FILES = sorted(path for room in ("schemas", "pipeline", "jobs") for path in (ROOT / room).rglob("*.py"))


def test_relative_imports_are_not_used() -> None:
    assert len(FILES) > 200
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.ImportFrom) or node.level == 0, path


def test_only_two_small_files_lie_beside_the_rooms() -> None:
    assert {path.name for path in (ROOT / "pipeline").glob("*.py")} == {"__init__.py", "crashpoints.py", "display.py"}


def test_packages_export_nothing() -> None:
    for path in FILES:
        if path.name == "__init__.py" and path.parent != FACE:
            assert not [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.Expr)], path


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_light_commands_import_nothing_heavy(command: str, tmp_path: Path) -> None:
    job = str(ROOT / "jobs" / "examples" / "shapes.yaml")
    output = f"output.url={tmp_path / 'out'}"
    script = (
        "import sys; from promptmill.jobs.cli import guarded; from promptmill.jobs.commands import app\n"
        f"code = guarded(lambda: app([{command!r}, {job!r}, '--set', {output!r}], standalone_mode=False), False)\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'open_clip'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_every_kind_of_failure_that_is_raised_is_known() -> None:
    """One that is not ends its shard instead of its sample."""
    calls = (node for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    kinds = [node.args[0] for node in calls if ast.unparse(node.func) == "SampleError" and node.args]
    either = (each for kind in kinds for each in ([kind.body, kind.orelse] if isinstance(kind, ast.IfExp) else [kind]))
    raised = {kind.value for kind in either if isinstance(kind, ast.Constant)}
    assert len(raised) > 10
    assert raised | INPUT_FAILURES <= set(FAILURE_KINDS)
