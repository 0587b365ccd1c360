"""The job file as typed, frozen values. `schemas/job.schema.json` is generated from here (`promptmill schema`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, create_model, model_serializer, model_validator
from pydantic_core import InitErrorDetails

from promptmill.schemas.additions import Adapter, ControlNet
from promptmill.schemas.inputs import CONTROL, ROLES, Role, Task, control_role, task_of
from promptmill.schemas.rules import StrictModel, Text, broken_rule, raise_all, repeats
from promptmill.schemas.scores import LOWER_IS_BETTER, METRIC_SCORES
from promptmill.schemas.sweep import Partial, SweepAxes, axis

SCHEMA_VERSION = 1
MAX_SEED = 2**53 - 1
"""Seeds that are derived stay exact in JSON, JavaScript and spreadsheets."""
LARGEST_SEED = 2**64 - 1
"""Of those in a column: what torch takes, and ComfyUI writes."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ImageFormat = Literal["png", "webp", "jpeg"]
Fit = Literal["cover", "contain", "stretch"]
SCORE_KINDS: Final = ("clip", "relative", "metric", "python")
SuiteName = Literal["partiprompts", "geneval", "t2i-compbench", "drawbench", "dpg", "shapes"]
SUITES_WITH_IDS: Final = frozenset({"dpg", "shapes"})
LARGEST_SIDE: Final = {"webp": 16_383}
"""Pixels that an image format can hold, where that is less than `Size` says."""

Size = Annotated[int, Field(ge=8, le=16384)]
INPUT_FIELDS: Final = frozenset({"strength", "fit"})
"""Fields of `generation` that say something of input images."""
CONTROL_FIELDS: Final = frozenset({"control_scale", "control_start", "control_end"})
"""Fields of `generation` that say something of ControlNets."""


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
    strength: Text | None = None
    """Number above 0, at most 1; overrides `generation.strength` where not null."""
    adapter: Text | None = None
    """Which of `model.adapters` the row is drawn with: a name, several with `+` between, or `none`. Null is all."""

    @property
    def images(self) -> dict[Role, str]:
        """Columns of input images, by role."""
        whole = {role: name for role in ROLES if isinstance(name := getattr(self, role, None), str)}
        if isinstance(self.control_image, dict):
            whole |= {control_role(net): name for net, name in self.control_image.items()}
        return whole

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
        json_schema_extra={"if": {"not": {"required": ["suite"]}}, "then": {"required": ["source"]}}
    )

    suite: SuiteName | None = None
    """A published prompt suite, of which `source` names the file or folder, or the built-in `shapes`.

    It knows its columns, and gives each prompt a `category` where the suite has one."""
    source: Text | None = None
    """File, folder, glob or URL; Parquet, Delta, CSV, TSV, JSON, JSONL, Excel, or text with one prompt a line.

    Needed but for `shapes`.

    A path is relative to the folder the command is started in."""
    columns: Columns = Columns()
    """Which source column is what."""
    format: Format = Format()
    """How text files are written, where that is not found out rightly."""
    carry: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Columns of images or sounds that the records shall have too; all other columns are carried unasked."""
    shapes: ShapesSuite = ShapesSuite()
    """Options of `suite: shapes`."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many rows of the source."""

    @property
    def mapped(self) -> Columns:
        """Which column is what once the source is read: of a suite its own, whatever its files call them."""
        if self.suite is None:
            return self.columns
        return Columns(id="id") if self.suite in SUITES_WITH_IDS else Columns()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        built_in = self.suite == "shapes"
        wrong = []
        if self.source is None and not built_in:
            hint = "File, folder, glob or URL of the prompts; only `suite: shapes` needs none."
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
        if self.shapes != type(self.shapes)() and not built_in:
            hint = "These are options of `suite: shapes`."
            wrong.append(broken_rule(("shapes",), "nothing", "a mapping", hint, "prompts"))
        raise_all(wrong)
        return self


class Model(StrictModel):
    path: Text = "builtin:shapes"
    """A diffusers folder, a hub id such as `stabilityai/sdxl-turbo`, or `builtin:shapes`. Safetensors only."""
    revision: Text | None = None
    """Commit of a hub id; required for hub ids, so that a resumed job cannot meet other weights."""
    dtype: Dtype = "auto"
    """`auto` is bfloat16 on a GPU that has it, else float16 on a GPU, float32 on CPU."""
    adapters: Annotated[tuple[Adapter, ...], Field(strict=False, max_length=32)] = ()
    """LoRA adapters, all at once. To sweep them, sweep `model`: its weights are loaded once for all."""
    controlnets: Annotated[tuple[ControlNet, ...], Field(strict=False, max_length=8)] = ()
    """ControlNets, all at once, steered by `prompts.columns.control_image`."""


class Generation(StrictModel):
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Classifier-free guidance; at 1 and below the negative prompt has no effect."""
    negative_prompt: str = ""
    """What the image should not show."""
    scheduler: Text | None = None
    """A diffusers scheduler class or a short name (`ddim`, `dpm++`, `euler`, `euler_a`, `unipc`, `lcm`).

    Null keeps the pipeline's own."""
    width: Size | None = None
    """Pixels; null is the model's own."""
    height: Size | None = None
    """Pixels; null is the model's own."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Images per forward pass. Part of the result: batch size changes last bits."""
    images_per_prompt: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Images for each prompt and sweep cell, each with its own seed."""
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    """How far an input image is left behind: this share of the steps is made. Null is 0.6, with a mask 1."""
    fit: Fit | None = None
    """How input images come to `width` × `height`: `cover` cuts, `contain` adds black, `stretch`. Null is `cover`.

    Without `width` and `height` each image keeps its own size, to the nearest that the model can draw."""
    control_scale: Annotated[float, Field(ge=0, le=10)] | None = None
    """How strongly ControlNets act; 0 is without them. Null is 1."""
    control_start: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps after which ControlNets begin to act. Null is 0."""
    control_end: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the steps after which they act no more. Null is 1."""


def _partial(name: str, **more: Any) -> Any:
    fields = {field: (info.rebuild_annotation(), info.default) for field, info in Generation.model_fields.items()}
    return create_model(name, __base__=Partial, **more, model=(Text | Model, None), **fields)  # type: ignore[call-overload]


if TYPE_CHECKING:
    Sweep = SweepAxes
else:
    _NamedSettings = Annotated[dict[Text, _partial("NamedSettings")], Field(min_length=1)]
    _Exclusion = _partial("Exclusion", settings=(Text, None))
    _together = "One axis of values that go together: names, each with the fields that it sets."
    _left_out = "Cells left out: those that have all values of one of these."
    # Built from Generation, so that a field added there can be swept the same day.
    Sweep = create_model(
        "Sweep",
        __base__=SweepAxes,
        model=axis(Text | Model),
        settings=(_NamedSettings | None, Field(None, description=_together)),
        **{name: axis(field.rebuild_annotation()) for name, field in Generation.model_fields.items()},
        exclude=(tuple[_Exclusion, ...], Field((), max_length=1000, strict=False, description=_left_out)),
    )


class Score(StrictModel):
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [kind], "properties": {kind: {"type": "string"}}} for kind in SCORE_KINDS]
        }
    )

    clip: Text | None = None
    """Cosine of image and caption, by an open_clip model: `name/tag`, `hf-hub:org/name[@commit]`, `local-dir:folder`
    or `builtin:shapes`."""
    relative: Text | None = None
    """How surely an open_clip model picks the caption among `distractors`, 0 to 1."""
    distractors: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Captions that `relative` holds against that of the image."""
    metric: Literal["image", "verified"] | None = None
    """`image`: `sharpness`, `contrast`, `colourfulness`, `near_black`. `verified`: whether the image shows what a
    caption of the shapes world says, and `verified_share`, the share of its claims that hold."""
    python: Text | None = None
    """A score of your own: the import path of its class, `package.module:Class`, or the name of an entry point in the
    group `promptmill.scores`. The class says what its scores are called."""
    name: Text | None = None
    """Key of `clip` or `relative` in the `scores` column, and what `select.by` refers to. Null is that word."""

    @property
    def model(self) -> str | None:
        """The open_clip model, None where the score needs none."""
        return self.clip or self.relative

    @property
    def names(self) -> tuple[str, ...]:
        """Keys in the `scores` column; none for `python`, whose class has them: `Plan.score_names`."""
        if self.python is not None:
            return ()
        if self.metric is not None:
            return METRIC_SCORES[self.metric]
        return (str(self.name),)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name") is not None:
            return data
        return {**data, "name": next((kind for kind in ("clip", "relative") if data.get(kind)), None)}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in SCORE_KINDS if getattr(self, kind) is not None]
        wrong = []
        if len(given) != 1:
            hint = "One item of the list, one kind of score: `- clip: builtin:shapes`, `- metric: image`."
            got = " and ".join(given) or "nothing"
            loc = given[1] if given else "clip"
            wrong.append(broken_rule((loc,), "one of `clip`, `relative`, `metric`, `python`", got, hint, "score"))
        elif given in (["metric"], ["python"]) and self.name is not None:
            fixed = f"Its scores are called {', '.join(self.names)}." if self.metric else "Its class names its scores."
            wrong.append(broken_rule(("name",), "null", repr(self.name), fixed, "score"))
        if bool(self.distractors) != ("relative" in given):
            expected = "captions" if "relative" in given else "none without `relative`"
            hint = "For example `distractors: [a photo of a dog, a blank image]`."
            wrong.append(broken_rule(("distractors",), expected, list(self.distractors), hint, "score"))
        raise_all(wrong)
        return self

    @model_serializer
    def _in_use(self) -> dict[str, Any]:
        """Only the fields in use, which are those that differ from their defaults."""
        return {key: value for key, value in self if value != type(self).model_fields[key].default}


class Select(StrictModel):
    keep: Annotated[int, Field(ge=1)] | None = 1
    """Best so many images of each prompt and sweep cell; null keeps all that pass `min`."""
    by: Text = "clip"
    """Name of a score. Higher is better, but for `near_black`."""
    min: float | None = None
    """Images that score below are rejected."""


class Output(StrictModel):
    url: Text
    """Folder or URL (`s3://bucket/prefix`) of the dataset. `{date}` is the day, `{date:%Y/%m}` a part of it, in UTC."""
    image_format: ImageFormat = "png"
    """`png` (level 1), `webp` (lossless) or `jpeg`."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Used for `jpeg` only."""
    images_per_shard: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Images made per output object, before selection; the unit of work that a crash can cost."""
    embed_parameters: bool = True
    """Write prompt and settings into each image, as the `parameters` text that AUTOMATIC1111-style tools read."""
    embed_source_type: bool = True
    """Mark each image as made by a model: IPTC digital source type `trainedAlgorithmicMedia` in XMP."""
    keep_rejected_images: bool = False
    """Store the images of rejected samples too, beside their reasons."""
    keep_inputs: bool = False
    """Store each input image once, as it was read, under `inputs/images/` by its SHA-256."""


class Compute(StrictModel):
    """How the job runs. Nothing here changes which rows are made."""

    workers: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    """`auto`: one per GPU, else one per core, less where memory is short."""
    threads_per_worker: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of a worker's tensor library. Changes last bits, so keep it when you resume."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = "auto"
    """`auto`: 1 where the cluster has GPUs, else 0."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a shard is tried that ends in an error nobody expects, before the run stops.

    A sample that breaks its worker is found and fails alone. Where workers die ten times as often on one shard and no
    sample is to blame, the run stops too."""
    step_timeout_s: Annotated[float, Field(gt=0)] = 300
    """Seconds without a denoising step after which a worker counts as hung."""
    wait_for_workers_s: Annotated[float, Field(gt=0)] = 900
    """Seconds to wait for a first worker where the cluster has none free, or has to grow."""
    max_failure_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The run stops when more than this share of samples fails (looked at after 100 samples)."""


class Job(StrictModel):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    """Shown in progress, reports and the dataset card."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Start of all randomness: another seed gives other images of the same prompts."""
    prompts: Prompts
    """Where the prompts are."""
    model: Model = Model()
    """What makes the images."""
    generation: Generation = Generation()
    """How the images are made."""
    sweep: Sweep = Sweep()
    """Axes that multiply: any field of `generation`, `model`, and named settings, each a list or a range.

    Cells of one prompt share their seeds."""
    score: Annotated[tuple[Score, ...], Field(strict=False)] = ()
    """What each image is scored with."""
    select: Select | None = None
    """Which images are kept; leave it out to keep all."""
    output: Output
    """Where and how the dataset is written."""
    compute: Compute = Compute()
    """How the job runs; not part of the result."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        raise_all([*self._wrong_scores(), *self._wrong_select(), *self._wrong_columns(), *self._wrong_additions()])
        return self

    @property
    def score_names(self) -> list[str]:
        return [name for score in self.score for name in score.names]

    def _wrong_scores(self) -> list[InitErrorDetails]:
        places = [index for index, score in enumerate(self.score) for _ in score.names]
        names = self.score_names
        hint = "Give each `clip` and `relative` a `name` of its own; those of a `metric` are fixed."
        return [
            broken_rule(("score", places[index], "name"), "names that differ", f"{names[first]!r} twice", hint, "score")
            for index, first in repeats(names)
        ]

    def _wrong_select(self) -> list[InitErrorDetails]:
        if self.select is None:
            return []
        wrong = []
        names = self.score_names
        if self.select.by not in names and not any(score.python for score in self.score):  # the plan knows those
            expected = "the name of a score (" + (", ".join(names) or "this job has none") + ")"
            hint = "" if names else "Add `score: [{clip: …}]`, or remove `select`."
            wrong.append(broken_rule(("select", "by"), expected, repr(self.select.by), hint, "select.by score"))
        if self.select.by in LOWER_IS_BETTER and self.select.min is not None:
            hint = "Of this score the lowest are kept, so a least value would reject the best."
            fields = "select.min select.by"
            wrong.append(broken_rule(("select", "min"), f"null with {self.select.by}", self.select.min, hint, fields))
        images = self.sweep.values_of("images_per_prompt", self.generation.images_per_prompt)
        least = min(value for _, value in images)
        if self.select.keep is not None and self.select.keep > least:
            fields = "select.keep generation.images_per_prompt sweep"
            hint = "More cannot be kept than are made: raise `generation.images_per_prompt` or lower `select.keep`."
            wrong.append(
                broken_rule(
                    ("select", "keep"), f"at most {least}, the images per prompt", self.select.keep, hint, fields
                )
            )
        return wrong

    @property
    def task(self) -> Task:
        """What kind of pipeline the job needs: it follows from the images that its prompts have."""
        return task_of(self.prompts.mapped.images)

    def _wrong_columns(self) -> list[InitErrorDetails]:
        columns, wrong = self.prompts.columns, []
        if columns.mask is not None and columns.image is None:
            hint = "A mask says what of an image is drawn anew: name the column of the images too."
            fields = "prompts.columns.image prompts.columns.mask"
            wrong.append(broken_rule(("prompts", "columns", "image"), "a column's name", "null", hint, fields))
        wrong += self._without_images() if columns.image is None else []
        wrong += self._without_adapters() if columns.adapter is not None else []
        return wrong + (self._wrong_maps() if self._controlled else self._without_nets())

    def _without_images(self) -> list[InitErrorDetails]:
        hint = "It is about input images: name their column in `prompts.columns.image`."
        fields = INPUT_FIELDS if self.prompts.columns.control_image is None else INPUT_FIELDS - {"fit"}
        strength = [("prompts", "columns", "strength")] if self.prompts.columns.strength is not None else []
        places = [*self._set(fields), *strength]
        return [_needs(loc, "prompts.columns.image", hint) for loc in places]

    def _without_adapters(self) -> list[InitErrorDetails]:
        if any(isinstance(model, Model) and model.adapters for _, model in self._models()):
            return []
        hint = "It chooses among adapters: name them in `model.adapters`."
        return [_needs(("prompts", "columns", "adapter"), "model.adapters", hint)]

    def _without_nets(self) -> list[InitErrorDetails]:
        hint = "It is about ControlNets: name them in `model.controlnets`."
        column = [("prompts", "columns", CONTROL)] if self.prompts.columns.control_image is not None else []
        return [_needs(loc, "model.controlnets", hint) for loc in [*self._set(CONTROL_FIELDS), *column]]

    def _set(self, fields: frozenset[str]) -> list[tuple[str, ...]]:
        """Where the job sets one of these fields of `generation`."""
        given = [(name, each.given().keys()) for name, each in (self.sweep.settings or {}).items()]
        return [
            *(("generation", field) for field in fields if getattr(self.generation, field) is not None),
            *(("sweep", field) for field in fields if field in self.sweep.axes()),
            *(("sweep", "settings", name, field) for name, own in given for field in sorted(fields & own)),
        ]

    @property
    def _controlled(self) -> bool:
        return any(isinstance(model, Model) and model.controlnets for _, model in self._models())

    def _wrong_maps(self) -> list[InitErrorDetails]:
        """Whether every ControlNet has its image, and every named image its ControlNet."""
        nets = {net.name for _, model in self._models() if isinstance(model, Model) for net in model.controlnets}
        given, loc = self.prompts.columns.control_image, ("prompts", "columns", CONTROL)
        fields = "prompts.columns.control_image model.controlnets"
        if given is None:
            hint = "A ControlNet draws along an image: name the column of those images."
            return [broken_rule(loc, "a column's name", "null", hint, fields)]
        if isinstance(given, str) or given.keys() == nets:
            return []
        expected, hint = f"a column for each of {', '.join(sorted(nets))}", "One column's name serves them all."
        return [broken_rule(loc, expected, ", ".join(sorted(given)), hint, fields)]

    def _models(self) -> Iterator[tuple[tuple[str | int, ...], str | Model]]:
        """Every model that is written in the job, with its place."""
        yield ("model",), self.model
        yield from ((("sweep", "model", i), value) for i, value in enumerate(self.sweep.axes().get("model", ())))
        for name, each in (self.sweep.settings or {}).items():
            if "model" in each.given():
                yield ("sweep", "settings", name, "model"), each.given()["model"]

    def _wrong_additions(self) -> list[InitErrorDetails]:
        # Not a rule of Model: a union whose member has one loses the place of what is wrong in it.
        return [
            broken_rule((*loc, kind, i, "name"), "names that differ", f"{names[i]!r} twice", "Give each its own.", "")
            for loc, model in self._models()
            if isinstance(model, Model)
            for kind, names in (
                ("adapters", [each.name for each in model.adapters]),
                ("controlnets", [each.name for each in model.controlnets]),
            )
            for i, _ in repeats(names)
        ]


def _needs(loc: tuple[str, ...], field: str, hint: str) -> InitErrorDetails:
    return broken_rule(loc, f"nothing without `{field}`", f"`{loc[-1]}`", hint, field)
