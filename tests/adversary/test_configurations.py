"""Settings and headers of models that hold what no model has: refused by name, at once, without a traceback."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptmill.pipeline.models.catalog.clips import resolve_clip
from promptmill.pipeline.models.catalog.hub import COMMIT, cached_commit, cached_snapshot
from promptmill.pipeline.models.catalog.resolve import memory_needed_bytes, resolve_model
from promptmill.pipeline.models.catalog.schedulers import check_scheduler
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from tests.adversary import folders
from tests.engine.conftest import Answer

Copied = Callable[[str], Path]
DEEP = "[" * 100_000 + "]" * 100_000


def _header(text: str, data: bytes = b"") -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


def _one(shape: str = "[1]", offsets: str = "[0, 4]", dtype: str = '"F32"') -> str:
    return f'{{"a": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}'


HEADERS = {
    "nested": _header('{"a": ' + DEEP + "}"),
    "nested metadata": _header('{"__metadata__": ' + DEEP + "}"),
    "nested objects": _header('{"a":' * 50_000 + "1" + "}" * 50_000),
    "infinite offsets": _header(_one(offsets="[0, 1e999]"), b"abcd"),
    "the word Infinity": _header(_one(offsets="[0, Infinity]"), b"abcd"),
    "offsets that are no numbers": _header(_one(offsets="[0, NaN]"), b"abcd"),
    "offsets as fractions": _header(_one(offsets="[0, 4.0]"), b"abcd"),
    "offsets backwards": _header(_one(offsets="[4, 0]"), b"abcd"),
    "negative offsets": _header(_one(offsets="[-4, 0]"), b"abcd"),
    "offsets past the end": _header(_one(offsets="[0, 4000000000]"), b"abcd"),
    "offsets of 5,000 digits": _header(_one(offsets=f"[0, {'9' * 5000}]"), b"abcd"),
    "astronomical shape": _header(_one(shape="[1000000000000000000, 1000000000000000000]"), b"abcd"),
    "negative shape": _header(_one(shape="[-1, -1]"), b"abcd"),
    "shape of 1,000 sides": _header(_one(shape=f"[{', '.join(['1'] * 1000)}]"), b"abcd"),
    "shape as a number": _header(_one(shape="7"), b"abcd"),
    "shape of truths": _header(_one(shape="[true]"), b"abcd"),
    "a number for a type": _header(_one(dtype="7"), b"abcd"),
    "a list": _header("[1, 2]"),
    "a number for a tensor": _header('{"a": 7}'),
    "text for a tensor": _header('{"a": "b"}'),
    "no JSON": _header("{"),
    "a length past the end": (2**63).to_bytes(8, "little") + b"{}",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("kind", ["sd", "clip"])
def test_headers_of_weights(
    name: str, kind: str, copied: Copied, cli: Callable[..., Answer], job: Callable[..., Path]
) -> None:
    folder = copied(kind)
    file = "unet/diffusion_pytorch_model.safetensors" if kind == "sd" else "open_clip_model.safetensors"
    (folder / file).write_bytes(HEADERS[name])
    changes: dict[str, Any] = {"model": {"path": str(folder)}}
    answer = cli("validate", job(**(changes if kind == "sd" else {"score": [{"clip": f"local-dir:{folder}"}]})))
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    assert Path(file).name in answer.err.replace("\n", "")


PIPELINE = {
    "a number where a list belongs": folders.setting("vae/config.json", block_out_channels=7),
    "a list where a number belongs": folders.setting("unet/config.json", sample_size=[[8]]),
    "text for a size": folders.setting("unet/config.json", sample_size="large"),
    "a size as large as a galaxy": folders.setting("unet/config.json", sample_size=10**12),
    "a size of 400 digits": folders.setting("unet/config.json", sample_size=10**400),
    "a size of nothing": folders.setting("unet/config.json", sample_size=[]),
    "negative size": folders.setting("unet/config.json", sample_size=-8),
    "a true size": folders.setting("unet/config.json", sample_size=True),
    "no patches": folders.setting("unet/config.json", patch_size=0),
    "patches of text": folders.setting("unet/config.json", patch_size="two"),
    "a thousand levels": folders.setting("vae/config.json", block_out_channels=[8] * 1000),
    "a part of numbers": folders.setting("model_index.json", unet=[7, 8]),
    "a part of one": folders.setting("model_index.json", scheduler=["diffusers"]),
    "a part as text": folders.setting("model_index.json", scheduler="DDIMScheduler"),
    "no parts": lambda folder: (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}'),
    "a class of nothing": folders.setting("model_index.json", _class_name=None),
    "a class of numbers": folders.setting("model_index.json", _class_name=7),
    "a scheduler of numbers": folders.setting("scheduler/scheduler_config.json", _class_name=7),
    "endless training": folders.setting("scheduler/scheduler_config.json", num_train_timesteps=10**10),
    "endless layers": folders.setting("text_encoder/config.json", num_hidden_layers=10**9),
    "endless blocks": folders.setting("unet/config.json", layers_per_block=10**9),
    "endless positions": folders.setting("text_encoder/config.json", max_position_embeddings=10**11),
    "an index that is a list": lambda f: _write(f / "unet/diffusion_pytorch_model.safetensors.index.json", "[]"),
    "an index of numbers": lambda f: _write(
        f / "unet/diffusion_pytorch_model.safetensors.index.json", '{"weight_map": {"a": 7}}'
    ),
    "an index of nothing": lambda f: _write(
        f / "unet/diffusion_pytorch_model.safetensors.index.json", '{"weight_map": null}'
    ),
    "settings nested": lambda f: _write(f / "unet/config.json", '{"a": ' + DEEP + "}"),
    "an index nested": lambda f: _write(f / "model_index.json", DEEP),
    "a list of settings": lambda f: _write(f / "scheduler/scheduler_config.json", "[1]"),
    "infinity": lambda f: _write(f / "vae/config.json", '{"scaling_factor": Infinity}'),
    "a number past all": lambda f: _write(f / "vae/config.json", '{"scaling_factor": 1e999}'),
    "settings of 40 MB": lambda f: _write(f / "tokenizer/special_tokens_map.json", '{"a": "' + "b" * 40_000_000 + '"}'),
    "no text": lambda f: (f / "unet/config.json").write_bytes(b"\xff\xfe\x00"),
    "endless zeros": lambda f: _replace_by_link(f / "unet/config.json", Path("/dev/zero")),
    "a folder for settings": lambda f: ((f / "vae/config.json").unlink(), (f / "vae/config.json").mkdir()),
}

CLIP = {
    "a number where a tower belongs": folders.setting("open_clip_config.json", model_cfg=7),
    "a tower of text": folders.setting(
        "open_clip_config.json", model_cfg={"embed_dim": 8, "vision_cfg": "x", "text_cfg": {}}
    ),
    "width of text": folders.vision_tower(width="wide"),
    "width as large as a galaxy": folders.vision_tower(width=10**12),
    "more weights than there are": folders.text_tower(width=20_000),
    "endless layers": folders.vision_tower(layers=10**9),
    "endless vocabulary": folders.text_tower(vocab_size=10**10),
    "endless context": folders.text_tower(context_length=10**10),
    "endless image": folders.vision_tower(image_size=10**9),
    "no patches": folders.vision_tower(patch_size=0),
    "no heads": folders.text_tower(heads=0),
    "kwargs of a list": folders.text_tower(tokenizer_kwargs=[1]),
    "nested": lambda f: _write(f / "open_clip_config.json", '{"model_cfg": ' + DEEP + "}"),
    "tokenizer nested": lambda f: _write(f / "tokenizer_config.json", DEEP),
}


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _replace_by_link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", [*(f"sd: {name}" for name in PIPELINE), *(f"clip: {name}" for name in CLIP)])
def test_settings_of_models(name: str, copied: Copied, cli: Callable[..., Answer], job: Callable[..., Path]) -> None:
    kind, _, attack = name.partition(": ")
    folder = copied(kind)
    (PIPELINE if kind == "sd" else CLIP)[attack](folder)
    started = time.monotonic()
    changes: dict[str, Any] = {"model": {"path": str(folder)}}
    answer = cli("validate", job(**(changes if kind == "sd" else {"score": [{"clip": f"local-dir:{folder}"}]})))
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    assert len(answer.err) < 4000
    assert time.monotonic() - started < 10


NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**30, 10**400, 1e308, -0.0]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["..", "../x", "/etc/passwd", "a.b", "\x1b[31m", "x" * 10_000, "\ud800"]),
    st.lists(st.integers(), max_size=3),
    st.just([]),
    st.just({}),
    st.just([[[[1]]]]),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def _places(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*keys, key))


def spoil(value: Any, place: tuple[Any, ...], instead: Any) -> Any:
    """A copy with another value at a place."""
    if not place:
        return instead
    copy = deepcopy(value)
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = instead
    return copy


def _settings_of(folder: Path) -> list[str]:
    vocabularies = ("tokenizer.json", "vocab.json")
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.json") if p.name not in vocabularies)


def _resolve_both(sd: Path, clip: Path) -> None:
    model = resolve_model(Model(path=str(sd)), "model")
    memory_needed_bytes(model)
    check_scheduler("euler", model, "generation.scheduler")
    resolve_clip(f"local-dir:{clip}", "score")


@pytest.fixture(scope="module")
def spoiled(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("spoiled")
    for name in ("sd", "clip"):
        shutil.copytree(models / name, root / name)
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": "diffusion_pytorch_model.safetensors"}}
    (root / "sd/unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    _resolve_both(root / "sd", root / "clip")
    return root


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_at_any_place_of_a_models_settings(spoiled: Path, data: st.DataObject) -> None:
    """Either the folder is still one that can be tried, or there is a message."""
    file = spoiled / data.draw(st.sampled_from(_settings_of(spoiled)))
    before = file.read_text()
    content = json.loads(before)
    place = data.draw(st.sampled_from(list(_places(content))))
    text = json.dumps(spoil(content, place, data.draw(NASTY)))
    try:
        file.write_text(text)
        _resolve_both(spoiled / "sd", spoiled / "clip")
    except JobError:
        pass
    finally:
        file.write_text(before)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_in_a_models_settings(spoiled: Path, data: st.DataObject) -> None:
    file = spoiled / data.draw(st.sampled_from(_settings_of(spoiled)))
    before = file.read_bytes()
    at = data.draw(st.integers(0, len(before)))
    try:
        file.write_bytes(before[:at] + data.draw(st.binary(max_size=6)) + before[at + data.draw(st.integers(0, 4)) :])
        _resolve_both(spoiled / "sd", spoiled / "clip")
    except JobError:
        pass
    finally:
        file.write_bytes(before)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=100), st.sampled_from([b"0" * 39, b"0" * 41, b"../x", b"/etc/passwd", b""]))
)
def test_refs_of_a_hub_model(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cache says a branch is: a commit, or nothing, and no word of what the file holds."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--org--tiny" / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    (refs / "main").write_bytes(content)
    assert cached_commit("org/tiny", "main") is None or COMMIT.fullmatch(content.decode().strip())
    with pytest.raises(JobError) as refused:
        resolve_model(Model(path="org/tiny", revision="main"), "model")
    assert "commit of 40 hex digits" in str(refused.value)
    with pytest.raises(JobError):
        resolve_clip("hf-hub:org/tiny", "score")


@pytest.mark.parametrize("kind", ["sd", "clip"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_a_pinned_hub_model(
    kind: str, models: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The snapshot of a cache, which anybody may have filled, passes the same door as a folder."""
    cache = tmp_path_factory.getbasetemp() / f"hub-{kind}"
    snapshot = cache / "models--org--tiny" / "snapshots" / ("0" * 40)
    if not snapshot.exists():
        shutil.copytree(models / kind, snapshot)
    file = snapshot / data.draw(st.sampled_from(_settings_of(snapshot)))
    before = file.read_text()
    content = json.loads(before)
    text = json.dumps(spoil(content, data.draw(st.sampled_from(list(_places(content)))), data.draw(NASTY)))
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(JobError):
        patch.setenv("HF_HUB_CACHE", str(cache))
        try:
            file.write_text(text)
            if kind == "sd":
                model = resolve_model(Model(path="org/tiny", revision="0" * 40), "model")
                memory_needed_bytes(model)
                check_scheduler("euler", model, "generation.scheduler")
            else:
                resolve_clip(f"hf-hub:org/tiny@{'0' * 40}", "score")
        finally:
            file.write_text(before)


@pytest.mark.parametrize("revision", ["../../..", "main", "0" * 39, "/etc", ""])
def test_a_snapshot_is_named_by_a_commit(revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--org--tiny" / "snapshots" / "main").mkdir(parents=True)
    assert cached_snapshot("org/tiny", revision) is None
