"""Whatever comes: a job or a JobError, at once, and every field described."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promptmill.pipeline.jobfile.fields import describe_fields
from promptmill.pipeline.jobfile.reader import load_job, parse_job
from promptmill.schemas.errors import JobError
from promptmill.schemas.job import Job

_SIZE = "an integer from 8 to 16384 or null"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\xef\xbb\xbf")
@example(b"? ? :")
@example(b'name: "\\x80\\uDFFF"')
def test_no_bytes_raise_anything_but_a_job_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(raw)
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert all(line.isprintable() for line in str(caught.value).splitlines())


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_KEYS = st.sampled_from([part for each in describe_fields() for part in each.name.replace("[]", "").split(".")])
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=5), inner, max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(_KEYS, _TREES, max_size=6),
    st.lists(st.text(max_size=30) | _KEYS.map("{}.0.x=[1".format), max_size=3),
)
def test_no_tree_of_values_raises_anything_but_a_job_error(tree: dict[str, object], overrides: list[str]) -> None:
    with contextlib.suppress(JobError):
        parse_job(yaml.safe_dump(tree, allow_unicode=True), "job.yaml", overrides)


_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(
    name=_NAMES,
    source=_NAMES,
    seed=st.integers(0, 2**53 - 1),
    guidance=st.lists(st.floats(0, 1000).filter(math.isfinite), min_size=1, max_size=4, unique=True),
    negative=_NAMES | st.just(""),
    workers=st.just("auto") | st.integers(1, 100_000),
    minimum=st.none() | st.floats(-1, 1),
)
def test_a_job_survives_being_written_and_read(
    name: str, source: str, seed: int, guidance: list[float], negative: str, workers: str | int, minimum: float | None
) -> None:
    tree = {
        "name": name,
        "seed": seed,
        "prompts": {"source": source},
        "generation": {"negative_prompt": negative},
        "sweep": {"guidance_scale": guidance},
        "score": [{"clip": "builtin:shapes"}],
        "select": {"min": minimum},
        "output": {"url": "out"},
        "compute": {"workers": workers},
    }
    job = Job.model_validate(tree)
    # JSON is YAML. PyYAML's own writer quotes for YAML 1.1, where 0E0 is text.
    assert parse_job(json.dumps(job.model_dump(mode="json")), "job.yaml") == job


def test_no_heavy_library_is_imported() -> None:
    code = """
        import sys
        from promptmill.pipeline.jobfile.reader import load_job
        load_job("jobs/examples/shapes.yaml", ["seed=1"])
        print(*sorted({"torch", "ray", "diffusers", "pyarrow", "numpy", "fsspec", "open_clip"} & set(sys.modules)))
    """
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""


def test_every_field_is_described() -> None:
    fields = {each.name: each for each in describe_fields()}
    assert fields["output.url"].default == "required"
    assert fields["prompts.source"].type == "a non-empty string or null"
    assert fields["generation.width"][1:] == (_SIZE, "null", "Pixels; null is the model's own.")
    assert fields["score[].clip"].type == "a non-empty string or null"
    assert fields["sweep.width"].type == f"a list (each {_SIZE}) or a mapping (from, to, step, count)"
    assert fields["sweep.scheduler"].type == "a list (each a non-empty string or null)"
    assert fields["compute.workers"].default == '"auto"'
    assert all(each.description for each in fields.values())
