"""The folders are the architecture: every import, inside functions too, is held against the rule of the rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("schemas", "pipeline", "jobs")
MAY_IMPORT = {"schemas": {"schemas"}, "pipeline": {"schemas", "pipeline"}, "jobs": {"schemas", "pipeline", "jobs"}}
DOORS = {
    "ray": ("pipeline/fleet/",),
    "fsspec": ("pipeline/storage.py",),
    "s3fs": ("pipeline/storage.py",),
    "torch": ("pipeline/models/", "pipeline/shapes/"),
    "diffusers": ("pipeline/models/", "pipeline/shapes/"),
    "transformers": ("pipeline/models/", "pipeline/shapes/"),
    "open_clip": ("pipeline/models/", "pipeline/shapes/"),
    "torchmetrics": ("pipeline/models/",),
}
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_to_their_room(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    room = name.partition("/")[0]
    for module in imports(path):
        top = module.partition(".")[0]
        if top in {*ROOMS, "infra", "tests"}:
            assert top in MAY_IMPORT[room], f"{name} imports {module}"
        if top in DOORS:
            assert name.startswith(DOORS[top]), f"{name} imports {module}, whose door is {DOORS[top]}"


def test_no_cycles() -> None:
    names = {str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path for path in FILES}
    graph = {
        name: {
            candidate
            for module in imports(path)
            for candidate in (module, module.rpartition(".")[0])
            if candidate in names and candidate != name
        }
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail, name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_packages_export_nothing() -> None:
    for path in FILES:
        if path.name == "__init__.py":
            assert not [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.Expr)], path


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_light_commands_import_nothing_heavy(command: str, tmp_path: Path) -> None:
    job = str(ROOT / "jobs" / "examples" / "shapes.yaml")
    output = f"output.url={tmp_path / 'out'}"
    script = (
        "import sys; from jobs.cli import guarded; from jobs.commands import app\n"
        f"code = guarded(lambda: app([{command!r}, {job!r}, '--set', {output!r}], standalone_mode=False), False)\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'open_clip'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
