"""The dataset card that Hugging Face shows (`README.md`) and the metadata that catalogues read (`croissant.json`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import yaml

from promptmill.pipeline.dataset.passed import more_fields
from promptmill.pipeline.dataset.records import FOOTER_KEY
from promptmill.pipeline.dataset.selections import selections
from promptmill.pipeline.display import redact
from promptmill.pipeline.export.croissant import croissant_metadata, license_told
from promptmill.pipeline.export.licenses import license_fields, license_lines
from promptmill.pipeline.export.lineage import NO_ORIGINS, Origins, generation_of, origin_lines, read_origins
from promptmill.pipeline.export.markdown import code, markdown
from promptmill.pipeline.models.catalog.versions import one_line
from promptmill.pipeline.planning.licensed import Part, added_parts
from promptmill.pipeline.planning.lineage import FRONT
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import variant_name
from promptmill.pipeline.prompts.reader import prompt_reader
from promptmill.pipeline.storage.entry import same_write
from promptmill.pipeline.storage.footers import parquet_metadata
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import own_columns
from promptmill.schemas.errors import MissingObjectError
from promptmill.schemas.json_text import parse_object
from promptmill.schemas.plan import Counts
from promptmill.schemas.records import RECORD, passthrough_names, with_scores
from promptmill.schemas.reports import SelectionFacts
from promptmill.schemas.scores import Score

CARD_KEY, CROISSANT_KEY = "README.md", "croissant.json"
MANIFEST = "c2pa_manifest"
"""A column of signed exports, and of no dataset."""
_OF_MANIFEST = "signed C2PA manifest of the bytes of `image`, which does not stand in them"
_CROISSANT_BYTES = 16 << 20
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_VARIANTS_SHOWN = 20


def write_card(plan: Plan, store: Store, counts: Counts, versions: Sequence[Mapping[str, str]] = ()) -> None:
    """Replaces both objects. `counts` are of the whole dataset, `versions` those that acted on its shards."""
    schema = data_schema(plan, store)
    origins = read_origins(plan, store)
    text = _with_selections(card_text(plan, counts, schema, versions, origins=origins), selections(store))
    store.put(CARD_KEY, text.encode("utf-8", "replace"))
    croissant = json.dumps(croissant_metadata(plan, schema, origins), indent=2, ensure_ascii=False)
    store.put(CROISSANT_KEY, croissant.encode("utf-8", "replace"))


def says_license(plan: Plan, store: Store) -> bool:
    """Whether the card that is there was written under the licence that holds by now.

    By what lies beside it: the card's own licence may be one that a person set.
    """
    try:
        beside = store.read_if_exists(CROISSANT_KEY, _CROISSANT_BYTES)
        return beside is None or parse_object(beside).get("license") == license_told(plan)
    except ValueError:
        return True


def tell_selections(store: Store) -> None:
    """Brings the card's list of selections up to date, and leaves what else stands there, which people edit.

    A run that ends meanwhile writes a card of its own, with all selections: that one is not overwritten.
    """
    before, views = store.entry(CARD_KEY), selections(store)
    text = None if before is None else store.read_if_exists(CARD_KEY)
    if before is None or text is None:
        return
    told = _with_selections(text.decode("utf-8", "replace"), views).encode("utf-8", "replace")
    now = store.entry(CARD_KEY)
    if now is not None and same_write(before, now):
        store.put(CARD_KEY, told)


_SELECTIONS = re.compile(r"\n*<!-- selections:begin -->.*?<!-- selections:end -->\n*", re.DOTALL)


def _with_selections(text: str, views: Sequence[SelectionFacts]) -> str:
    text = _SELECTIONS.sub("\n", text).rstrip("\n") + "\n"
    if not views:
        return text
    rows = [f"| {code(view.name)} | {view.kept:,} | {_how(view)} |" for view in views]
    return f"{text}\n" + _VIEWS.format(rows="\n".join(rows), name=views[0].name)


_VIEWS = """\
<!-- selections:begin -->
## Selections

Other choices among the images that were made: `selections/<name>.parquet` says of each sample its `weight`, 1 where
it is kept, and why the others are not.

| selection | images | how |
|---|---:|---|
{rows}

```python
import promptmill
dataset = promptmill.open_dataset(".", selection="{name}").to_datasets()

duckdb.sql("SELECT * FROM read_parquet(['data/*.parquet', 'rejects/*.parquet'], union_by_name = true) "
           "SEMI JOIN (SELECT sample_id FROM 'selections/{name}.parquet' WHERE weight > 0) USING (sample_id)")
```
<!-- selections:end -->
"""


def _how(view: SelectionFacts) -> str:
    best = f"the best {view.keep} of each prompt and setting by {' and '.join(map(code, view.by))}"
    least = [f"{code(name)} at least {value:g}" for name, value in view.least.items()]
    return ", ".join([*([best] if view.keep is not None else []), *least])


def data_schema(plan: Plan, store: Store) -> pa.Schema:
    """As the first object has it; of a dataset without objects as they will have it."""
    for entry in store.list("data"):
        try:
            schema = parquet_metadata(store, entry).schema.to_arrow_schema()
        except (pa.ArrowException, MissingObjectError):  # damaged, or taken away by a repair
            continue
        if FOOTER_KEY in (schema.metadata or {}):
            return schema
    schema = with_scores(RECORD, plan.score_names)
    reader = prompt_reader((), store, plan.source_schema, plan.job.prompts, plan.words)
    passed = reader.passthrough_schema
    more = more_fields(plan)
    schema = pa.schema([*schema, *more])
    for field, name in zip(passed, passthrough_names(passed.names, [each.name for each in more]), strict=True):
        schema = schema.append(field.with_name(name))
    return schema


def exported_card(
    plan: Plan, splits: Mapping[str, int], schema: pa.Schema, origins: Origins, signed: bool = False
) -> str:
    """Of an export in the hub's own layout: a file of a split is called `data/<split>-00000.parquet`."""
    images = sum(splits.values())
    more = {MANIFEST: _OF_MANIFEST} if signed else {}
    return card_text(plan, Counts(images, images), schema, splits=splits, origins=origins, more=more)


def card_text(
    plan: Plan,
    counts: Counts,
    schema: pa.Schema,
    versions: Sequence[Mapping[str, str]] = (),
    splits: Mapping[str, int] | None = None,
    origins: Origins = NO_ORIGINS,
    more: Mapping[str, str] | None = None,
) -> str:
    """`more` are meanings of columns that no record has."""
    files: Any = "data/*.parquet"
    if splits is not None:
        files = [{"split": name, "path": f"data/{name}-*.parquet"} for name, images in splits.items() if images]
    header = {
        "pretty_name": plan.job.name,
        **license_fields(plan),
        "task_categories": ["text-to-image", *(["image-classification"] if "label" in schema.names else [])],
        "tags": ["synthetic", "text-to-image", "image", "promptmill"],
        "size_categories": [next((name for limit, name in _SIZES if counts.kept < limit), "10M<n<100M")],
        FRONT: {"fingerprint": plan.fingerprint, "generation": generation_of(plan, origins)},
        "configs": [{"config_name": "default", "data_files": files}],
    }
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=False, width=10**6)
    return f"---\n{front}---\n\n" + "\n".join(
        [
            f"# {markdown(plan.job.name)}",
            "",
            *_about(plan, counts, origins),
            *(f"- Versions that acted: {code(one_line(each))}" for each in versions),
            *_settings(plan),
            *_columns(plan, schema, more or {}),
            *(_loading(plan) if splits is None else _splits(splits)),
            "",
        ]
    )


def _about(plan: Plan, counts: Counts, origins: Origins) -> list[str]:
    models = [
        f"{code(model.path)} at revision {code(model.revision)} ({markdown(model.pipeline_class)})"
        for model in plan.models
    ]
    return [
        f"{counts.kept:,} images with captions and metadata, made from {plan.prompts:,} prompts with",
        f"Promptmill {version('promptmill')}.",
        "",
        *origin_lines(plan, origins),
        *license_lines(plan),
        "",
        "| samples asked for | kept | rejected | failed |",
        "|---:|---:|---:|---:|",
        f"| {plan.samples:,} | {counts.kept:,} | {counts.rejected:,} | {counts.failed:,} |",
        "",
        *(
            ["Rejected samples are in `rejects/` with the reason, failed ones in `failures/` with the error.", ""]
            if counts.samples - counts.kept
            else []
        ),
        "## How it was made",
        "",
        *(f"- Model: {text}" for text in models),
        *(
            f"- With {each.kind} {code(each.name)}, {code(each.identity)}{_learnt(each)}"
            for each in added_parts(plan.models)
        ),
        *(_score(score) for score in plan.job.score if score.python is None),
        *(f"- Scores {_codes(own.names)}: {code(own.path)}, version {code(own.version)}" for own in plan.python_scores),
        f"- Prompts: {_prompts(plan)}",
        f"- Job fingerprint: `{plan.fingerprint}`; the whole job stands in `job.json`.",
    ]


def _learnt(part: Part) -> str:
    return f", trained on images with SHA-256 {code(part.images)}" if part.images else ""


def _codes(names: Iterable[str]) -> str:
    return ", ".join(code(name) for name in names)


def _score(score: Score) -> str:
    names = _codes(score.names)
    if score.clip:
        return f"- Score {names}: cosine similarity of image and caption by {code(score.clip)}"
    if score.relative:
        return f"- Score {names}: the caption among {len(score.distractors)} distractors, by {code(score.relative)}"
    return f"- Scores {names}"


def _prompts(plan: Plan) -> str:
    source = plan.job.prompts.source
    where = [] if source is None else [code(redact(source))]
    suite = [] if plan.suite is None else [f"suite {plan.suite['name']}", f"SHA-256 `{plan.suite['sha256']}`"]
    return ", ".join([*suite, *where])


def _settings(plan: Plan) -> list[str]:
    swept = plan.job.sweep.axes()
    lines = [
        f"- {name}: {code(json.dumps(value, ensure_ascii=False))}"
        for name, value in plan.job.generation.model_dump().items()
        if name not in swept and value is not None
    ]
    if plan.job.select is not None:
        select = plan.job.select
        lines.append(
            f"- kept: the best {select.keep or 'of all'} of each prompt and setting by {code(select.by)}"
            + (f", at least {select.min}" if select.min is not None else "")
        )
    if swept:
        lines.append(f"- {plan.variant_count:,} settings (column `variant`):")
        lines += [
            f"  - {markdown(variant_name(plan.variant(i).values))}"
            for i in range(min(plan.variant_count, _VARIANTS_SHOWN))
        ]
        lines += ["  - …"] if plan.variant_count > _VARIANTS_SHOWN else []
    return lines


def _columns(plan: Plan, schema: pa.Schema, more: Mapping[str, str]) -> list[str]:
    ours = {name: column.meaning for name, column in own_columns(schema, plan.more_columns).items()} | dict(more)
    rows = [
        f"| {code(field.name)} | {code(str(field.type))} | {ours.get(field.name, 'from the prompts')} |"
        for field in schema
    ]
    return ["", "## Columns", "", "| column | type | meaning |", "|---|---|---|", *rows]


def _splits(splits: Mapping[str, int]) -> list[str]:
    rows = [f"| {name} | {images:,} |" for name, images in splits.items()]
    return ["", "## Splits", "", "| split | images |", "|---|---:|", *rows]


def _loading(plan: Plan) -> list[str]:
    return [
        "",
        "## Loading",
        "",
        "```python",
        "from datasets import load_dataset",
        'dataset = load_dataset("parquet", data_files="data/*.parquet", split="train")  # `image` is decoded',
        "",
        "import duckdb",
        "duckdb.sql(\"SELECT prompt, clip_score FROM 'data/*.parquet' ORDER BY clip_score DESC LIMIT 10\")",
        "",
        "import pandas, glob",
        'frame = pandas.concat(pandas.read_parquet(path) for path in sorted(glob.glob("data/*.parquet")))',
        "```",
    ]
