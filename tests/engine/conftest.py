"""Small real jobs, run through the real command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from promptmill.jobs.cli import guarded
from promptmill.jobs.commands import app

PROMPTS = ["a red circle", "a blue square", "a green triangle", "a red square"]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        content: dict[str, Any] = json.loads(line)
        return content


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def call(*arguments: object) -> Answer:
        texts = [str(argument) for argument in arguments]
        capsys.readouterr()
        code = guarded(lambda: app(texts, standalone_mode=False), "--json" in texts)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": PROMPTS, "tag": [1, 2, 3, 4]}), path)
    return path


@pytest.fixture
def job(tmp_path: Path, models: Path, source: Path) -> Callable[..., Path]:
    """Writes a job file; keyword arguments replace or extend its sections, None removes one."""

    def write(name: str = "job.yaml", **sections: Any) -> Path:
        content: dict[str, Any] = {
            "name": "small",
            "prompts": {"source": str(source)},
            "model": {"path": str(models / "sd")},
            "generation": {"num_inference_steps": 2, "batch_size": 4, "images_per_prompt": 2},
            "score": [{"clip": f"local-dir:{models / 'clip'}"}],
            "output": {"url": str(tmp_path / "out"), "images_per_shard": 4},
        }
        for section, value in sections.items():
            if isinstance(value, Mapping) and isinstance(content.get(section), dict):
                content[section] = {**content[section], **value}
            elif value is None:
                content.pop(section, None)
            else:
                content[section] = value
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return path

    return write


def records(out: Path, folder: str = "data") -> list[dict[str, Any]]:
    files = sorted((out / folder).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]
