"""Settings inside images, read by others: piexif, as AUTOMATIC1111 and what follows it do, and exiftool."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import piexif
import piexif.helper
import pytest
from PIL import Image

from promptmill.pipeline.dataset.encode import encode_image
from promptmill.schemas.output import Output

TEXT = "a café, 星 and 🌟\nNegative prompt: grey\nSteps: 20, Seed: 18446744073709551615"


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_settings_are_what_other_tools_decode(tmp_path: Path, kind: str) -> None:
    """They were of type BYTE: piexif gave a tuple of numbers, and its helper nothing."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encode_image(pixels, TEXT, Output.model_validate({"url": "x", "image_format": kind})).data)
    comment = piexif.load(str(path))["Exif"][piexif.ExifIFD.UserComment]
    assert piexif.helper.UserComment.load(comment) == TEXT
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        exif = image.getexif().get_ifd(0x8769)
    assert exif[0x9286][8:].decode("utf-16-be") == TEXT
    if shutil.which("exiftool"):
        answer = subprocess.run(["exiftool", "-b", "-UserComment", path], capture_output=True, check=True)
        assert answer.stdout.decode() == TEXT
        assert b"[minor]" not in answer.stderr
