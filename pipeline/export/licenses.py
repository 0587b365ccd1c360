"""What a dataset's card says of the licences of the models that drew it."""

from __future__ import annotations

from promptmill.pipeline.export.markdown import code
from promptmill.pipeline.models.catalog.licenses import license_called, strictest
from promptmill.pipeline.planning.plan import Plan


def license_fields(plan: Plan) -> dict[str, str]:
    """The strictest of all that were drawn with, in the hub's words."""
    own = strictest(model.license for model in plan.models)
    if own.training in ("free", "restricted"):
        return {"license": own.name}
    return {"license": "other", "license_name": own.name, **({"license_link": own.url} if own.url else {})}


def license_lines(plan: Plan) -> list[str]:
    own = strictest(model.license for model in plan.models)
    if own.training == "unknown":
        return [
            "The licence of the images depends on those of the model and of the prompts, which Promptmill does not",
            "know: set `license` above before publishing, or `model.license` in the job.",
        ]
    named = {model.path: license_called(model.license) for model in plan.models}
    rows = [f"| {code(path)} | {code(each.name)} | {each.training}: {each.says} |" for path, each in named.items()]
    head = ["", "| model | licence | training with its images |", "|---|---|---|", *rows, ""]
    return ["Licences of prompts and input images come on top of those of the models.", *head]
