"""The READMEs say what is true: every field, every command, every option, every file it links to.

`python -m tests.test_readme` writes the tables of fields and of columns anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main
import yaml

from promptmill.jobs.commands import app
from promptmill.pipeline.jobfile.fields import describe_fields
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.planning.variants import count
from promptmill.schemas.columns import COLUMNS, EVERYWHERE
from promptmill.schemas.metrics import METRICS
from promptmill.schemas.tuning import Tuning

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
JOBS = ROOT / "jobs" / "README.md"
RECORDS = ROOT / "schemas" / "README.md"
DOCUMENTS = [README, JOBS, *(ROOT / room / "README.md" for room in ("schemas", "pipeline", "tests", "infra"))]


def field_table() -> str:
    rows = ["| field | value | default | meaning |", "|---|---|---|---|"]
    for field in describe_fields():
        cells = (f"`{field.name}`", field.type, f"`{field.default}`", " ".join(field.description.split()))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def column_table() -> str:
    rows = ["| column | type | kind | in | meaning |", "|---|---|---|---|---|"]
    for column in COLUMNS:
        folders = "all" if column.folders == EVERYWHERE else ", ".join(sorted(column.folders))
        only = f", of jobs with {column.only}" if column.only else ""
        rows.append(f"| `{column.name}` | `{column.type}` | {column.kind} | {folders}{only} | {column.meaning} |")
    return "\n".join(rows) + "\n"


def metric_table() -> str:
    rows = ["| metric | kind | labels beside `dataset` | counts |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(rows) + "\n"


GENERATED = (
    (JOBS, "fields", field_table),
    (RECORDS, "columns", column_table),
    (ROOT / "infra" / "README.md", "metrics", metric_table),
)


def with_table(path: Path, name: str, table: str) -> str:
    """The file's text with the generated block of this name."""
    begin, end = (f"<!-- {name}:{where} -->" for where in ("begin", "end"))
    before, rest = path.read_text().split(f"{begin}\n")
    return f"{before}{begin}\n{table}{end}{rest.split(end)[1]}"


@pytest.mark.parametrize(("path", "name", "table"), GENERATED, ids=lambda one: one if isinstance(one, str) else "")
def test_generated_tables_are_current(path: Path, name: str, table: Callable[[], str]) -> None:
    assert path.read_text() == with_table(path, name, table()), "run python -m tests.test_readme"


def test_commands_and_options_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for path in (*DOCUMENTS, ROOT / "CONTRIBUTING.md"):
        for line in re.findall(r"promptmill ([a-z][^`\n|]*)", path.read_text()):
            name, *rest = line.split()
            assert name in commands, f"{path.name}: promptmill {line}"
            known = {option for parameter in commands[name].params for option in parameter.opts}
            for option in (word.rstrip(",.;:") for word in rest if word.startswith("--")):
                assert option in known, f"{path.name}: promptmill {line}"
    listed = set(re.findall(r"^\| `promptmill ([\w-]+)", JOBS.read_text(), re.M))
    assert listed == set(commands), "the table of commands in jobs/README.md"


def test_the_readme_is_one_page() -> None:
    shown = re.sub(r"<details>.*?</details>|```.*?```", "", README.read_text(), flags=re.S)
    assert len(shown.split()) < 1500


def test_jobs_in_the_readmes_are_valid() -> None:
    for path in (README, JOBS):
        whole, *parts = re.findall(r"```yaml\n(.*?)```", path.read_text(), re.S)
        assert yaml.safe_load(whole)["name"] == parse_job(whole, path.name).name
        for tuning in (part for part in parts if "finetune:" in part):
            Tuning.model_validate(yaml.safe_load(tuning))
        parts = [part for part in parts if "finetune:" not in part]
        for part in parts:
            parse_job(json.dumps({**yaml.safe_load(whole), **yaml.safe_load(part)}), path.name)
    (swept,) = (part for part in parts if part.startswith("sweep:"))
    assert count(parse_job(json.dumps({**yaml.safe_load(whole), **yaml.safe_load(swept)}), "README.md")) == 9


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name in re.findall(r"`make ([a-z0-9-]+)", "".join(path.read_text() for path in DOCUMENTS)):
        assert name in targets, name


if __name__ == "__main__":
    for path, name, table in GENERATED:
        path.write_text(with_table(path, name, table()))
