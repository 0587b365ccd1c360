"""A trainer of the user's own: it gets a folder of images, and what it leaves is held to the same checks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from promptmill.pipeline.dataset.labelled import Labelled
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.tuning import Finetune

_SHOWN = 400
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PICKLE = "Let the trainer save with safetensors: diffusers' save_lora_weights(…, safe_serialization=True)."
_NONE_LEFT = "The trainer is to write into the folder that stands for {output} in its arguments."


def write_images(images: Sequence[Labelled], captions: Sequence[str], folder: Path) -> None:
    """`000000.png` and `metadata.jsonl` with `file_name`, `text` and `label`, as the Hugging Face trainers read it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        name, data = f"{number:06d}.png", BytesIO()
        Image.fromarray(image.pixels).save(data, "PNG")
        (folder / name).write_bytes(data.getvalue())
        lines.append(json.dumps({"file_name": name, "text": caption, "label": image.label}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_trainer(how: Finetune, model: str, images: Path, output: Path) -> Path:
    """The one .safetensors file that the trainer left in `output`. Raises JobError for everything else."""
    assert how.command is not None
    output.mkdir(parents=True, exist_ok=True)
    words = {"{images}": str(images), "{output}": str(output), "{model}": model}
    command = [_filled(part, words) for part in how.command]
    log = output.with_suffix(".log")
    try:
        code = _run(command, log, how.command_timeout_s)
    except subprocess.TimeoutExpired:
        raise _refused(f"an end within {how.command_timeout_s:g} s", "none", log) from None
    except OSError as error:
        raise JobError(Problem("finetune.command", "a program", f"{how.command[0]}: {error.strerror}")) from None
    if code:
        raise _refused("exit code 0", _ended(code), log)
    return _left(output, log)


def _run(command: Sequence[str], log: Path, timeout_s: float) -> int:
    """In a process group of its own, which ends with it or with us: launchers leave their workers on the GPU."""
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        ) as trainer,
    ):
        try:
            return trainer.wait(timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(trainer.pid, signal.SIGKILL)


def _filled(part: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        part = part.replace(word, meaning)
    return part


def _left(output: Path, log: Path) -> Path:
    files = [path for path in output.rglob("*") if path.is_file()]
    weights = sorted(path for path in files if path.suffix == ".safetensors")
    if len(weights) != 1:
        others = [path.name for path in files if path not in weights]
        got = f"{len(weights)}" + (f", and {', '.join(others[:3])}" if others else "")
        hint = "" if weights else _NONE_LEFT
        hint = _PICKLE if not weights and any(path.suffix in _PICKLES for path in files) else hint
        raise _refused("one .safetensors file in {output}; pickles are never opened", got, log, hint)
    return weights[0]


def _ended(code: int) -> str:
    """Popen's code is negative for a signal."""
    if code >= 0:
        return f"{code}"
    try:
        return f"an end by {signal.Signals(-code).name}"
    except ValueError:
        return f"an end by signal {-code}"


def _refused(expected: str, got: str, log: Path, hint: str = "") -> JobError:
    end = log.read_bytes()[-_SHOWN:].decode("utf-8", "replace").strip() if log.is_file() else ""
    words = f"Its last words ({log}): {end}" if end else f"It printed nothing ({log})."
    return JobError(Problem("finetune.command", expected, got, f"{hint} {words}".strip()))
