"""The cells as tasks of a real Ray, with a DINOv2 of transformers that sees: the same bytes with 1 and 2 workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptmill.jobs.curating import curate_dataset
from promptmill.schemas.errors import JobError
from tests.curation.drawn import as_jpeg, make_dataset, scenes, write_images
from tests.curation.test_curate import bytes_in, reasons, wanted

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of random weights, which tell pictures apart all the same."""
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder, safe_serialization=True)
    BitImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


def test_any_number_of_workers_makes_the_same_dataset(tmp_path: Path, dino: Path) -> None:
    own, test = scenes(30), scenes(36)[30:]
    make_dataset(tmp_path, [*own, own[3], as_jpeg(own[4]), test[0], as_jpeg(test[1])], per_shard=8)
    folder = str(write_images(tmp_path / "test", test))
    settings = wanted(model=str(dino), test=[folder], cell_rows=6)
    made = {}
    for name, options in (("here", {}), ("one", {"workers": 1}), ("two", {"workers": 2})):
        to = tmp_path / name
        curate_dataset(str(tmp_path / "made"), str(to), settings, in_process=not options, **options)
        files = bytes_in(to)
        made[name] = {key: files[key] for key in files if key.startswith(("data/", "rejects/", "curation/"))}
    assert sorted(reasons(tmp_path / "here")) == [30, 31, 32, 33]
    assert made["one"] == made["here"]
    assert made["two"] == made["here"]


def test_what_is_wrong_is_said_as_without_ray(tmp_path: Path) -> None:
    make_dataset(tmp_path, scenes(2))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "broken.png").write_bytes(b"no image")
    with pytest.raises(JobError, match="1 that do not decode"):
        curate_dataset(
            *(str(tmp_path / "made"), str(tmp_path / "out"), wanted(test=(str(tmp_path / "test"),))),
            **{"in_process": False, "workers": 1},
        )


def test_relative_paths_are_those_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of Ray start in another folder."""
    own = scenes(3)
    make_dataset(tmp_path, [*own, own[0]])
    write_images(tmp_path / "test", own[1:2], "bmp")
    monkeypatch.chdir(tmp_path)
    made = curate_dataset("made", "out", wanted(test=["test"]), in_process=False, workers=1)
    assert made.reasons == {"exact_copy": 1, "leak": 1}
    assert reasons(tmp_path / "out").keys() == {1, 3}
