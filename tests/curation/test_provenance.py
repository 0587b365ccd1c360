"""What card and Croissant say of where a dataset comes from, and of the licences of its models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptmill.pipeline.export.card import write_card
from promptmill.pipeline.models.catalog.licenses import license_called, license_of_folder, strictest
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import Counts
from tests.curation.drawn import make_dataset, scenes
from tests.heart.mill import MODEL, job, write_prompts


@pytest.fixture
def licensed(tmp_path: Path) -> Path:
    """A model whose card says that it is not for commerce."""
    folder = tmp_path / "licensed"
    shutil.copytree(MODEL, folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n# M")
    return folder


def front(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return found


def test_croissant_is_valid_and_says_where_images_come_from(tmp_path: Path) -> None:
    import mlcroissant

    plan = make_dataset(tmp_path, scenes(2))
    write_card(plan, Store(str(tmp_path / "made")), Counts(2, 2))
    path = tmp_path / "made" / "croissant.json"
    metadata = mlcroissant.Dataset(jsonld=path).metadata
    assert not metadata.ctx.issues.errors
    content = json.loads(path.read_text())
    assert content["conformsTo"].endswith("/1.1")
    assert content["rai:hasSyntheticData"] is True
    assert plan.models[0].path in content["prov:wasDerivedFrom"][0]["prov:label"]


def test_the_card_of_the_model_s_folder_says_its_licence(tmp_path: Path, licensed: Path) -> None:
    wanted = job(write_prompts(tmp_path / "a.parquet"), model={"path": str(licensed)})
    plan = plan_job(wanted)
    assert plan.models[0].license == "flux-1-dev-non-commercial-license"
    (told,) = [notice for notice in plan.notices if "licence" in notice]
    assert "is forbidden for training with its images" in told
    store = Store(str(tmp_path / "out"))
    write_card(plan, store, Counts(1, 1))
    said = front(store.read("README.md").decode())
    assert (said["license"], said["license_name"]) == ("other", "flux-1-dev-non-commercial-license")
    assert json.loads(store.read("croissant.json"))["license"].startswith("https://huggingface.co/black-forest-labs")


def test_what_the_job_says_counts_and_changes_no_fingerprint(tmp_path: Path, licensed: Path) -> None:
    prompts = write_prompts(tmp_path / "a.parquet")
    plans = [plan_job(job(prompts, model={"path": str(licensed), **own})) for own in ({}, {"license": "apache-2.0"})]
    assert plans[1].models[0].license == "apache-2.0"
    assert plans[0].fingerprint == plans[1].fingerprint
    assert not [notice for notice in plans[1].notices if "licence" in notice]


def test_validate_warns(tmp_path: Path, licensed: Path, cli: Callable[..., Any]) -> None:
    path = tmp_path / "job.yaml"
    sections = {
        **{"name": "x", "prompts": {"source": str(write_prompts(tmp_path / "a.parquet"))}},
        **{
            "model": {"path": str(licensed), "license": "creativeml-openrail-m"},
            "output": {"url": str(tmp_path / "o")},
        },
    }
    path.write_text(yaml.safe_dump(sections))
    answer = cli("validate", path, "--json")
    assert answer.code == 0, answer.err
    assert any("creativeml-openrail-m is restricted" in notice for notice in answer.json["notices"])


def test_the_strictest_of_several_counts() -> None:
    assert strictest(["mit", "openrail", "cc-by-nc-4.0", None]).name == "cc-by-nc-4.0"
    assert strictest(["mit", "somebody's own"]).training == "unknown"
    assert strictest([]).name == "unknown"
    assert license_called("MIT").training == "free"


@pytest.mark.parametrize(
    "text", ["", "---\nlicense: [a]\n---\n", "---\n{{{\n---\n", '---\nlicense: "a\\x1b[31m"\n---\n']
)
def test_a_card_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert license_of_folder("here", tmp_path) is None
