"""What `finetune` makes is loaded by plain diffusers and by our own jobs, and what would not be is refused by name."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image

from promptmill.jobs.finetune import finetune
from promptmill.pipeline.models.catalog.adapters import resolve_adapter
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.schemas.additions import Adapter
from promptmill.schemas.errors import JobError, OutputMismatchError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.plan import Sample
from tests.finetune.conftest import Tune, tuning_of, write_images

Folder = Callable[[str], Path]


def drawn(pipe: Any) -> np.ndarray:
    image = pipe(
        "a red circle", num_inference_steps=2, width=64, height=64, generator=torch.Generator().manual_seed(0)
    ).images[0]
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux", "sana"])
def test_plain_diffusers_loads_it_and_draws_something_else(tune: Tune, folder: Folder, family: str) -> None:
    (made,) = tune(family).adapters
    pipe = AutoPipelineForText2Image.from_pretrained(folder(family), use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    plain = drawn(pipe)
    pipe.load_lora_weights(Path(made.path).parent, weight_name=Path(made.path).name)
    assert pipe.get_active_adapters() == ["default_0"]
    assert np.abs(drawn(pipe) - plain).max() > 0
    assert made.encoded_images == 6 and made.encoded_texts == 3  # two classes and the empty caption


def test_our_own_job_draws_with_it(tune: Tune, folder: Folder) -> None:
    (made,) = tune().adapters
    base = resolve_model(Model(path=str(folder("sd15"))), "model")
    generator = DiffusersGenerator(base, "cpu")
    sample = Sample("s", "p", 0, 0, 0, "a red circle", "", "a red circle")
    images = []
    for adapters in ([], [resolve_adapter(Adapter(name=made.name, path=made.path), base, "model.adapters[0]")]):
        generator.use(adapters)
        (result,) = generator.generate([sample], Generation(num_inference_steps=2, guidance_scale=3.0), lambda: None)
        assert result.pixels is not None
        images.append(result.pixels.astype(int))
    assert np.abs(images[0] - images[1]).max() > 0


def test_alpha_is_in_the_weights(tune: Tune) -> None:
    """Half the alpha is half the change in the first step's file, whoever loads it."""
    from safetensors.torch import load_file

    whole, half = (
        load_file(
            tune(output=f"a{alpha}", finetune={"alpha": alpha, "steps": 1, "optimizer": "adamw"}).adapters[0].path
        )
        for alpha in (2.0, 1.0)
    )
    name = next(name for name in whole if "lora_B" in name and whole[name].abs().max() > 0)
    assert float(half[name].abs().max()) == pytest.approx(float(whole[name].abs().max()) / 2, rel=0.05)


def test_a_new_word_is_learnt_and_called(tune: Tune, folder: Folder) -> None:
    how = {"method": "textual_inversion", "token": "<thing>", "class_word": "circle", "vectors": 2, "steps": 4}
    (made,) = tune(finetune=how).adapters
    pipe = AutoPipelineForText2Image.from_pretrained(folder("sd15"), use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_textual_inversion(Path(made.path).parent, weight_name=Path(made.path).name, token="<thing>")
    resolved = resolve_adapter(
        Adapter(name="thing", path=made.path, trigger=made.trigger),
        resolve_model(Model(path=str(folder("sd15"))), "m"),
        "a",
    )
    assert (resolved.kind, resolved.modules, resolved.trigger) == ("embedding", 2, "<thing>")


def test_dreambooth_keeps_the_class_by_samples_of_the_model_itself(tune: Tune, tmp_path: Path) -> None:
    how = {"method": "dreambooth", "token": "sks", "class_word": "circle", "prior_images": 2}
    made = tune(finetune=how)
    assert len(list((tmp_path / "out/prior").glob("*.png"))) == 2
    assert made.adapters[0].encoded_texts == 3  # "a sks circle", "a circle" and nothing
    assert made.for_a_job() == [{"name": "small", "path": made.adapters[0].path, "trigger": "sks"}]


def test_prodigy_finds_its_own_rate(tune: Tune) -> None:
    (made,) = tune(finetune={"optimizer": "prodigy", "learning_rate": None}).adapters
    assert made.loss is not None and np.isfinite(made.loss)


def test_each_class_gets_its_own(tune: Tune, tmp_path: Path) -> None:
    made = tune(finetune={"each": "class"}).adapters
    assert [(each.name, each.of, each.images) for each in made] == [
        ("small-0000", "circle", 3),
        ("small-0001", "square", 3),
    ]
    assert made[0].sha256 != made[1].sha256


def test_images_of_the_test_set_are_refused_when_encoded_anew(tune: Tune, images: Path, tmp_path: Path) -> None:
    test = write_images(tmp_path / "test", seed=9)
    tune(images={"exclude": [str(test)]})
    with Image.open(images / "circle/1.png") as picture:
        picture.save(test / "circle/other name.jpg", quality=85)
    with pytest.raises(JobError, match=r"images.source: expected no image of .*1 of 6 the same: circle/1.png is"):
        tune(output="other", images={"exclude": [str(test)]})
    assert not (tmp_path / "other").exists()


def test_another_training_is_refused_naming_what_differs(tune: Tune) -> None:
    tune()
    with pytest.raises(OutputMismatchError, match=r"the same finetune.rank \(\d+\), got 4"):
        tune(finetune={"rank": 4})
    with pytest.raises(OutputMismatchError, match="the same images"):
        tune(images={"caption": "a {label}"})


def test_a_rate_that_breaks_it_stops_with_the_images_and_writes_nothing(tune: Tune, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"step \d+: expected a loss that is a number.*(circle|square)/\d.png"):
        tune(finetune={"learning_rate": 10.0, "steps": 400, "optimizer": "adamw", "rank": 64, "checkpoint_every": 500})
    assert not (tmp_path / "out/adapter.safetensors").exists()


def test_unknown_targets_name_those_that_there_are(tune: Tune) -> None:
    with pytest.raises(JobError, match=r"finetune.targets: .*got to_z\. There are: .*to_q"):
        tune(finetune={"targets": ["to_z"]})


TRAINERS = {
    "nothing": ("pass", r"got 0\. .* write into the folder .* printed nothing \(.*trainer\.log"),
    "a pickle": (
        "open(sys.argv[2] + '/weights.bin', 'wb').write(b'x')",
        r"got 0, and weights\.bin\. .*safe_serialization.*trainer\.log",
    ),
    "a silent end": ("sys.exit(3)", r"got 3\. It printed nothing \(.*trainer\.log\)"),
    "a signal": ("import os; os.kill(os.getpid(), 9)", r"got an end by SIGKILL\. .*trainer\.log"),
    "no weights": ("open(sys.argv[2] + '/a.safetensors', 'wb').write(b'x')", "whole safetensors"),
    "an error": ("sys.exit('no such GPU')", "no such GPU"),
}


@pytest.mark.parametrize("case", TRAINERS)
def test_a_trainer_of_ones_own_is_held_to_the_same(tune: Tune, case: str) -> None:
    code, said = TRAINERS[case]
    with pytest.raises(JobError, match=said):
        tune(finetune={"command": [sys.executable, "-c", f"import sys; {code}", "{images}", "{output}"]})


ONE_IMAGE = "one image teaches that image alone"


@pytest.mark.parametrize(
    ("how", "said"),
    [({}, True), ({"each": "class"}, True), ({"each": "image"}, False), ({"method": "dreambooth"}, False)],
    ids=["lora", "a class of one", "each image", "dreambooth"],
)
def test_of_one_image_is_said_what_it_teaches(
    how: dict[str, Any], said: bool, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    words = {"token": "sks", "class_word": "shape"} if "method" in how else {}
    images, told = write_images(tmp_path / "one", ("circle",), each=1), list[str]()
    asked = tuning_of(folder("sd15"), images, tmp_path / "out", finetune={"steps": 1, **words, **how})
    assert finetune(asked, told.append).adapters[0].images == 1
    assert any(ONE_IMAGE in text for text in told) == said


def test_no_image_is_refused(folder: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "none/circle").mkdir(parents=True)
    with pytest.raises(JobError, match="images.source"):
        finetune(tuning_of(folder("sd15"), tmp_path / "none", tmp_path / "out"))
    images = write_images(tmp_path / "real")
    with pytest.raises(JobError, match="images.classes"):
        finetune(tuning_of(folder("sd15"), images, tmp_path / "out", images={"classes": []}))


def test_what_a_trainer_leaves_is_taken(tune: Tune, tmp_path: Path) -> None:
    (ours,) = tune().adapters
    code = "import shutil, sys; shutil.copy(sys.argv[3], sys.argv[2])"
    command = [sys.executable, "-c", code, "{images}", "{output}", ours.path]
    (taken,) = tune(output="outside", finetune={"command": command}).adapters
    assert taken.sha256 == ours.sha256
    rows = [json.loads(line) for line in (tmp_path / "outside/images/metadata.jsonl").read_text().splitlines()]
    assert rows[0] == {"file_name": "000000.png", "text": "circle", "label": "circle"} and len(rows) == 6


def test_the_command_line(cli: Callable[..., Any], folder: Folder, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "tuning.yaml"
    path.write_text(tuning_of(folder("sd15"), images, tmp_path / "out").model_dump_json())
    answer = cli("finetune", path, "--set", "finetune.steps=1", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["adapters"][0]["steps"] == 1
    wrong = cli("finetune", path, "--set", "finetune.step=1")
    assert wrong.code == 2 and "unknown key `step`" in wrong.err
    assert "token" in cli("finetune", path, "--set", "finetune.method=dreambooth").err
    (tmp_path / "empty").mkdir()
    assert cli("finetune", path, "--set", f"images.source={tmp_path / 'empty'}").code == 2


def test_a_trainer_that_hangs_ends_with_its_children(tune: Tune, tmp_path: Path) -> None:
    script = "import subprocess as s, time; print(s.Popen(['sleep', '100']).pid, flush=True); time.sleep(100)"
    with pytest.raises(JobError, match="an end within 1 s"):
        tune(finetune={"command": [sys.executable, "-c", script], "command_timeout_s": 1.0})
    child = int((tmp_path / "out/trainer.log").read_text())
    deadline = time.monotonic() + 20  # who was killed dies when next given the core
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_mirrored_images_are_encoded_too(tune: Tune) -> None:
    (made,) = tune(finetune={"flip": True}).adapters
    assert made.encoded_images == 12


def test_each_image_gets_its_own(tune: Tune) -> None:
    made = tune(finetune={"each": "image", "steps": 1}).adapters
    assert [each.of for each in made][:2] == ["circle/0.png", "circle/1.png"] and len(made) == 6
    assert len({each.sha256 for each in made}) == 6


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_checkpointed_gradients_are_the_same(tune: Tune, family: str) -> None:
    from safetensors.torch import load_file

    plain, saving = (
        load_file(tune(family, f"checkpointing {on}", finetune={"gradient_checkpointing": on}).adapters[0].path)
        for on in (False, True)
    )
    assert all(torch.allclose(plain[name], saving[name], atol=1e-5) for name in plain)


def test_texts_are_cached_of_the_bare_model(tune: Tune, tmp_path: Path) -> None:
    """Learning a word does not change what is cached of other captions."""
    tune(output="lora", images={"caption": "a circle"})
    how = {"method": "textual_inversion", "token": "<thing>", "class_word": "circle"}
    tune(output="word", finetune=how, images={"caption": "a circle"})
    texts = [{p.name: p.read_bytes() for p in (tmp_path / out / "cache/texts").iterdir()} for out in ("lora", "word")]
    assert texts[0] == texts[1] and len(texts[0]) == 2


def test_the_memory_estimate_copies_no_weights(folder: Folder) -> None:
    from promptmill.pipeline.models.diffusion.pipelines import load_pipeline
    from promptmill.pipeline.training.finetune.memory import _likeness

    pipe = load_pipeline(resolve_model(Model(path=str(folder("sd15"))), "m"), torch.float32, torch.device("cpu"))
    copied: list[int] = []

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.device.type != "meta":
                copied.append(result.numel())
            return result

    with Watching():
        ghost = _likeness(pipe.unet)
    assert sum(copied) == 0
    assert {p.device.type for p in ghost.parameters()} == {"meta"}
