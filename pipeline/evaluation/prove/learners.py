"""What learns in a proof: a small fixed CNN, or a kernel machine on pixels or on features, which has no randomness."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from promptmill.pipeline.display import cut
from promptmill.pipeline.evaluation.prove.augment import mixed
from promptmill.pipeline.evaluation.prove.world import Rows
from promptmill.pipeline.models.catalog.clips import resolve_clip
from promptmill.pipeline.models.catalog.weights import hash_files
from promptmill.pipeline.models.load import load_embedder
from promptmill.schemas.errors import JobError, Problem

State = dict[str, Tensor]
CHECKPOINTS = 4


@dataclass(frozen=True, eq=False)
class Part:
    """One side of a batch: images uint8 [n, copies, 3, s, s], labels [n], and its share of each batch."""

    images: Tensor
    labels: Tensor
    share: float


@dataclass(frozen=True)
class Task:
    classes: int
    steps: int
    batch: int
    mix: bool
    seed: int
    copies: int = 20
    """Of each image, for learners without steps: twice as many where an arm has twice the steps."""


class Learner(Protocol):
    identity: str
    """Of all that it answers by beside what it is taught: another one trains anew."""
    deterministic: bool
    most_rows: int | None
    """Copies included, of a side; None is any number."""

    def fit(self, parts: Sequence[Part], task: Task, validation: Rows) -> tuple[State, float]:
        """The state that is best on validation, and the share that it has right there."""
        ...

    def answers(self, state: State, images: Tensor, parts: Sequence[Part]) -> npt.NDArray[np.int64]:
        """Class numbers for uint8 [n, 3, s, s]; `parts` are those that it was fitted to."""
        ...


class Cnn:
    """Three convolutions of 16, 32 and 64 channels, 25,000 weights.

    Batch norm after the pooling, pixels before channels: a step of 48 at 24×24 takes half the time that group norm
    before the pooling took, and of three shapes a class with synthetic ones 82 % come right in place of 47.
    """

    identity = "cnn 2"
    deterministic = False
    most_rows: int | None = None

    def fit(self, parts: Sequence[Part], task: Task, validation: Rows) -> tuple[State, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            return self._fit(parts, task, validation)

    def _fit(self, parts: Sequence[Part], task: Task, validation: Rows) -> tuple[State, float]:
        model = _build(task.classes)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=task.steps)
        draws = [_Draws(part, count) for part, count in zip(parts, _counts(parts, task.batch), strict=True) if count]
        best: tuple[State, float] | None = None
        for step in range(1, task.steps + 1):
            images, labels = (torch.cat(each) for each in zip(*(draw.next() for draw in draws), strict=True))
            given, wanted = _floats(images), labels
            if task.mix:
                given, wanted = mixed(given, labels, task.classes)
            loss = functional.cross_entropy(model(given), wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step * CHECKPOINTS % task.steps < CHECKPOINTS:
                right = float((_answers(model, torch.from_numpy(validation.images)) == validation.labels).mean())
                if best is None or right >= best[1]:
                    best = {name: value.clone() for name, value in model.state_dict().items()}, right
        assert best is not None
        return best

    def answers(self, state: State, images: Tensor, parts: Sequence[Part]) -> npt.NDArray[np.int64]:
        model = _build(len(state["head.bias"]))
        model.load_state_dict(state)
        return _answers(model, images)


def _build(classes: int) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = []
    before = 3
    for number, width in enumerate((16, 32, 64)):
        layers += [
            (f"conv{number}", nn.Conv2d(before, width, 3, padding=1, bias=False)),
            *([(f"pool{number}", nn.MaxPool2d(2))] if number < 2 else []),
            (f"norm{number}", nn.BatchNorm2d(width)),
            (f"act{number}", nn.ReLU()),
        ]
        before = width
    layers += [("pool", nn.AdaptiveAvgPool2d(2)), ("flat", nn.Flatten()), ("head", nn.Linear(before * 4, classes))]
    model = nn.Sequential(OrderedDict(layers))
    return model.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]  # not in its stub


def _answers(model: nn.Module, images: Tensor) -> npt.NDArray[np.int64]:
    model.eval()
    with torch.no_grad():
        found = [model(_floats(part)).argmax(1) for part in torch.split(images, 512)]
    model.train()
    return torch.cat(found).numpy()


def _floats(images: Tensor) -> Tensor:
    return images.float().contiguous(memory_format=torch.channels_last) / 127.5 - 1


def _counts(parts: Sequence[Part], batch: int) -> list[int]:
    """Images of each side in a batch: at least one of a side that has a share."""
    counts = [round(part.share * batch) if part.share else 0 for part in parts]
    counts = [max(1, count) if part.share else 0 for part, count in zip(parts, counts, strict=True)]
    counts[int(np.argmax(counts))] += batch - sum(counts)
    return counts


class _Draws:
    """Every image once before any comes again, each time as another of its copies."""

    def __init__(self, part: Part, count: int) -> None:
        self._part, self._count, self._waiting = part, count, torch.zeros(0, dtype=torch.long)

    def next(self) -> tuple[Tensor, Tensor]:
        while len(self._waiting) < self._count:
            self._waiting = torch.cat([self._waiting, torch.randperm(len(self._part.labels))])
        rows, self._waiting = self._waiting[: self._count], self._waiting[self._count :]
        copies = torch.randint(self._part.images.shape[1], (len(rows),))
        return self._part.images[rows, copies], self._part.labels[rows]


class Kernel:
    """Kernel ridge regression (Gaussian) with a weight for each side, of which there is one solution.

    Of a side at most 1,500 rows: the equations take the third power of their number. Twice the steps is twice the
    copies. Validation chooses width and ridge: twenty moved copies of a shape differ in features of CLIP, which knows
    places, and are learnt by heart without a wide kernel and a high ridge (72 % right in place of 90); digits by pixels
    need a narrow one (86 % in place of 75).
    """

    deterministic = True
    most_rows: int | None = 1_500

    def __init__(self, features: Callable[[Tensor], Tensor], identity: str) -> None:
        self._features, self.identity = features, f"kernel 3, {identity}"
        self._seen = WeakTensorKeyDictionary()

    def fit(self, parts: Sequence[Part], task: Task, validation: Rows) -> tuple[State, float]:
        given, labels, weights = self._table(parts, task.copies)
        wanted = functional.one_hot(labels, task.classes).double() * 2 - 1
        looked = self._features(torch.from_numpy(validation.images))
        apart, from_looked = torch.cdist(given, given) ** 2, torch.cdist(looked, given) ** 2
        width = float(apart.median()) or 1.0
        best: tuple[State, float] | None = None
        for gamma in (0.06 / width, 0.5 / width, 2.0 / width):
            kernel, seen = torch.exp(-gamma * apart), torch.exp(-gamma * from_looked)
            for ridge in (1e-3, 1e-1, 1.0):
                lower = torch.linalg.cholesky(kernel + ridge * torch.diag(1 / weights))
                alpha = torch.cholesky_solve(wanted, lower)
                right = float(((seen @ alpha).argmax(1).numpy() == validation.labels).mean())
                if best is None or right > best[1]:
                    state = {"alpha": alpha, "gamma": torch.tensor(gamma), "copies": torch.tensor(task.copies)}
                    best = state, right
        assert best is not None
        return best

    def answers(self, state: State, images: Tensor, parts: Sequence[Part]) -> npt.NDArray[np.int64]:
        given, _, _ = self._table(parts, int(state["copies"]))
        found = [
            (torch.exp(-state["gamma"] * torch.cdist(self._features(part), given) ** 2) @ state["alpha"]).argmax(1)
            for part in torch.split(images, 512)
        ]
        return torch.cat(found).numpy()

    def _table(self, parts: Sequence[Part], copies: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features, labels and weights of all rows; the weights of a side sum to its share of them."""
        sides = []
        for part in (part for part in parts if part.share):
            most = self.most_rows or len(part.labels)
            each = max(1, min(copies, part.images.shape[1], most // max(1, len(part.labels))))
            sides.append((*self._side(part, most, each), part.share))
        total = sum(len(labels) for _, labels, _ in sides)
        weights = [torch.full((len(labels),), share * total / len(labels)).double() for _, labels, share in sides]
        return torch.cat([s[0] for s in sides]), torch.cat([s[1] for s in sides]), torch.cat(weights)

    def _side(self, part: Part, most: int, each: int) -> tuple[Tensor, Tensor]:
        """Features and labels; arms share their sides, and features of a model take most of the time."""
        held: dict[tuple[int, int], tuple[Tensor, Tensor]] = self._seen.setdefault(part.images, {})  # type: ignore[no-untyped-call]
        if (most, each) not in held:
            chosen = _in_turns(part.labels, most)
            rows, labels = part.images[chosen, :each], part.labels[chosen, None].expand(-1, each).reshape(-1)
            held[most, each] = self._features(rows.reshape(-1, *rows.shape[2:])), labels
        return held[most, each]


def _in_turns(labels: Tensor, most: int) -> Tensor:
    """At most so many rows, one of each class in turn: sets are sorted by class, and the last ones would be lacking."""
    numbers = labels.numpy()
    order = np.argsort(numbers, kind="stable")
    turn = np.empty_like(order)
    turn[order] = np.arange(len(order)) - np.searchsorted(numbers[order], numbers[order])
    return torch.from_numpy(np.lexsort((numbers, turn))[:most])


def pixels(images: Tensor) -> Tensor:
    """float64 [n, 3·s·s] in [0, 1]."""
    return images.reshape(len(images), -1).double() / 255


def load_learner(name: str, where: str = "--learner") -> Learner:
    """`cnn`, `pixels`, any open_clip model as jobs name it, or `timm:NAME=weights.safetensors`.

    Raises JobError for one that does not load.
    """
    if name == "cnn":
        return Cnn()
    if name == "pixels":
        return Kernel(pixels, "pixels")
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), where)
    clip = resolve_clip(name, where)
    embedder = load_embedder(clip, torch.get_num_threads(), "cpu")

    def features(images: Tensor) -> Tensor:
        rows = [embedder.images(list(part.permute(0, 2, 3, 1).numpy())) for part in torch.split(images, 64)]
        return torch.from_numpy(np.concatenate(rows)).double()

    return Kernel(features, f"{clip.location} {clip.tag} {clip.revision}")


def _timm(name: str, where: str) -> Learner:
    import timm
    from safetensors.torch import load_file

    model_name, equals, path = name.partition("=")
    expected = "timm:NAME=weights.safetensors, with a model of the installed timm"
    if not equals or not model_name:
        raise JobError(Problem(where, expected, f"timm:{name}"))
    if not timm.is_model(model_name):
        near = difflib.get_close_matches(model_name, timm.list_models(), 3)
        hint = f"Near to it: {', '.join(near)}." if near else ""
        raise JobError(Problem(where, expected, f"no model {cut(model_name, 100)} in timm {timm.__version__}", hint))
    if Path(path).suffix != ".safetensors":
        raise JobError(Problem(where, expected, f"timm:{name}", "Pickles are never opened."))
    if not Path(path).is_file():
        raise JobError(Problem(where, expected, f"no file {path}"))
    try:
        model = timm.create_model(model_name, pretrained=False, num_classes=0)
        said = model.load_state_dict(load_file(path), strict=False)
    except Exception as error:  # timm's and torch's own, of many kinds
        raise JobError(Problem(where, expected, cut(str(error).splitlines()[0], 200))) from None
    if said.missing_keys:
        raise JobError(Problem(where, f"all weights of {model_name}", f"none for {said.missing_keys[0]}"))
    settings: dict[str, Any] = timm.data.resolve_data_config({}, model=model)  # type: ignore[attr-defined,no-untyped-call]
    side, mean, deviation = settings["input_size"][-1], settings["mean"], settings["std"]
    model.eval()
    weights, _ = hash_files(Path(path).parent, [Path(path).name])

    def features(images: Tensor) -> Tensor:
        found = []
        for part in torch.split(images, 64):
            scaled = functional.interpolate(part.float() / 255, (side, side), mode="bilinear", antialias=True)
            norm = (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
            with torch.no_grad():
                found.append(functional.normalize(model(norm), dim=1))
        return torch.cat(found).double()

    return Kernel(features, f"{model_name} {timm.__version__} {weights}")
