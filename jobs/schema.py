"""`promptmill schema`: the JSON Schema of a job file, as published in `schemas/job.schema.json` for editors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from pydantic import TypeAdapter

import promptmill.schemas.job
from promptmill.schemas.events import EVENTS
from promptmill.schemas.job import Job
from promptmill.schemas.proof import PROOFS
from promptmill.schemas.reports import REPORTS
from promptmill.schemas.results import RESULTS
from promptmill.schemas.synthesized import SYNTHESIZED
from promptmill.schemas.tuned import TUNED
from promptmill.schemas.tuning import Tuning

SCHEMA_FILE: Final = Path(promptmill.schemas.job.__file__).with_name("job.schema.json")
RESULTS_FILE: Final = SCHEMA_FILE.with_name("results.schema.json")
EVENTS_FILE: Final = SCHEMA_FILE.with_name("events.schema.json")
TUNING_FILE: Final = SCHEMA_FILE.with_name("finetune.schema.json")
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPE_OF_NULL: Final = {"type": "null"}


def job_schema() -> str:
    """Pretty JSON (draft 2020-12), the same on every machine."""
    raw = Job.model_json_schema()
    for part, text in (("Sweep", "Values of {} to try."), ("Preset", "{} here."), ("Exclusion", "{} there.")):
        for name, field in raw["$defs"][part]["properties"].items():
            swept = "`settings`" if name == "settings" else f"`{name}`" if name == "model" else f"`generation.{name}`"
            field.setdefault("description", text.format(swept))
            del field["default"]
    for section in raw["properties"].values():
        _allow_empty(section)
    for name in ("carry", "columns", "format", "shapes"):
        _allow_empty(raw["$defs"]["Prompts"]["properties"][name])
    named = raw["$defs"]["Sweep"]["properties"]["settings"]["anyOf"][0]
    named["additionalProperties"] = {"anyOf": [named["additionalProperties"], _TYPE_OF_NULL]}
    tidy = {"$schema": _DIALECT, **_tidy(raw), "title": "Promptmill job"}
    return json.dumps(tidy, indent=2, ensure_ascii=False) + "\n"


def results_schema() -> str:
    """Pretty JSON: the schema of what each command prints with `--json`, by command."""
    return _by_name("Promptmill --json", {**RESULTS, **REPORTS, **TUNED, **PROOFS, **SYNTHESIZED})


def tuning_schema() -> str:
    """Pretty JSON: the schema of the file of `promptmill finetune`."""
    tidy = {"$schema": _DIALECT, **_tidy(Tuning.model_json_schema()), "title": "Promptmill finetune"}
    return json.dumps(tidy, indent=2, ensure_ascii=False) + "\n"


def _by_name(title: str, kinds: Mapping[str, type]) -> str:
    schemas = {name: TypeAdapter(kind).json_schema() for name, kind in kinds.items()}
    shared = {name: part for schema in schemas.values() for name, part in schema.pop("$defs", {}).items()}
    content = {"$schema": _DIALECT, "title": title, "properties": _tidy(schemas), "$defs": _tidy(shared)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def events_schema() -> str:
    """Pretty JSON: the schemas of what a run tells while it goes on, by event."""
    return _by_name("Promptmill events", EVENTS)


def write_schemas() -> None:
    """Bring the published files up to date: `python -m promptmill.jobs.schema`."""
    SCHEMA_FILE.write_text(job_schema(), encoding="utf-8")
    RESULTS_FILE.write_text(results_schema(), encoding="utf-8")
    EVENTS_FILE.write_text(events_schema(), encoding="utf-8")
    TUNING_FILE.write_text(tuning_schema(), encoding="utf-8")


def _allow_empty(section: dict[str, Any]) -> None:
    """A section with all its lines commented out is null in YAML, and takes its defaults."""
    if "$ref" in section and "default" in section:
        # The section's own fields name their defaults.
        del section["default"]
        section["anyOf"] = [{"$ref": section.pop("$ref")}, _TYPE_OF_NULL]
    elif section.get("type") == "array":
        section["type"] = ["array", "null"]


def _tidy(node: Any) -> Any:
    """Drop the titles that repeat the key, write "or null" as a list of types."""
    if isinstance(node, list):
        return [_tidy(each) for each in node]
    if not isinstance(node, dict):
        return node
    # `title` is also a possible name of a field, whose value would be a dict.
    result = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    members = result.get("anyOf", [])
    if len(members) == 2 and members[1] == _TYPE_OF_NULL and isinstance(members[0].get("type"), str):
        del result["anyOf"]
        result = {**members[0], "type": [members[0]["type"], "null"], **result}
        choices = result.pop("enum", None) or ([result.pop("const")] if "const" in result else [])
        if choices:
            result["enum"] = [*choices, None]
    return result


def command(
    which: Annotated[Literal["job", "finetune"], typer.Argument(help="The file it is of.")] = "job",
    as_json: Annotated[bool, typer.Option("--json", help="Changes nothing: a schema is JSON.")] = False,
) -> None:
    """Print the JSON Schema of the job file, or of that of `finetune`."""
    print(job_schema() if which == "job" else tuning_schema(), end="", flush=True)


if __name__ == "__main__":
    write_schemas()
