"""What the fault tests work with: warm forks, tiny real models, an S3 server, small jobs, undisturbed runs."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from tests.faults.audit import Audit, Files, audit, difference, sample_ids
from tests.faults.forks import Ended, Fork, Forks
from tests.servers.s3 import S3Server

WORDS = ("red circle", "green square", "blue star", "yellow triangle", "red star above a blue square", "blue circle")
PROMPTS = (*WORDS, "", "green star left of a red circle")
"""One is empty, so that every run has a failure row."""

SLOW_STORE = {"PROMPTMILL_STORAGE_PATIENCE_S": "20"}


@dataclass
class Output:
    """Where one run writes, and the environment with which its commands reach it."""

    url: str
    env: dict[str, str] = field(default_factory=dict)
    server: S3Server | None = None

    def files(self) -> dict[str, bytes]:
        """What is there; an object that is taken away meanwhile is not."""
        if self.server is None:
            root, found = Path(self.url), dict[str, bytes]()
            for path in root.rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file():
                        found[str(path.relative_to(root))] = path.read_bytes()
            return found
        filesystem, root_name = self.server.filesystem(), self.url.removeprefix("s3://")
        names = filesystem.find(root_name)
        contents: dict[str, bytes | Exception] = filesystem.cat(names, on_error="return") if names else {}
        there = {path: each for path, each in contents.items() if not isinstance(each, FileNotFoundError)}
        for each in there.values():
            if isinstance(each, Exception):
                raise each
        return {path.removeprefix(root_name + "/"): each for path, each in there.items() if isinstance(each, bytes)}

    def write(self, key: str, content: bytes) -> None:
        """Behind Promptmill's back."""
        if self.server is None:
            (Path(self.url) / key).write_bytes(content)
        else:
            self.server.filesystem().pipe_file(f"{self.url.removeprefix('s3://')}/{key}", content)

    def remove(self, key: str) -> None:
        if self.server is None:
            (Path(self.url) / key).unlink()
        else:
            self.server.filesystem().rm_file(f"{self.url.removeprefix('s3://')}/{key}")


class Bench:
    """`server` may be None where only the disk is used."""

    def __init__(self, folder: Path, forks: Forks, server: S3Server | None) -> None:
        self.folder = folder
        self.forks = forks
        self.server = server
        self.models = folder / "models"
        self._references: dict[str, Files] = {}
        self._names = itertools.count(1)
        self._lock = threading.Lock()
        if not self.models.exists():
            self.models.mkdir(parents=True)
            built = forks.run(str(self.models), command="build")
            assert built.code == 0, built.printed

    @property
    def places(self) -> tuple[str, ...]:
        return ("disk", "s3") if self.server is not None else ("disk",)

    def output(self, place: str = "disk", env: Mapping[str, str] | None = None) -> Output:
        """An empty one; `env` goes over that of the place, for a proxy before the server."""
        if place == "disk":
            return Output(str(self.folder / "out" / f"{next(self._names):04d}"), {**SLOW_STORE, **(env or {})})
        assert self.server is not None
        url = f"s3://{self.server.make_bucket()}/dataset"
        return Output(url, {**self.server.env(), **SLOW_STORE, **(env or {})}, self.server)

    def prompts(self, texts: Sequence[str] = PROMPTS, name: str = "prompts") -> Path:
        folder = self.folder / "prompts" / f"{abs(hash(tuple(texts))):x}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.parquet"
        if path.exists():  # a job is told from another by the time of its source, too
            return path
        pq.write_table(pa.table({"prompt": list(texts), "topic": [f"topic {i % 3}" for i in range(len(texts))]}), path)
        return path

    def job(self, source: Path | None = None, **changes: Any) -> Path:
        """Two images a prompt of which the better is kept, four images a shard; `changes` are whole sections."""
        content: dict[str, Any] = {
            "name": "faults",
            "prompts": {"source": str(source or self.prompts())},
            "model": {"path": str(self.models / "sd")},
            "generation": {"num_inference_steps": 1, "images_per_prompt": 2, "batch_size": 4},
            "score": [{"clip": f"local-dir:{self.models / 'clip'}"}],
            "select": {"keep": 1},
            "output": {"url": "unset", "images_per_shard": 4},
        }
        for name, value in changes.items():
            content[name] = {**content.get(name, {}), **value} if isinstance(value, dict) else value
        path = self.folder / "jobs" / f"{next(self._names):04d}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({name: value for name, value in content.items() if value is not None}))
        return path

    def image_job(self) -> Path:
        """Six images of a folder, one of them broken, each drawn with two templates."""
        folder = self.folder / "photos"
        if not folder.exists():
            half = self.folder / f"photos-{next(self._names)}"
            half.mkdir()
            for number in range(5):
                Image.new("RGB", (64, 64), (40 * number, 90, 160)).save(half / f"{number}.png")
            (half / "broken.png").write_bytes(b"no image")
            half.rename(folder)
        prompts = {"columns": {"image": "file_name"}, "templates": ["a red circle", "a blue square"]}
        return self.job(folder, prompts=prompts, generation={"num_inference_steps": 2, "strength": 0.5})

    def judged_job(self) -> Path:
        """The built-in model: images that show their class fill it, in rounds. At two steps about half do."""
        select = {"keep": 1, "by": "relative", "per_class": 4, "where": [{"score": "verified", "at_least": 1}]}
        return self.job(
            prompts={"source": None, "classes": {"ring": "a red ring", "cross": "a blue cross"}},
            model={"path": "builtin:shapes"},
            generation={"num_inference_steps": 2, "images_per_prompt": 1},
            score=[{"metric": "verified"}, {"relative": "builtin:shapes"}],
            select=select,
        )

    def start(self, job: Path, output: Output, *options: str, **env: str) -> Fork:
        arguments = ("run", str(job), "--set", f"output.url={output.url}", "--json")
        options = options or ("--in-process",)
        return self.forks.start(*arguments, *options, env={**output.env, **env})

    def run(self, job: Path, output: Output, *options: str, **env: str) -> Ended:
        return self.start(job, output, *options, **env).wait()

    def command(self, name: str, output: Output, *options: str, **env: str) -> Ended:
        """`verify`, `retry` or `status` of an output. A repair waits for no left-over to grow old."""
        options = (*options, "--grace", "0") if "--repair" in options else options
        return self.forks.run(name, output.url, "--json", *options, env={**output.env, **env})

    def reference(self, job: Path, **env: str) -> Files:
        """The undisturbed run, on disk, with the files it left; the same for jobs of the same content."""
        key = job.read_text() + repr(env)
        with self._lock:
            if key not in self._references:
                output = self.output()
                ended = self.run(job, output, **env)
                assert ended.code in (0, 3), ended.printed
                self._references[key] = output.files()
                shutil.rmtree(output.url)
            return self._references[key]

    def end_state(self, job: Path, output: Output, **env: str) -> tuple[Audit, list[str]]:
        """After `verify --repair`: the count, and whatever differs from the undisturbed run."""
        verified = self.command("verify", output, "--deep", "--repair")
        files, expected = output.files(), self.reference(job, **env)
        problems = difference(files, expected)
        if verified.code != 0:
            problems.append(f"verify ended with {verified.code}: {verified.printed[-2000:]}")
        return audit(files, sample_ids(expected)), problems
