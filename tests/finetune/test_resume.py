"""A training that was killed, at any place and any number of times, ends in the weights of one that was not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from promptmill.jobs.finetune import finetune
from promptmill.pipeline.crashpoints import EXIT_CODE
from promptmill.schemas.tuning import Tuning
from tests.finetune.conftest import Tune, tuning_of

Folder = Callable[[str], Path]


def killed(tuning: Tuning, at: str) -> bool:
    """Runs in a process of its own that ends at the place; whether it did."""
    child = os.fork()
    if child == 0:
        os.environ["PROMPTMILL_TEST_CRASH"] = at
        try:
            finetune(tuning)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, EXIT_CODE)
    return code == EXIT_CODE


@pytest.mark.slow
def test_killed_at_every_place_it_ends_in_the_same_weights(
    tune: Tune, folder: Folder, images: Path, tmp_path: Path
) -> None:
    (undisturbed,) = tune(output="undisturbed", finetune={"checkpoint_every": 2}).adapters
    places = 0
    while True:
        places += 1
        tuning = tuning_of(folder("sd15"), images, tmp_path / f"at {places}", finetune={"checkpoint_every": 2})
        died = killed(tuning, f"*:{places}")
        (made,) = finetune(tuning).adapters
        assert made.sha256 == undisturbed.sha256, f"killed at place {places}"
        if not died:
            break
    assert places == 7  # claim, two about the checkpoint, three about the adapter, and one run that lived


@pytest.mark.slow
def test_killed_ten_times_it_ends_in_the_same_weights(tune: Tune, folder: Folder, images: Path, tmp_path: Path) -> None:
    how = {"steps": 11, "optimizer": "prodigy", "learning_rate": 1.0}
    (undisturbed,) = tune(output="undisturbed", finetune=how).adapters
    tuning = tuning_of(folder("sd15"), images, tmp_path / "killed", finetune=how)
    deaths = sum(killed(tuning, "finetune after checkpoint:1") for _ in range(10))
    (made,) = finetune(tuning).adapters
    assert deaths == 10
    assert made.steps_resumed == 10
    assert made.sha256 == undisturbed.sha256


def test_one_edited_caption_encodes_one_row_anew(tune: Tune, images: Path, tmp_path: Path) -> None:
    lines = [f'{{"file_name": "circle/{i}.png", "text": "circle number {i}"}}' for i in range(3)]
    (images / "metadata.jsonl").write_text("\n".join(lines))
    (first,) = tune().adapters
    assert (first.encoded_images, first.encoded_texts) == (6, 5)
    (images / "metadata.jsonl").write_text("\n".join(lines).replace("number 1", "in red"))
    for name in ("tuning.json", "adapter.safetensors"):
        (tmp_path / "out" / name).unlink()
    (second,) = tune().adapters
    assert (second.encoded_images, second.encoded_texts) == (0, 1)


def test_a_torn_cache_is_made_again(tune: Tune, tmp_path: Path) -> None:
    (first,) = tune().adapters
    for path in (tmp_path / "out/cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:50])
    (tmp_path / "out/adapter.safetensors").unlink()
    (second,) = tune().adapters
    assert (second.encoded_images, second.sha256) == (6, first.sha256)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_six_classes_on_two_workers_are_those_of_one(folder: Folder, tmp_path: Path) -> None:
    from tests.finetune.conftest import write_images

    six = write_images(tmp_path / "six", ("a", "b", "c", "d", "e", "f"), each=1)
    how = {"each": "class"}
    alone = finetune(tuning_of(folder("sd15"), six, tmp_path / "alone", finetune=how))
    many = finetune(tuning_of(folder("sd15"), six, tmp_path / "many", finetune=how, compute={"workers": 2}))
    assert [(each.of, each.sha256) for each in many.adapters] == [(each.of, each.sha256) for each in alone.adapters]
