"""A hub id, from validation to the first image, against a server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from promptmill.pipeline.models.catalog.clips import builtin_clip_folder, resolve_clip
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.steps import check_steps
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.load import load_embedder, load_generator
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from tests.models.test_generator import generate, pixels, samples

COMMIT = "0123456789abcdef" * 2 + "01234567"


class Hub(BaseHTTPRequestHandler):
    """One model, `org/tiny`, at one commit: listing, and files with the headers that the client asks for."""

    root: ClassVar[Path]
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.split("?", maxsplit=1)[0]
        prefix = f"/org/tiny/resolve/{COMMIT}/"
        if path.startswith(prefix) and (self.root / path.removeprefix(prefix)).is_file():
            name = path.removeprefix(prefix)
            self.asked.append(name)
            self.reply((self.root / name).read_bytes(), with_body, **{"X-Repo-Commit": COMMIT})
        elif path.startswith("/api/models/org/tiny"):
            listing = self.tree() if "/tree/" in path else self.listing()
            self.reply(json.dumps(listing).encode(), with_body, **{"Content-Type": "application/json"})
        else:
            self.send_error(404)

    def tree(self) -> list[dict[str, Any]]:
        files = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        return [
            {"type": "file", "path": str(path.relative_to(self.root)), "size": path.stat().st_size, "oid": "0" * 40}
            for path in files
        ]

    def listing(self) -> dict[str, Any]:
        siblings = [{"rfilename": file["path"], "size": file["size"]} for file in self.tree()]
        return {"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "private": False, "siblings": siblings}

    def reply(self, body: bytes, with_body: bool, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(folder: Callable[[str], Path], tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address and the files that were asked of it. Beside the safetensors it holds a pickle and a script."""
    root = Path(shutil.copytree(folder("sd15"), tmp_path / "repository"))
    (root / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (root / "convert.py").write_text("raise SystemExit")
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"root": root, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def run(script: str, endpoint: str, cache: Path, **changes: str) -> dict[str, Any]:
    """In a process of its own: huggingface_hub reads its environment once, while it is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    hub_settings = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    environment = kept | hub_settings | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"} | changes
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


RESOLVE = f"""
import json, sys
from dataclasses import asdict
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
try:
    model = resolve_model(Model(path="org/tiny", revision="{COMMIT}"), "model")
except JobError as error:
    print(json.dumps({{"error": str(error)}}))
    sys.exit()
"""
SHOW = "print(json.dumps(asdict(model)))"


@pytest.fixture
def client(hub: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Turns this process to the server and an empty cache; importing torch in another would take 15 s."""
    from huggingface_hub import constants, hf_api

    endpoint, cache = hub[0], tmp_path / "cache"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return cache


def test_a_look_costs_no_download_of_weights(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = hub
    cache = tmp_path / "cache"
    found = run(RESOLVE + SHOW, endpoint, cache)
    assert "error" not in found, found
    assert (found["location"], found["revision"], found["is_local"]) == ("org/tiny", COMMIT, False)
    assert found["weights_bytes"] > 1e6
    assert asked
    assert not any(name.endswith((".safetensors", ".bin")) for name in asked)

    offline = run(RESOLVE + SHOW, endpoint, cache, HF_HUB_OFFLINE="1")
    assert "no weights" in offline["error"]


def test_steps_are_held_against_the_scheduler_of_a_hub_model(
    hub: tuple[str, list[str]], client: Path, tmp_path: Path
) -> None:
    """Of a folder alone: of the hub's the defaults were taken for its settings."""
    path = tmp_path / "repository" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_train_timesteps": 20}))
    model = resolve_model(Model(path="org/tiny", revision=COMMIT), "model")
    with pytest.raises(JobError, match="steps with ddim, got 30"):
        check_steps("ddim", 30, model, "generation.num_inference_steps")


def test_a_worker_downloads_what_it_needs(hub: tuple[str, list[str]], client: Path) -> None:
    asked = hub[1]
    model = resolve_model(Model(path="org/tiny", revision=COMMIT), "model")
    made_by = load_generator(model, threads=1)
    assert isinstance(made_by, DiffusersGenerator)
    assert pixels(generate(made_by, samples(1))).std() > 5
    assert any(name.endswith(".safetensors") for name in asked)
    assert not any(name.endswith((".bin", ".py")) for name in asked)
    found = run(RESOLVE + SHOW, "http://127.0.0.1:9", client, HF_HUB_OFFLINE="1")
    assert found == json.loads(json.dumps(asdict(model)))


def test_a_clip_of_the_hub_is_held_to_the_commit_it_was_found_at(
    hub: tuple[str, list[str]], client: Path, tmp_path: Path
) -> None:
    asked = hub[1]
    shutil.rmtree(tmp_path / "repository")
    shutil.copytree(builtin_clip_folder("builtin:shapes"), tmp_path / "repository")
    (tmp_path / "repository" / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    found = resolve_clip("hf-hub:org/tiny", "score[0].clip")
    assert (found.revision, found.identity, found.weights_bytes > 0) == (COMMIT, "hf-hub:org/tiny", True)
    assert asked
    assert not any(name.endswith((".safetensors", ".bin")) for name in asked)
    pinned = resolve_clip(f"hf-hub:org/tiny@{COMMIT}", "score[0].clip")
    assert (pinned.location, pinned.revision) == ("hf-hub:org/tiny", COMMIT)
    images, texts = [np.full((64, 64, 3), value, np.uint8) for value in (0, 255)], ["a red circle", "a blue ring"]
    ours = load_embedder(resolve_clip("builtin:shapes", "score[0].clip"), threads=1)
    assert np.array_equal(load_embedder(found, threads=1).cosines(images, texts), ours.cosines(images, texts))
    assert not any(name.endswith(".bin") for name in asked)
    # A download by name leaves the branch behind; the job's identity stays what it was.
    branch = client / "models--org--tiny" / "refs" / "main"
    branch.parent.mkdir(exist_ok=True)
    branch.write_text(COMMIT)
    assert resolve_clip("hf-hub:org/tiny", "score[0].clip") == found


def test_a_clip_of_the_hub_without_safetensors_is_refused(
    hub: tuple[str, list[str]], client: Path, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "repository")
    shutil.copytree(builtin_clip_folder("builtin:shapes"), tmp_path / "repository")
    (tmp_path / "repository" / "open_clip_model.safetensors").rename(tmp_path / "repository" / "open_clip_model.bin")
    with pytest.raises(JobError, match=r"only open_clip_model\.bin.*never loaded"):
        resolve_clip("hf-hub:org/tiny", "score[0].clip")


def test_hub_that_has_no_such_model(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    script = RESOLVE.replace("org/tiny", "org/absent") + SHOW
    assert "org/absent on the hub" in run(script, hub[0], tmp_path / "cache")["error"]


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    assert "on the hub" in run(RESOLVE + SHOW, "http://127.0.0.1:9", tmp_path / "cache")["error"]
