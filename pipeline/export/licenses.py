"""What a dataset's card says of the licences of what its images were made with and of."""

from __future__ import annotations

from promptmill.pipeline.display import redact
from promptmill.pipeline.export.markdown import code
from promptmill.pipeline.models.catalog.licenses import License, license_called, strictest
from promptmill.pipeline.planning.licensed import licensed_parts
from promptmill.pipeline.planning.plan import Plan


def license_of(plan: Plan) -> License:
    """The strictest of all that hold for the images."""
    return strictest(part.license for part in licensed_parts(plan.job, plan.models, plan.lineage))


def license_fields(plan: Plan) -> dict[str, str]:
    """In the hub's words."""
    own = license_of(plan)
    if own.training in ("free", "restricted"):
        return {"license": own.name}
    return {"license": "other", "license_name": own.name, **({"license_link": own.url} if own.url else {})}


def license_lines(plan: Plan) -> list[str]:
    parts = licensed_parts(plan.job, plan.models, plan.lineage)
    known = [(part, license_called(part.license)) for part in parts]
    lines = []
    if any(each.training == "unknown" for _, each in known):
        lines = [
            "The licence of the images depends on those of all that they were made with and of, and Promptmill does",
            "not know each: set `license` above before publishing, or the `license` of each part in the job.",
        ]
    if all(part.license is None for part in parts):
        return lines
    rows = [
        f"| {part.kind} {code(redact(part.name))} | {code(each.name)} | {each.training}: {each.says} |"
        for part, each in known
    ]
    head = ["", "| part | licence | training with the images |", "|---|---|---|", *rows, ""]
    return [*lines, *([] if lines else ["The strictest licence of these holds for the images."]), *head]
