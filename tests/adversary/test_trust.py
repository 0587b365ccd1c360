"""A dataset that somebody else made: what it names is loaded where its user has named it too, or says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from promptmill.jobs.trust import refuse_strangers
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.models.catalog.classifiers import classifier_folder
from promptmill.pipeline.models.catalog.clips import clip_folder, resolve_clip
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.trust import remember, strangers
from promptmill.pipeline.planning.places import relocated
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedControl, ResolvedIpAdapter, ResolvedModel
from tests.engine.conftest import Answer
from tests.heart.conftest import home

__all__ = ["home"]
Cli = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _nobody_ran_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTMILL_STATE_DIR", str(tmp_path / "state"))


def a_sample() -> str:
    from promptmill.opened import Dataset

    return next(iter(Dataset("dataset"))).sample_id


def test_models_of_a_stranger_are_not_loaded(home: Path, cli: Cli) -> None:
    before = sorted(str(path) for path in home.rglob("*"))
    for command in (("retry", "dataset", "--in-process"), ("reproduce", "dataset", a_sample())):
        answer = cli(*command)
        assert answer.code == 2, answer
        said = " ".join(answer.err.split())
        assert "--trust-dataset" in said
        assert open_dataset("dataset")[0].models[0].path in said
    assert sorted(str(path) for path in home.rglob("*")) == before


def test_a_job_that_was_run_here_makes_its_models_known(home: Path, cli: Cli) -> None:
    cli("run", "job.yaml", "--in-process")  # all is done: nothing is loaded
    plan, _ = open_dataset("dataset")
    refuse_strangers(plan, "dataset", trusted=False, job=None)

    job = json.loads(Path("dataset/job.json").read_text())
    name = next(iter(job["plan"]["models"][0].get("files", ())), None)
    changed = {"files": {name: "0" * 32}} if name else {"revision": "0" * 32}
    job["plan"]["models"][0] |= changed  # the same path, the same fingerprint, other weights
    Path("dataset/job.json").write_text(json.dumps(job))
    assert cli("retry", "dataset", "--in-process").code == 2


def test_the_users_own_job_and_the_option_are_trust(home: Path) -> None:
    plan, _ = open_dataset("dataset")
    with pytest.raises(JobError):
        refuse_strangers(plan, "dataset", trusted=False, job=None)
    refuse_strangers(plan, "dataset", trusted=True, job=None)
    remember((*plan.models, *plan.clips))
    refuse_strangers(plan, "dataset", trusted=False, job=None)


def test_a_job_file_names_what_it_names(home: Path, models: Path, tmp_path: Path, job: Callable[..., Path]) -> None:
    model, clip = (
        resolve_model(Model(path=str(models / "sd")), "model"),
        resolve_clip(f"local-dir:{models / 'clip'}", "x"),
    )
    plan = replace(open_dataset("dataset")[0], models=(model,), clips=(clip,))
    refuse_strangers(plan, "dataset", trusted=False, job=str(job()))
    with pytest.raises(JobError):
        refuse_strangers(plan, "dataset", trusted=False, job=str(job(model={"path": "builtin:shapes"})))


def test_what_is_built_in_needs_no_trust_and_cannot_be_feigned() -> None:
    model, clip = resolve_model(Model(path="builtin:shapes"), "model"), resolve_clip("builtin:shapes", "score")
    assert strangers([model, clip]) == []
    adapter = ResolvedAdapter("a", "builtin:../../../../tmp/x", "/tmp/x", "0" * 32, 1.0, 1)
    feigned = [
        replace(model, is_local=False),
        replace(model, path="builtin:other"),
        replace(model, adapters=(adapter,)),
        replace(clip, location="hf-hub:org/name"),
        replace(clip, tag="openai"),
    ]
    assert [len(strangers([each])) for each in feigned] == [1] * len(feigned)


LOOKS = ResolvedIpAdapter("org/looks", "org/looks", "a" * 40, "ip.safetensors", "image_encoder", "X", 1.0, 1, False)
STYLE = ResolvedAdapter("a", "org/style", "/cache/style.safetensors", "0" * 32, 1.0, 1, revision="b" * 40)
NET = ResolvedControl("n", "org/net", "org/net", "c" * 40, "ControlNetModel", 1.0, "none", 1, False)
MIRROR = "s3://evil/models"


def test_whatever_a_model_is_loaded_with_is_asked_about() -> None:
    """An IP-Adapter was loaded, and of the hub downloaded, whoever named it."""
    model = resolve_model(Model(path="builtin:shapes"), "model")
    given: dict[str, Any] = {"adapters": (STYLE,), "controlnets": (NET,), "ip_adapter": LOOKS}
    hints = get_type_hints(ResolvedModel)
    assert given.keys() == {name for name, hint in hints.items() if "resolved.Resolved" in f"{hint}"}
    for name, value in given.items():
        named = replace(model, **{name: value})
        assert len(strangers([named])) == 1, name
        remember([named])
        assert strangers([named]) == [], name


@pytest.mark.parametrize(
    "other",
    [
        replace(LOOKS, weights="other.safetensors"),
        replace(LOOKS, encoder="other"),
        replace(LOOKS, revision="d" * 40),
        replace(LOOKS, mirror=MIRROR),
        replace(LOOKS, is_local=True, location="/evil"),
        replace(STYLE, path="evil/style"),
        replace(STYLE, revision="d" * 40),
        replace(STYLE, mirror=MIRROR),
        replace(NET, mirror=MIRROR),
    ],
)
def test_what_is_known_is_not_fetched_from_elsewhere(other: Any) -> None:
    remember([LOOKS, STYLE, NET])
    assert strangers([LOOKS, STYLE, NET]) == []
    assert strangers([other]) == [other.path]


def test_a_classifier_called_as_a_clip_that_is_built_in(tmp_path: Path) -> None:
    """The name needs no trust, so what it names must be what is loaded, and no folder of the stranger's."""
    feigned = replace(resolve_clip("builtin:shapes", "score"), location=f"local-dir:{tmp_path}")
    assert strangers([feigned]) == []
    assert classifier_folder(feigned) == clip_folder(feigned) != tmp_path


def test_a_state_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROMPTMILL_STATE_DIR", str(tmp_path / "file" / "below"))
    model = replace(resolve_model(Model(path="builtin:shapes"), "model"), path="a", location="b")
    assert remember([model])
    assert strangers([model]) == ["a"]


def test_run_loads_what_its_job_names_whatever_the_dataset_says(home: Path) -> None:
    ours, _ = open_dataset("dataset")
    evil_clip = replace(ours.clips[0], location="hf-hub:evil/clip", tag="x") if ours.clips else None
    theirs = replace(
        ours,
        models=tuple(replace(model, location="/evil", is_local=False, path=model.path) for model in ours.models),
        clips=() if evil_clip is None else (evil_clip, *ours.clips[1:]),
    )
    joined = relocated(ours, theirs)
    assert [(each.location, each.is_local) for each in joined.models] == [
        (each.location, each.is_local) for each in ours.models
    ]
    assert [(each.location, each.tag) for each in joined.clips] == [(each.location, each.tag) for each in ours.clips]
