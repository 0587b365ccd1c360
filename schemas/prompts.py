"""`prompts:` of the job file."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import InitErrorDetails

from promptmill.schemas.attributes import MOST_NAME, AttributeValues
from promptmill.schemas.inputs import ROLES, STEERING, Role, control_role
from promptmill.schemas.rules import StrictModel, Text, broken_rule, raise_all, repeats
from promptmill.schemas.wildcards import read_template

MAX_SEED = 2**53 - 1
"""Seeds that are derived stay exact in JSON, JavaScript and spreadsheets."""
LARGEST_SEED = 2**64 - 1
"""Of those in a column: what torch takes, and ComfyUI writes."""
SuiteName = Literal["partiprompts", "geneval", "t2i-compbench", "drawbench", "dpg", "shapes"]
Syntax = Literal["a1111"]
CLASS_FILE: Final = "classes"
"""The source of a job that names classes and no other; its rows are these."""
SUITES_WITH_IDS: Final = frozenset({"dpg", "shapes"})


class Columns(StrictModel):
    """Names of the columns in the source. All other columns are carried into the records unchanged."""

    prompt: Text = "prompt"
    """The text to draw."""
    id: Text | None = None
    """Unique over the whole source. Without it an id is made from file name and row number."""
    negative_prompt: Text | None = None
    """Overrides `generation.negative_prompt` where the value is not null."""
    seed: Text | None = None
    """Integer from 0 to 2^64 − 1; sample i of the prompt takes seed + i. Null and -1 leave the derived seed."""
    caption: Text | None = None
    """Text that the image is stored with and scored against; the prompt where absent or null."""
    image: Text | None = None
    """Image to start from: a path relative to the source file's folder, a URL, bytes, or a Hugging Face image."""
    mask: Text | None = None
    """What of `image` to draw anew: white. The rest keeps its pixels exactly."""
    control_image: Text | Annotated[dict[Text, Text], Field(min_length=1)] | None = None
    """Image that steers the ControlNets of the model, in the same forms; or a column for each, by its name."""
    reference_image: Text | None = None
    """Image that the model's IP-Adapter looks at, in the same forms, for its subject or its style."""
    control_scale: Text | None = None
    """Number from 0 to 10; overrides `generation.control_scale` where not null."""
    control_start: Text | None = None
    """Number from 0, below 1; overrides `generation.control_start` where not null."""
    control_end: Text | None = None
    """Number above 0, at most 1; overrides `generation.control_end` where not null."""
    reference_scale: Text | None = None
    """Number from 0 to 10; overrides `generation.reference_scale` where not null."""
    strength: Text | None = None
    """Number above 0, at most 1; overrides `generation.strength` where not null."""
    adapter: Text | None = None
    """Which of `model.adapters` the row is drawn with: a name, several with `+` between, or `none`. Null is all."""
    label: Text | None = None
    """Class of the row, by name or number: records then have `label` and `label_name`, as Hugging Face's ClassLabel."""

    @property
    def images(self) -> dict[Role, str]:
        """Columns of input images, by role."""
        whole = {role: name for role in ROLES if isinstance(name := getattr(self, role, None), str)}
        if isinstance(self.control_image, dict):
            whole |= {control_role(net): name for net, name in self.control_image.items()}
        return whole

    @property
    def steering(self) -> tuple[str, ...]:
        """The fields of STEERING that rows may set."""
        return tuple(name for name in STEERING if getattr(self, name) is not None)

    @property
    def named(self) -> dict[str, str | None]:
        """What is mapped, to its column; each control image by its role."""
        others = {key: name for key, name in self if not isinstance(name, dict)}
        return {**others, **self.images}


class Format(StrictModel):
    """How CSV, TSV and plain text are written. What is left out is found out, and told where it is not as usual."""

    delimiter: Text | None = None
    """Sign between fields, such as `;`, or `tab`."""
    quoting: Text | None = None
    """Sign around fields that need one, such as `'`, or `none`."""
    escape: Text | None = None
    """Sign before a quotation mark that is text, such as a backslash. Two marks for one are always read."""
    comment: Text | None = None
    """Lines of plain text that begin so are no prompts, such as `//`."""

    @property
    def separator(self) -> str | None:
        return "\t" if self.delimiter in ("tab", "\\t") else self.delimiter

    @property
    def quote(self) -> str | None:
        """None where nothing is quoted."""
        return None if self.quoting in (None, "none") else self.quoting

    @model_validator(mode="after")
    def _one_sign(self) -> Self:
        given = {"delimiter": self.separator, "quoting": self.quote, "escape": self.escape}
        hint = 'For example `format: {delimiter: ";"}`, `tab` as a delimiter, `none` as quoting.'
        raise_all(
            [
                broken_rule((name,), "one sign", repr(sign), hint, f"prompts.format.{name}")
                for name, sign in given.items()
                if sign is not None and (len(sign) > 1 or sign in "\r\n")
            ]
        )
        return self


class ShapesSuite(StrictModel):
    """Options of the built-in suite."""

    per_category: Annotated[int, Field(ge=1, le=1000)] = 12
    """Prompts of each category: colour, shape, one, size, place, relation."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Another seed gives other prompts."""
    split: Literal["held_out", "train"] = "held_out"
    """`held_out`: combinations that the built-in model never saw in training."""


class Prompts(StrictModel):
    # Also said by the JSON Schema, for editors; `_sound` says it better.
    model_config = ConfigDict(
        json_schema_extra={
            "if": {"not": {"anyOf": [{"required": ["suite"]}, {"required": ["classes"]}]}},
            "then": {"required": ["source"]},
        }
    )

    suite: SuiteName | None = None
    """A published prompt suite, of which `source` names the file or folder, or the built-in `shapes`.

    It knows its columns, and gives each prompt a `category` where the suite has one."""
    source: Text | None = None
    """File, folder, glob or URL; Parquet, Delta, CSV, TSV, JSON, JSONL, Excel, text with one prompt a line, images,
    or WebDataset tars.

    Needed but for `suite: shapes` and `classes`.

    A path is relative to the folder the command is started in. `{date}` is the day, as in `output.url`."""
    columns: Columns = Columns()
    """Which source column is what."""
    classes: (
        Text
        | Annotated[dict[Text, Text], Field(min_length=1)]
        | Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
        | None
    ) = None
    """Classes to draw: names with their wording, names alone, a folder of real images with a folder for each class, or
    a table with the columns `name` and `wording`.

    Without `source` a row is a class, and its wording the prompt; with one, `columns.label` says which row is of which
    class. `{class}` in a template is the wording."""
    templates: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Texts that each row is drawn with, each of them, instead of a prompt column.

    `{name}` in one is an attribute, or the row's value in that column, `{class}` the wording of its class, `{{` a
    brace."""
    attributes: dict[Text, AttributeValues] = Field(default={})
    """What `{name}` in a template may be: a list, values with weights, or `{file: …}` or `{column: …}`.

    A value may hold further names. Each choice is a column of the record; used twice in a text it is the same."""
    draws: Annotated[int, Field(ge=1)] | None = None
    """So many prompts of each row (without `source`: of each class), drawn by the job's seed, the templates in turn.
    Null makes all combinations of attributes."""
    wildcards: bool | Text = False
    """Read `{a|b}`, `{2$$a|b|c}` and `__file__` in prompts and templates, files in the folder `wildcards/` or in the
    one that is named here. Otherwise such a prompt is drawn as it is written."""
    syntax: Syntax | None = None
    """How prompts are written that are for another tool: `a1111` reads `<lora:name:0.8>`, `(word:1.2)`, `[word]`,
    `BREAK`, and flags such as `--seed 5` and `--ar 16:9`. Null draws all of it as words."""
    format: Format = Format()
    """How text files are written, where that is not found out rightly."""
    carry: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Columns of images or sounds that the records shall have too; all other columns are carried unasked."""
    license: Text | None = None
    """Licence of the source, above all of its images, as cards name it (`cc-by-4.0`). Null is what the README.md beside
    them says. It stands in the dataset's card; enters no fingerprint."""
    shapes: ShapesSuite = ShapesSuite()
    """Options of `suite: shapes`."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many rows of the source."""

    @property
    def mapped(self) -> Columns:
        """Which column is what once the source is read: of a suite its own, whatever its files call them."""
        if self.suite is None and self.source is None and self.classes is not None:
            return Columns(id="label", label="label")
        if self.suite is None:
            return self.columns
        return Columns(id="id") if self.suite in SUITES_WITH_IDS else Columns()

    @property
    def labelled(self) -> bool:
        """Whether records have a label."""
        return self.mapped.label is not None

    @model_validator(mode="before")
    @classmethod
    def _drawn_from_classes(cls, data: Any) -> Any:
        """A folder of classes is the source too where images are drawn from, and its folders are their labels."""
        if not isinstance(data, dict) or data.get("source") is not None or not isinstance(data.get("classes"), str):
            return data
        columns = data.get("columns")
        if not isinstance(columns, dict) or not any(columns.get(role) for role in ROLES):
            return data
        return {**data, "source": data["classes"], "columns": {"label": "label", **columns}}

    @model_validator(mode="after")
    def _sound(self) -> Self:
        built_in = self.suite == "shapes"
        wrong = self._wrong_classes()
        if self.source is None and not built_in and self.classes is None:
            hint = "File, folder, glob or URL of the prompts; only `suite: shapes` and `classes` need none."
            wrong.append(broken_rule(("source",), "a non-empty string", "nothing", hint, "prompts"))
        if self.source is not None and built_in:
            hint = "`suite: shapes` makes its prompts itself."
            wrong.append(broken_rule(("source",), "nothing", repr(self.source), hint, "prompts"))
        if self.suite is not None and self.columns != type(self.columns)():
            hint = f"`suite: {self.suite}` knows its columns; leave `suite` out to map them yourself."
            wrong.append(broken_rule(("columns",), "nothing", "a mapping", hint, "prompts"))
        if self.suite is not None and self.format != type(self.format)():
            hint = f"`suite: {self.suite}` knows how its files are written."
            wrong.append(broken_rule(("format",), "nothing", "a mapping", hint, "prompts"))
        if self.suite is not None and self.syntax is not None:
            hint = f"`suite: {self.suite}` has its own prompts, in plain words."
            wrong.append(broken_rule(("syntax",), "nothing", repr(self.syntax), hint, "prompts"))
        if self.suite is not None and self.templates:
            hint = f"`suite: {self.suite}` has its own prompts."
            wrong.append(broken_rule(("templates",), "nothing", "texts", hint, "prompts"))
        wrong += [*_wrong_templates(self.templates, bool(self.wildcards)), *self._wrong_words()]
        if self.shapes != type(self.shapes)() and not built_in:
            hint = "These are options of `suite: shapes`."
            wrong.append(broken_rule(("shapes",), "nothing", "a mapping", hint, "prompts"))
        raise_all(wrong)
        return self

    def _wrong_words(self) -> list[InitErrorDetails]:
        wrong = []
        for name in ("class", "template"):
            if name in self.attributes:
                hint = "The word means something else in templates and records."
                wrong.append(broken_rule(("attributes", name), "another name", repr(name), hint, "prompts.attributes"))
        for name in self.attributes:
            if not name.isidentifier() or len(name) > MOST_NAME:
                expected = f"a name of at most {MOST_NAME} letters, digits and underscores"
                wrong.append(broken_rule(("attributes", name), expected, repr(name[:80]), "", "prompts.attributes"))
        if self.attributes and not self.templates:
            hint = 'Attributes stand in templates: `templates: ["a {colour} star"]`.'
            wrong.append(broken_rule(("templates",), "texts with {names}", "nothing", hint, "prompts"))
        if self.draws is not None and not (self.templates or self.wildcards):
            hint = "There is nothing to draw without `templates` or `wildcards`."
            wrong.append(broken_rule(("draws",), "null", self.draws, hint, "prompts"))
        if self.suite is not None and self.wildcards:
            hint = f"`suite: {self.suite}` has its own prompts, in plain words."
            wrong.append(broken_rule(("wildcards",), "false", self.wildcards, hint, "prompts"))
        return wrong

    def _wrong_classes(self) -> list[InitErrorDetails]:
        if self.classes is None:
            return []
        if self.suite is not None:
            hint = f"`suite: {self.suite}` has its own prompts."
            return [broken_rule(("classes",), "nothing", "classes", hint, "prompts")]
        if self.source is None and self.columns != type(self.columns)():
            hint = "Without `source` a row is a class, and there are no other columns."
            return [broken_rule(("columns",), "nothing", "a mapping", hint, "prompts.columns prompts.classes")]
        if self.source is not None and self.columns.label is None:
            hint = "Say which column of the source holds the class of a row."
            return [
                broken_rule(("columns", "label"), "a column's name", "null", hint, "prompts.columns prompts.classes")
            ]
        return []


def _wrong_templates(templates: tuple[str, ...], wildcards: bool) -> list[InitErrorDetails]:
    wrong = []
    for i, text in enumerate(templates):
        try:
            read_template(text, wildcards)
        except ValueError as error:
            hint = "A name in braces is that of an attribute or a column; two braces stand for one."
            wrong.append(
                broken_rule(("templates", i), "text with {names} of columns or attributes", f"{error}", hint, "prompts")
            )
    return wrong + [
        broken_rule(("templates", i), "texts that differ", f"{templates[i]!r} twice", "Leave one out.", "prompts")
        for i, _ in repeats(templates)
    ]
