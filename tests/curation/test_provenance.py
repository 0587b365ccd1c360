"""What card and Croissant say of where a dataset comes from, and of the licences of its models."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from promptmill.jobs.afterwards import tell_what_is_there
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.export.card import write_card
from promptmill.pipeline.export.licenses import license_of
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.models.catalog.adapters import TUNED, resolve_adapter
from promptmill.pipeline.models.catalog.licenses import license_called, license_of_folder, strictest
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.shipped import shipped
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.additions import Adapter
from promptmill.schemas.generation import Model
from promptmill.schemas.plan import Counts
from tests.curation.drawn import make_dataset, scenes, write_images
from tests.heart.mill import MODEL, job, write_prompts
from tests.heart.test_run import Notes, run


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
    "text",
    [
        *("", "---\nlicense: [a]\n---\n", "---\n{{{\n---\n", '---\nlicense: "a\\x1b[31m"\n---\n'),
        *("---\nlicense: null\n---\n", f"---\nlicense: mit\nx: {'a' * 70_000}\n---\n"),
        "---\na: &a {k: v}\nb: {<<: [*a, *a]}\nlicense: mit\n---\n",
    ],
)
def test_a_card_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert license_of_folder("here", tmp_path) is None


@pytest.mark.parametrize(
    "value", ['!!bool "z"', '!!int ""', '!!timestamp "x"', "2024-13-01", "!!python/object:os.x {}"]
)
def test_values_of_a_card_are_texts_whatever_their_tags_say(tmp_path: Path, value: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\nx: {value}\n---\n")
    assert license_of_folder("here", tmp_path) == "mit"


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_from_a_mirror_comes_with_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """A card that cannot be fetched stops nothing."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    commit = "a" * 40
    folder = tmp_path / "mirror" / "org" / "lora" / commit
    folder.mkdir(parents=True)
    shutil.copy(next(shipped("adapters").glob("*.safetensors")), folder / "a.safetensors")
    (folder / "README.md").write_text("---\nlicense: flux-1-dev\n---\n")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(sums))
    if not whole:
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    base = replace(resolve_model(Model(path="builtin:shapes"), "model"), mirror=str(tmp_path / "mirror"))
    found = resolve_adapter(Adapter(name="x", path="org/lora", revision=commit), base, "adapters.0")
    assert found.license == ("flux-1-dev" if whole else None)


def a_style(folder: Path, card: str = "", said: dict[str, str] | None = None) -> Path:
    """A copy of the built-in adapter that draws hollow shapes, with a card beside it, or words in its header."""
    folder.mkdir()
    path = folder / "style.safetensors"
    shutil.copyfile(shipped("adapters/hollow.safetensors"), path)
    if said is not None:
        save_file(load_file(path), path, metadata=said)
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
    return path


def styled(tmp_path: Path, path: Path, **own: str) -> Plan:
    model = {"path": "builtin:shapes", "adapters": [{"name": "style", "path": str(path), **own}]}
    wanted = {
        **{"name": "x", "prompts": {"source": str(write_prompts(tmp_path / "a.parquet"))}},
        **{"model": model, "output": {"url": "memory://x"}},
    }
    return plan_job(parse_job(json.dumps(wanted), "job.yaml"))


@pytest.mark.parametrize(
    ("card", "said", "own", "expected"),
    [
        ("license: cc-by-nc-4.0", None, {}, "cc-by-nc-4.0"),
        ("license: mit", {"modelspec.license": "cc-by-nc-4.0"}, {}, "cc-by-nc-4.0"),
        ("license: mit", None, {"license": "cc-by-nc-4.0"}, "cc-by-nc-4.0"),
        ("", None, {}, "unknown"),
    ],
)
def test_the_licence_of_an_adapter_counts_too(
    tmp_path: Path, card: str, said: dict[str, str] | None, own: dict[str, str], expected: str
) -> None:
    plan = styled(tmp_path, a_style(tmp_path / "style", card, said), **own)
    assert license_of(plan).name == expected
    told = [notice for notice in plan.notices if "licence" in notice]
    assert told == (
        []
        if expected == "unknown"
        else [
            "adapter style: its licence cc-by-nc-4.0 is non-commercial for training with its images: no commercial use"
        ]
    )
    store = Store(str(tmp_path / "out"))
    write_card(plan, store, Counts(1, 1))
    assert front(store.read("README.md").decode())["license"] == "other"
    assert plan.models[0].adapters[0].sha in store.read("README.md").decode()
    labels = [each["prov:label"] for each in json.loads(store.read("croissant.json"))["prov:wasDerivedFrom"]]
    assert f"adapter style@{plan.models[0].adapters[0].sha}" in labels


def test_a_licence_said_later_changes_no_fingerprint(tmp_path: Path) -> None:
    path = a_style(tmp_path / "style")
    plans = [styled(tmp_path, path, **own) for own in ({}, {"license": "mit"})]
    assert plans[0].fingerprint == plans[1].fingerprint
    assert len({json.dumps(plan.job.model.as_drawn.model_dump(mode="json")) for plan in plans}) == 1
    assert [license_of(plan).name for plan in plans] == ["unknown", "mit"]


def test_it_stands_in_the_card_of_the_dataset_that_is_there(tmp_path: Path, licensed: Path) -> None:
    """The claim's own licence was written again and again."""
    prompts, store = write_prompts(tmp_path / "a.parquet"), Store(str(tmp_path / "out"))
    plans = [
        plan_job(job(prompts, model={"path": str(licensed), "license": name}, prompts={"license": name}))
        for name in ("cc-by-nc-4.0", "mit")
    ]
    joined = [claim_output(plan, store) for plan in plans]
    assert [license_of(plan).name for plan in joined] == ["cc-by-nc-4.0", "mit"]
    unsaid = claim_output(plan_job(job(prompts, model={"path": str(licensed)})), store)  # as where the prompts are gone
    assert unsaid.lineage.license == "cc-by-nc-4.0"


def test_a_run_without_work_writes_it_and_leaves_what_a_person_set(tmp_path: Path) -> None:
    prompts, store = write_prompts(tmp_path / "a.parquet", ["a star"]), Store(str(tmp_path / "out"))

    def told(name: str) -> str:
        plan, notes = claim_output(plan_job(job(prompts, model={"license": name})), store), Notes()
        assert tell_what_is_there(plan, store, run(plan, store), notes, None)
        assert not [each for each in notes.heard if "no dataset card" in str(each)]
        return store.read("README.md").decode()

    assert front(told("cc-by-4.0"))["license"] == "cc-by-4.0"
    assert front(told("mit"))["license"] == "mit"
    store.put("README.md", b"---\nlicense: openrail\n---\nown words\n")
    assert "own words" in told("mit")


@pytest.mark.parametrize(
    ("card", "declared", "expected"), [("", None, "unknown"), ("cc-by-nc-4.0", None, "cc-by-nc-4.0")]
)
def test_the_licence_of_real_images(tmp_path: Path, card: str, declared: str | None, expected: str) -> None:
    real = tmp_path / "real"
    for name in ("ring", "star"):
        write_images(real / name, scenes(1))
    if card:
        (real / "README.md").write_text(f"---\nlicense: {card}\n---\n")
    over = {"source": str(real), "columns": {"image": "image"}, "templates": ["a star"]}

    def planned(license: str | None) -> Plan:
        wanted = job(real, prompts={**over, "license": license}, model={"license": "mit"})
        return plan_job(wanted)

    assert license_of(planned(declared)).name == expected
    assert license_of(planned("cc-by-4.0")).name == "cc-by-4.0"
    assert planned(None).fingerprint == planned("cc-by-4.0").fingerprint
    store = Store(str(tmp_path / "out"))
    write_card(planned(declared), store, Counts(1, 1))
    assert f"| source `{real}` | `{expected}` |" in store.read("README.md").decode()


def test_a_dataset_of_ours_hands_its_licence_on(tmp_path: Path) -> None:
    plan = make_dataset(tmp_path / "first", scenes(2))
    store = Store(str(tmp_path / "first" / "made"))
    write_card(replace(plan, models=(replace(plan.models[0], license="cc-by-nc-4.0"),)), store, Counts(2, 2))
    wanted = job(tmp_path, prompts={"source": f"{store.url}", "columns": {"image": "image"}}, model={"license": "mit"})
    assert license_of(plan_job(wanted)).name == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("claim", "known"), [({"images": "ab" * 32}, True), ({"images": "a word"}, False), ([], False)]
)
def test_the_set_that_an_adapter_learnt(tmp_path: Path, claim: Any, known: bool) -> None:
    path = a_style(tmp_path / "style")
    (path.parent / TUNED).write_text(json.dumps(claim))
    store = Store(str(tmp_path / "out"))
    write_card(styled(tmp_path, path), store, Counts(1, 1))
    assert (f"trained on images with SHA-256 `{'ab' * 32}`" in store.read("README.md").decode()) == known
    labels = [each["prov:label"] for each in json.loads(store.read("croissant.json"))["prov:wasDerivedFrom"]]
    assert (f"images that adapter style learnt, SHA-256 {'ab' * 32}" in labels) == known
