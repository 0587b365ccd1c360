"""Every kind of input that is no use, in one job each: it costs its own sample, and the reason says what to mend."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from promptmill.pipeline.prompts import servers
from promptmill.pipeline.storage import clients
from tests.engine.conftest import Answer, records
from tests.engine.test_inputs import bomb, encoded, picture

Cli = Callable[..., Answer]
Job = Callable[..., Path]
NONE = "expected an image (a path, a URL or bytes), got none"
GENERATION = {"images_per_prompt": 1, "num_inference_steps": 2, "batch_size": 8}


class _Web(BaseHTTPRequestHandler):
    """Answers with an image, a web page, nothing there, or not at all."""

    def do_GET(self) -> None:
        if "hangs" in self.path:
            self.server.released.wait(20)  # type: ignore[attr-defined]
            return
        data = encoded(picture(3)) if "good" in self.path else b"<!doctype html><p>Sign in</p>"
        self.send_response(404 if "gone" in self.path else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.released = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(1, (48, 64)), "JPEG", exif=exif)


FRAMES = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
FINE = {
    "turned.jpg": turned(),
    "grey.png": encoded(picture().convert("L")),
    "palette.png": encoded(picture().convert("P")),
    "cmyk.jpg": encoded(picture().convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(np.full((64, 64), 30_000, np.uint16))),
    "alpha.png": encoded(picture().convert("RGBA")),
    "film.gif": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
}
USELESS = {
    "missing.png": (None, "no file at"),
    "folder.png": (None, "a folder"),
    "page.png": (b"<html>404 Not Found</html>", "image: a web page"),
    "empty.png": (b"", "is empty"),
    "cut.jpg": (encoded(picture(), "JPEG")[:900], "image: broken or cut off"),
    "dot.png": (encoded(Image.new("RGB", (1, 1))), "image: 1×1; the least side is 8 pixels"),
    "bomb.png": (bomb(), "image: 30000×30000, more than 100,000,000 pixels"),
    "notes.png": (b"hello", "image: no image that Pillow knows"),
}


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"prompt": "a star", **row}) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def test_each_costs_only_its_sample(
    cli: Cli, job: Job, tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "FETCH_PATIENCE_S", 0.2)
    monkeypatch.setattr(clients, "HTTP_SILENCE_S", 0.5)
    for name, data in {**FINE, **{name: data for name, (data, _) in USELESS.items() if data is not None}}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    said = {name: reason for name, (_, reason) in USELESS.items()} | {
        f"{web}/gone.png": "no file at",
        f"{web}/page.png": "image: a web page",
        f"{web}/hangs.png": "cannot be read",
    }
    rows = [*FINE, f"{web}/good.png", *said]
    source = write(tmp_path, [*({"photo": name} for name in rows), {"photo": None}])
    path = job(
        prompts={"source": source, "columns": {"image": "photo"}},
        generation={**GENERATION, "strength": 0.5},
        output={"images_per_shard": 8},
        score=None,
    )
    answer = cli("validate", path)
    assert (answer.code, "1 is without image: not drawn" in answer.out) == (0, True), answer.err
    assert cli("run", path, "--in-process").code == 3
    made = {row["input_image"].rpartition("/")[2]: row for row in records(tmp_path / "out")}
    assert made.keys() == {*FINE, "good.png"}
    assert (made["turned.jpg"]["width"], made["turned.jpg"]["height"]) == (64, 48)
    assert [name for name, row in made.items() if row["flags"]] == ["film.gif"]
    failed = records(tmp_path / "out", "failures")
    assert {row["error_kind"] for row in failed} == {"input"}
    reasons = {row["input_image"].removeprefix(f"{tmp_path}/"): row["message"] for row in failed if row["input_image"]}
    assert [row["message"] for row in failed if not row["input_image"]] == [f"image: {NONE}"]
    assert reasons.keys() == said.keys()
    assert not [(name, reasons[name]) for name in said if said[name] not in reasons[name]]


def test_masks_of_every_kind(cli: Cli, job: Job, tmp_path: Path) -> None:
    white = Image.new("L", (64, 64), 255)
    hole = Image.new("RGBA", (64, 64), (255, 255, 255, 255))
    hole.paste((0, 0, 0, 0), (0, 0, 32, 64))
    masks = {
        "white.png": (white, None),
        "rgba.png": (hole, None),
        "half.png": (white.resize((32, 32)), None),
        "black.png": (Image.new("L", (64, 64), 0), "mask: black all over"),
        "wide.png": (white.resize((64, 32)), "mask: 64×32 for an image of 64×64"),
    }
    picture(0).save(tmp_path / "photo.png")
    for name, (mask, _) in masks.items():
        mask.save(tmp_path / name)
    rows: list[dict[str, Any]] = [{"image": "photo.png", "mask": name} for name in masks]
    source = write(tmp_path, [*rows, {"image": "photo.png", "mask": None}])
    columns = {"image": "image", "mask": "mask"}
    path = job(prompts={"source": source, "columns": columns}, generation=GENERATION, score=None)
    assert cli("run", path, "--in-process").code == 3
    made = {Path(row["input_mask"]).name: row for row in records(tmp_path / "out")}
    assert made.keys() == {name for name, (_, reason) in masks.items() if reason is None}
    failed = {Path(row["input_mask"] or "null").name: row["message"] for row in records(tmp_path / "out", "failures")}
    assert failed["null"] == f"mask: {NONE}"
    assert all(reason in failed[name] for name, (_, reason) in masks.items() if reason is not None)
