"""One table says which columns a record has; what is written, typed, told and read of them agrees with it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest

from promptmill.pipeline.dataset.records import Outcome, RecordWriter
from promptmill.pipeline.export.croissant import croissant_metadata
from promptmill.schemas.columns import (
    COLUMNS,
    HASHES,
    columns_only,
    input_column,
    named,
    of_kind,
    own_columns,
    with_modes,
)
from promptmill.schemas.inputs import ROLES, Input
from promptmill.schemas.origin import Lineage
from promptmill.schemas.plan import Sample
from promptmill.schemas.records import FAILURE, RECORD, REJECT, input_fields, with_scores

ADAPTERS, CONTROLS = columns_only("adapters"), columns_only("controls")
ROOT = Path(__file__).parents[2]
SAMPLE = Sample("s", "p", 0, 0, 1, "a cube", "", "a cube", inputs={"image": Input("a.png", "00" * 32)}, strength=0.5)
ROOMS = ("dataset", "scores", "export", "curation", "evaluation", "worker", "report", "execution")


def test_the_schemas_are_those_of_version_1() -> None:
    ids, texts = ["sample_id", "prompt_id"], ["caption", "prompt", "negative_prompt"]
    five = ["sample_index", "variant", "seed", "model", "model_revision"]
    more = ["pipeline_class", "scheduler", "dtype", "num_inference_steps", "guidance_scale", "width", "height"]
    last = ["clip_score", "scores", "image_sha256", "image_phash", "flags"]
    assert RECORD.names == [*ids, "image", *texts, *five, *more, *last]
    assert REJECT.names == [*ids, "reason", "image", *texts, *five, *more, *last]
    assert FAILURE.names == [*ids, "error_kind", "message", "attempts", *texts, *five]
    assert [field.nullable for field in RECORD] == [False, False, *[True] * (len(RECORD) - 2)]


def test_a_row_fills_every_column_and_no_other() -> None:
    more = [*input_fields(["image"]), *ADAPTERS, *CONTROLS]
    constants = {"variant": "{}", "model": "m", "model_revision": "r", "pipeline_class": "c", "scheduler": "s"}
    constants |= {"dtype": "float32", "num_inference_steps": 2, "guidance_scale": 1.0, "task": "image-to-image"}
    constants |= {"adapters": [], "controls": []}
    writer = RecordWriter(("clip",), pa.table({"prompt": ["x"]}), constants, "clip", more)
    outcome = Outcome(SAMPLE, {"clip": 0.5})
    assert set(writer._row(outcome)) <= {column.name for column in COLUMNS}
    row = writer.kept([outcome]).to_pylist()[0]
    empty = {name for name, value in row.items() if value is None}
    assert empty == {"image", "width", "height", "image_sha256", "image_phash", *map(input_column, ROLES[1:])}
    assert row[HASHES]["image"] == "00" * 32


def test_what_a_sample_is_made_of_is_in_every_kind_of_object() -> None:
    known = {field.name for field in fields(Sample)}
    for name in of_kind("identity", "text"):
        assert name in known
        assert all(name in schema.names for schema in (RECORD, REJECT, FAILURE))


@pytest.mark.parametrize("roles", [["image"], ["image", "mask"], ["control_image_depth"]])
def test_columns_of_ours_are_told_from_the_source_s(roles: list[str]) -> None:
    schema = pa.schema([*with_scores(RECORD, ["x"]), *input_fields(roles), *ADAPTERS, pa.field("mine", pa.string())])
    ours = own_columns(schema)
    assert set(schema.names) - set(ours) - {"mine"} == {input_column(r) for r in roles if r not in ROLES}
    others = pa.schema(
        [*RECORD, pa.field("controls", pa.string()), pa.field("task", pa.string()), ("adapters", "int8")]
    )
    assert list(own_columns(others)) == RECORD.names


def test_a_number_of_the_source_that_is_called_like_one_of_ours_stays_the_source_s() -> None:
    """The card and Croissant said of it what ours means."""
    both = pa.schema([*RECORD, ("control_scale", pa.float64()), ("image_guidance_scale", pa.float64())])
    assert list(own_columns(both, more=())) == RECORD.names
    assert list(own_columns(both, more=("steering",))) == [*RECORD.names, "control_scale"]
    steered = pa.schema([*RECORD, *map(with_modes, CONTROLS)])
    assert list(own_columns(steered, more=("controls",))) == steered.names


def test_the_catalogues_tell_the_meaning_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plan:
        more_columns = frozenset({"inputs"})
        models, fields, fingerprint, lineage = (), {}, "0", Lineage()  # type: ignore[var-annotated]

        class job:
            name = "x"

            class task:
                roles = ("image",)

            class prompts:
                source = "p"

                class columns:
                    images = ("image",)

    schema = pa.schema([*RECORD, *input_fields(["image"]), pa.field("mine", pa.string())])
    listed = croissant_metadata(Plan, schema)["recordSet"][0]["field"]  # type: ignore[arg-type]
    meanings = {column.name: column.meaning for column in COLUMNS} | {"mine": "From the source of the prompts."}
    assert {each["name"]: each["description"] for each in listed} == {
        name: meanings[name] for name in schema.names if name not in ("scores", HASHES)
    }


def test_a_name_that_no_column_has_is_refused() -> None:
    assert named("seed", "flags") == ("seed", "flags")
    with pytest.raises(KeyError):
        named("seed", "flag")


def test_no_room_keeps_a_list_of_columns_of_its_own() -> None:
    files = [path for room in ROOMS for path in (ROOT / "pipeline" / room).rglob("*.py")]
    assert not [f"{path}:{line}" for path in [*files, *(ROOT / "jobs").rglob("*.py")] for line in _lists(path)]


def _lists(path: Path) -> Iterator[int]:
    """Lines with a literal of three and more columns that `named` does not check."""
    known = {column.name for column in COLUMNS}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            texts = [each.value for each in node.elts if isinstance(each, ast.Constant)]
            if len(known.intersection(text for text in texts if isinstance(text, str))) > 2:
                yield node.lineno
