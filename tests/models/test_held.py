"""A model's folder is held against the plan over every byte that is loaded, whatever was swapped when."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from promptmill.pipeline.models.catalog.clips import ResolvedClip, clip_folder, old_clip_files, resolve_clip
from promptmill.pipeline.models.catalog.held import held, is_same, lies_at
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.weights import BY_HASH, hash_files, identity_of, list_folder, sampled_hash
from promptmill.pipeline.storage import digests
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from promptmill.schemas.resolved import ResolvedModel

UNET = "unet/diffusion_pytorch_model.safetensors"
MakeFolder = Callable[[str], Path]


def resolve(folder: Path) -> ResolvedModel:
    return resolve_model(Model(path=str(folder)), "model")


def refused(model: ResolvedModel | ResolvedClip) -> str:
    with pytest.raises(JobError) as error, held(model):
        pytest.fail("it was loaded")
    return str(error.value)


def flip(path: Path) -> None:
    """The last byte of a weight, and the time set back."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def sd(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "sd", tmp_path / "sd"))


@pytest.fixture
def large(sd: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Its weights hold 60 tensors of which the samples of an older hash see one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensors = load_file(sd / UNET) | {f"pad.{i}": np.ones(300_000, np.float32) for i in range(60)}
    save_file(tensors, sd / UNET, {"format": "pt"})
    assert (sd / UNET).stat().st_size > digests.PIECE_BYTES
    return sd


def zero(folder: Path) -> None:
    path = folder / UNET
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    size = len(data)
    kept = [(0, header), *((at, at + 64 * 2**10) for at in ((size - 64 * 2**10) * i // 63 for i in range(64)))]
    mask = np.ones(size, bool)
    for start, stop in kept:
        mask[start:stop] = False
    data[mask] = 0
    path.write_bytes(data.tobytes())


def test_large_weights_are_hashed_to_the_last_byte(large: Path) -> None:
    """59 of 60 tensors could be zeroed: only header and samples were hashed."""
    planned = resolve(large)
    names = list(planned.files)
    old = sampled_hash(large, names)
    zero(large)
    assert sampled_hash(large, names) == old
    assert resolve(large).revision != planned.revision
    assert f"{UNET} has other content" in refused(planned)


def test_a_plan_of_an_older_version_still_means_its_model(large: Path) -> None:
    now = resolve(large)
    names = [name for name in now.files if not name.endswith(".spm")]
    old = replace(now, revision=f"{BY_HASH}{sampled_hash(large, names)}", files={})
    assert old.revision != now.revision
    assert is_same(now, old) and lies_at(old, large)
    with held(old):
        pass
    zero(large)  # what the old hash cannot see; the plan of today holds the files
    assert lies_at(old, large)
    assert UNET in refused(replace(old, files=now.files))


def test_small_models_keep_the_revision_they_had(sd: Path, models: Path) -> None:
    """It is part of the sample ids and of the fingerprint."""
    model, clip = resolve(sd), resolve_clip(f"local-dir:{models / 'clip'}", "score")
    assert model.revision == f"{BY_HASH}{sampled_hash(sd, model.files)}"
    assert (
        clip.revision == f"{BY_HASH}{sampled_hash(clip_folder(clip), old_clip_files(list_folder(clip_folder(clip))))}"
    )


@pytest.mark.parametrize(
    "name", [UNET, "tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "vae/config.json"]
)
def test_files_swapped_between_plan_and_load(sd: Path, name: str) -> None:
    planned = resolve(sd)
    flip(sd / name)
    assert f"{name} has other content" in refused(planned)
    assert "model.path" in refused(planned)


def test_files_that_come_and_go(sd: Path) -> None:
    """A tokenizer reads files of many endings, and of two variants one is chosen by what is there."""
    planned = resolve(sd)
    (sd / "tokenizer" / "source.spm").write_bytes(b"new")
    assert "tokenizer/source.spm is new" in refused(planned)
    (sd / "tokenizer" / "source.spm").unlink()
    shutil.copy(sd / UNET, sd / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    (sd / "tokenizer" / ".cache").write_text("what a program left there")
    (sd / "vae" / "README.md").write_text("of no matter")
    with held(planned):
        pass
    (sd / UNET).unlink()
    words = refused(planned)
    assert f"{UNET} is gone" in words and "diffusion_pytorch_model.fp16.safetensors is new" in words
    shutil.rmtree(sd)
    assert "nothing there" in refused(planned)


def test_files_swapped_while_they_are_loaded(sd: Path) -> None:
    planned = resolve(sd)
    with pytest.raises(JobError, match="written while they were loaded"), held(planned):
        flip(sd / UNET)


def test_one_of_several_shards(sd: Path) -> None:
    tensors = load_file(sd / UNET)
    names = sorted(tensors)
    parts = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, sd / "unet" / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (sd / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (sd / UNET).unlink()
    planned = resolve(sd)
    flip(sd / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors")
    words = refused(planned)
    assert "00002-of-00002.safetensors has other content" in words and "00001-of" not in words


def test_links_as_the_hub_cache_makes_them(sd: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.parent.mkdir()
    before = resolve(sd)
    sd.rename(snapshot)
    for number, path in enumerate([path for path in sorted(snapshot.rglob("*")) if path.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    planned = resolve(snapshot)
    assert planned.revision == before.revision
    flip((snapshot / UNET).resolve())
    assert f"{UNET} has other content" in refused(planned)


def test_a_clip_folder(models: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(models / "clip", tmp_path / "clip"))
    planned = resolve_clip(f"local-dir:{copy}", "score")
    with held(planned):
        pass
    (weights,) = copy.glob("*.safetensors")
    flip(weights)
    assert f"{weights.name} has other content" in refused(planned)


@pytest.mark.parametrize("name", ["builtin:shapes"])
def test_the_built_in_models(name: str) -> None:
    for planned in (resolve_model(Model(path=name), "model"), resolve_clip(name, "score")):
        with held(planned):
            pass
        some = dict(list(planned.files.items())[1:])
        assert "is new" in refused(replace(planned, files=some))


def test_large_files_are_read_once_a_machine(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = large / UNET
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)
    first = digests.file_digest(path)
    with monkeypatch.context() as patch:
        patch.setattr(digests, "digest_of", lambda *_: pytest.fail("it was read again"))
        assert digests.file_digest(path) == first
    flip(path)
    assert digests.file_digest(path) != first


def test_a_file_that_was_just_written_is_read_again(large: Path) -> None:
    """It may be written once more within one tick of the file system's clock."""
    path = large / UNET
    path.touch()
    first = digests.file_digest(path)
    assert not list((large.parent / "cache").rglob("*.json"))
    assert digests.file_digest(path) == first


def test_notes_that_say_nonsense_or_cannot_be_kept(
    large: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)
    right = digests.file_digest(large / UNET)
    (note,) = (tmp_path / "cache").rglob("*.json")
    content = json.loads(note.read_text())
    lies = [{**content, "digest": 7}, {**content, "digest": "x"}, {**content, "inode": 1, "digest": "0" * 32}]
    for wrong in ("", "[]", "null", "{}", "[" * 100_000, *map(json.dumps, lies)):
        note.write_text(wrong)
        assert digests.file_digest(large / UNET) == right
    for home in (tmp_path / "file", Path("/proc/nothing")):
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        assert digests.file_digest(large / UNET) == right


def test_pieces_are_all_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "PIECE_BYTES", 1_000)
    path = tmp_path / "weights"
    seen = set()
    for size in (0, 1, 999, 1_000, 1_001, 2_000, 5_432):
        for changed in (None, 0, 1_000, 2_000, size - 1):
            data = bytearray(size)
            if changed is not None and 0 <= changed < size:
                data[changed] = 1
            path.write_bytes(data)
            seen.add((bytes(data), digests.file_digest(path)))
    assert len({digest for _, digest in seen}) == len({data for data, _ in seen}) == len(seen)
    path.write_bytes(b"1")
    assert hash_files(tmp_path, ["weights"])[1]["weights"] == digests.file_digest(path)


def test_a_file_that_goes_away_while_it_is_planned_is_the_job_s_error(tmp_path: Path) -> None:
    """Of adapters and CLIPs it was an unexpected one."""
    with pytest.raises(JobError, match=r"adapters\[0\].path: expected files in .* that can be read"):
        identity_of(tmp_path, ["gone.safetensors"], "model.adapters[0].path")
