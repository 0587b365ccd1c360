"""One training of a proof: an arm, a draw, an initialisation. Each is kept, so a proof goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from promptmill.pipeline.evaluation.prove.augment import augmented, copies_of
from promptmill.pipeline.evaluation.prove.learners import Learner, Part, State, Task, load_learner
from promptmill.pipeline.evaluation.prove.settings import Arm, Augmentation, ProofSettings
from promptmill.pipeline.evaluation.prove.world import Rows, World
from promptmill.pipeline.models.load import prepare_process
from promptmill.pipeline.storage.local import replace_file

COPIES = 20
_NOTHING = torch.zeros(0, 1, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, dtype=torch.long)
_FOLDER = "units"


@dataclass(frozen=True)
class Key:
    arm: Arm
    draw: int
    initialisation: int


@dataclass(frozen=True, eq=False)
class Unit:
    """`validation` is the share right there, of the checkpoint that is kept."""

    key: Key
    state: State
    validation: float
    seconds: float


class Workshop:
    """Trains what is asked for. `agreed` are by draw the synthetic rows that a teacher calls as they are labelled."""

    def __init__(self, settings: ProofSettings, world: World) -> None:
        self.settings, self.world = settings, world
        self.learner: Learner = load_learner(settings.learner)
        self.agreed: dict[int, npt.NDArray[np.bool_]] = {}
        self._side = cache(self._augmented)
        self._digest = cache(lambda side, draw: self._rows(side, draw).sha256)
        self._looked = world.validation.sha256

    def train(self, key: Key) -> Unit:
        began = time.monotonic()
        arm, world = key.arm, self.world
        seed = int(np.random.SeedSequence([self.settings.seed, 6, key.draw, key.initialisation]).generate_state(1)[0])
        mix = arm.augmentation == "strong"
        steps = self.settings.steps * arm.steps
        task = Task(len(world.classes), steps, self.settings.batch, mix, seed, COPIES * arm.steps)
        state, right = self.learner.fit(self.parts(key), task, world.validation)
        return Unit(key, state, right, time.monotonic() - began)

    def answers(self, unit: Unit, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        return self.learner.answers(unit.state, torch.from_numpy(images), self.parts(unit.key))

    def parts(self, key: Key) -> list[Part]:
        arm = key.arm
        synthetic = self._side(_synthetic(arm), arm.augmentation, key.draw) if arm.share else _NOTHING
        real = self._side(arm.rows, arm.augmentation, key.draw) if arm.share < 1 else _NOTHING
        return [Part(*real, 1 - arm.share), Part(*synthetic, arm.share)]

    def rows(self, key: Key) -> int:
        """Distinct rows that the arm trains on."""
        return sum(len(part.labels) for part in self.parts(key) if part.share)

    def identity(self, key: Key) -> str:
        """Of all that the unit depends on and nothing else: proofs in one folder share what they have in common."""
        arm, asked = key.arm, self.settings
        synthetic = self._digest(_synthetic(arm), key.draw) if arm.share else ""
        real = self._digest(arm.rows, key.draw) if arm.share < 1 else ""
        how = [arm.augmentation, arm.share, arm.steps, asked.steps, asked.batch, asked.flip, asked.seed]
        what = [self.learner.identity, torch.__version__, len(self.world.classes), real, synthetic, self._looked]
        return json.dumps([*how, *what, key.draw, key.initialisation])

    def _augmented(self, side: str, augmentation: Augmentation, draw: int) -> tuple[Tensor, Tensor]:
        """Once for all arms of a draw that have this side."""
        rows = self._rows(side, draw)
        most = copies_of(len(rows)) if self.learner.most_rows is None else self.learner.most_rows // max(1, len(rows))
        copies = max(1, min(most, 2 * COPIES))
        seed = self.settings.seed + draw
        images = augmented(torch.from_numpy(rows.images), augmentation, copies, self.settings.flip, seed)
        return images, torch.from_numpy(rows.labels)

    def _rows(self, side: str, number: int) -> Rows:
        draw = self.world.draws[number]
        real, synthetic, more = draw.real, draw.synthetic, draw.more
        if side == "repeated":
            return real.some(np.arange(len(real) + len(synthetic)) % len(real))
        if side == "more" and more is not None:
            return Rows(np.concatenate([real.images, more.images]), np.concatenate([real.labels, more.labels]))
        if side == "synthetic, agreed":
            return synthetic.some(np.flatnonzero(self.agreed[number]))
        return synthetic if side == "synthetic, all" else real


def _synthetic(arm: Arm) -> str:
    return f"synthetic, {arm.chosen_by}"


class Units:
    """What is trained already lies in `folder`; `new_seconds` counts what this proof trained itself."""

    def __init__(self, settings: ProofSettings, world: World, folder: Path) -> None:
        self.shop = Workshop(settings, world)
        self._folder, self._settings, self._world = folder, settings, world
        self.seconds = 0.0

    def trained(self, keys: Sequence[Key]) -> Iterator[Unit]:
        """Each as soon as it is there, those that were there before first."""
        todo = []
        for key in keys:
            unit = self._kept(key)
            if unit is None:
                todo.append(key)
            else:
                self.seconds += unit.seconds
                yield unit
        for unit in (
            self._side_by_side(todo) if self._settings.workers > 1 and len(todo) > 1 else map(self.shop.train, todo)
        ):
            self._keep(unit)
            self.seconds += unit.seconds
            yield unit

    def _side_by_side(self, todo: Sequence[Key]) -> Iterator[Unit]:
        """In processes of one thread each. Closed early, they end with what they have in hand."""
        given = (self._settings, self._world.trainable(), self.shop.agreed)
        workers = min(self._settings.workers, len(todo))
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin, given) as pool:
            futures = [pool.submit(_train, key) for key in todo]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _name(self, key: Key) -> str:
        return f"{_FOLDER}/{hashlib.sha256(self.shop.identity(key).encode()).hexdigest()[:32]}.pt"

    def _keep(self, unit: Unit) -> None:
        data = io.BytesIO()
        torch.save({"state": unit.state, "validation": unit.validation, "seconds": unit.seconds}, data)
        replace_file(self._folder, self._name(unit.key), data.getvalue())

    def _kept(self, key: Key) -> Unit | None:
        path = self._folder / self._name(key)
        with contextlib.suppress(Exception):  # torn, or not there: it is trained again
            held = torch.load(path, weights_only=True)
            return Unit(key, held["state"], float(held["validation"]), float(held["seconds"]))
        return None


_SHOP: list[Workshop] = []


def _begin(settings: ProofSettings, world: World, agreed: dict[int, npt.NDArray[np.bool_]]) -> None:
    prepare_process(1)
    shop = Workshop(settings, world)
    shop.agreed = agreed
    _SHOP[:] = [shop]


def _train(key: Key) -> Unit:
    return _SHOP[0].train(key)
