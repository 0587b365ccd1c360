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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

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
    (root / "README.md").write_text("# tiny")
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
from pipeline.models.catalog import resolve_model
from schemas.errors import JobError
from schemas.job import Model
try:
    model = resolve_model(Model(path="org/tiny", revision="{COMMIT}"), "model")
except JobError as error:
    print(json.dumps({{"error": str(error)}}))
    sys.exit()
"""
SHOW = "print(json.dumps(asdict(model)))"
GENERATE = """
from pipeline.models.load import load_generator
from schemas.job import Generation
from schemas.plan import Sample
made = load_generator(model, 1).generate(
    [Sample("s", "p", 0, 0, 0, "a red circle", "", "")], Generation(num_inference_steps=1), lambda: None
)
print(json.dumps({"error": str(made[0].error), "shape": made[0].pixels.shape}))
"""


def test_from_hub_id_to_image(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = hub
    cache = tmp_path / "cache"
    found = run(RESOLVE + SHOW, endpoint, cache)
    assert "error" not in found, found
    assert (found["location"], found["revision"], found["is_local"]) == ("org/tiny", COMMIT, False)
    assert found["weights_bytes"] > 1e6
    assert asked
    assert not any(name.endswith((".safetensors", ".bin")) for name in asked)  # a look costs no download of weights

    offline = run(RESOLVE + SHOW, endpoint, cache, HF_HUB_OFFLINE="1")
    assert "no weights" in offline["error"]

    made = run(RESOLVE + GENERATE, endpoint, cache)
    assert made == {"error": "None", "shape": [64, 64, 3]}
    assert any(name.endswith(".safetensors") for name in asked)
    assert not any(name.endswith(".bin") for name in asked)

    assert run(RESOLVE + SHOW, endpoint, cache, HF_HUB_OFFLINE="1") == found


def test_hub_that_has_no_such_model(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    script = RESOLVE.replace("org/tiny", "org/absent") + SHOW
    assert "org/absent on the hub" in run(script, hub[0], tmp_path / "cache")["error"]


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    assert "on the hub" in run(RESOLVE + SHOW, "http://127.0.0.1:9", tmp_path / "cache")["error"]
