"""The images of a proof as arrays: read, checked, split into draws, brought to one size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from promptmill.pipeline.dataset.labelled import Labelled, classes_of, listing, read_labelled
from promptmill.pipeline.dataset.same_images import not_shared, same_pairs
from promptmill.pipeline.display import redact
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.proof import SetFacts

LARGEST_SIDE = 32
_LEAK = "Take them out, or give another set: a proof on images that were trained on says nothing."

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rows:
    """uint8 [n, 3, size, size] and class numbers [n]."""

    images: Pixels
    labels: Numbers

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        whole = hashlib.sha256(f"{self.images.shape}".encode())
        whole.update(self.images.tobytes())
        whole.update(self.labels.tobytes())
        return whole.hexdigest()

    def some(self, places: npt.NDArray[np.intp]) -> Rows:
        return Rows(self.images[places], self.labels[places])


@dataclass(frozen=True, eq=False)
class Draw:
    """What one few-shot draw trains on; `more` are further real images, as many as synthetic ones, or none."""

    real: Rows
    synthetic: Rows
    more: Rows | None


@dataclass(frozen=True, eq=False)
class World:
    """`trained_on` are all images that any learner may see, for the look at the test set."""

    classes: list[str]
    size: int
    shots: int
    draws: tuple[Draw, ...]
    validation: Rows
    trained_on: dict[str, list[Labelled]]
    facts: dict[str, SetFacts]
    notices: tuple[str, ...] = ()

    def trainable(self) -> World:
        """Without what only the last step needs: it travels to other processes."""
        return replace(self, trained_on={})


@dataclass(frozen=True, eq=False)
class RealSets:
    """The real images as a proof parts them. `draws` are of each draw its images, and those left over."""

    classes: list[str]
    shots: int
    pool: list[Labelled]
    draws: list[tuple[list[Labelled], list[Labelled]]]
    validation: list[Labelled]
    notices: tuple[str, ...]


def real_sets(settings: ProofSettings) -> RealSets:
    """Raises JobError for a test set that is another one's, fewer than two classes, or too few images."""
    _check_places(settings)
    pool = read_labelled(settings.real, "REAL")
    classes = classes_of(pool, "REAL")
    if len(classes) < 2:
        raise JobError(Problem("REAL", "at least two classes", f"only {classes[0]}", "One answer is always right."))
    pool, validation, notices = _validation(settings, pool)
    shots = _shots(settings, pool)
    if settings.validation is None:
        validation = _unlike(validation, pool, notices)
    draws = [_drawn(settings, number, pool, classes, shots) for number in range(settings.draws)]
    return RealSets(classes, shots, pool, draws, validation, tuple(notices))


def _drawn(
    settings: ProofSettings, number: int, pool: list[Labelled], classes: list[str], shots: int
) -> tuple[list[Labelled], list[Labelled]]:
    chosen, others = [], []
    for place, label in enumerate(classes):
        own = [each for each in pool if each.label == label]
        order = np.random.default_rng([settings.seed, 5, number, place]).permutation(len(own))
        chosen += [own[i] for i in order[:shots]]
        others += [own[i] for i in order[shots:]]
    return chosen, others


def build_world(settings: ProofSettings) -> World:
    """The test set is not opened here. Raises JobError for sets that share images, fewer than two classes, or too few
    images for the draws."""
    real = real_sets(settings)
    pool, classes, validation, notices = real.pool, real.classes, real.validation, [*real.notices]
    read = cache(lambda source: read_labelled(source, "SYNTHETIC"))
    synthetic = [_synthetic(settings, number, classes, read) for number in range(settings.draws)]
    distinct = _all(synthetic)
    validation = _apart(validation, {"REAL": pool, "SYNTHETIC": distinct}, notices)
    _check_classes(validation, classes, "--validation")
    size = settings.size or min(LARGEST_SIDE, max(pool[0].pixels.shape[:2]))
    draws, with_more = _draws(settings, real, synthetic, size)
    if _grey(pool) and not _grey(distinct):
        notices.append("the real images are grey and the synthetic ones are not, so that colour tells them apart")
    if not with_more:
        notices.append("no ceiling arm: there are not as many further real images as synthetic ones")
    return World(
        classes=classes,
        size=size,
        shots=real.shots,
        draws=draws,
        validation=rows_of(validation, classes, size),
        trained_on={"REAL": pool, "SYNTHETIC": distinct, "--validation": validation},
        facts={
            "real": _facts(settings.real, pool),
            "synthetic": _facts(settings.synthetic, distinct),
            "validation": _facts(settings.validation or settings.real, validation),
        },
        notices=tuple(notices),
    )


def _grey(images: Sequence[Labelled]) -> bool:
    return all(bool((each.pixels == each.pixels[..., :1]).all()) for each in images)


def rows_of(images: Sequence[Labelled], classes: list[str], size: int) -> Rows:
    numbers = {name: number for number, name in enumerate(classes)}
    resized = [
        np.asarray(Image.fromarray(each.pixels).resize((size, size), Image.Resampling.BILINEAR)) for each in images
    ]
    pixels = np.stack(resized).transpose(0, 3, 1, 2) if resized else np.zeros((0, 3, size, size), np.uint8)
    return Rows(np.ascontiguousarray(pixels), np.array([numbers[each.label] for each in images], np.int64))


def facts_of(source: str, images: Sequence[Labelled]) -> SetFacts:
    return _facts(source, images)


def _facts(source: str, images: Sequence[Labelled]) -> SetFacts:
    whole = hashlib.sha256()
    for image in images:
        whole.update(f"{image.sha256}\n{image.label}\n".encode("utf-8", "surrogatepass"))
    return SetFacts(redact(source), len(images), whole.hexdigest())


def _check_places(settings: ProofSettings) -> None:
    """What can be seen of the test set from outside: its place, names and sizes."""
    there = listing(settings.test)
    if not there:
        raise JobError(Problem(f"--test {redact(settings.test)}", "images", "nothing there"))
    named = {"REAL": settings.real, "--validation": settings.validation, "SYNTHETIC": settings.synthetic}
    for where, source in named.items():
        if source is not None and "{draw}" not in source and listing(source) == there:
            got = f"the files of {redact(settings.test)} by names and sizes"
            raise JobError(Problem(where, "another set than the test set", got, _LEAK))


def _validation(settings: ProofSettings, pool: list[Labelled]) -> tuple[list[Labelled], list[Labelled], list[str]]:
    """The real images to draw from, those that choose, and what to tell."""
    if settings.validation is not None:
        return pool, read_labelled(settings.validation, "--validation"), []
    kept, held = [], []
    for label in sorted({each.label for each in pool}):
        own = [each for each in pool if each.label == label]
        order = np.random.default_rng([settings.seed, 3]).permutation(len(own))
        count = max(1, len(own) // 3)
        if len(own) < 3:
            hint = "Give a set of its own: --validation DIR."
            raise JobError(
                Problem("REAL", "three images a class, of which one validates", f"{len(own)} of {label}", hint)
            )
        held += [own[i] for i in order[:count]]
        kept += [own[i] for i in order[count:]]
    return kept, held, [f"no --validation: {len(held)} of the {len(pool)} real images choose, and are not trained on"]


def _shots(settings: ProofSettings, pool: Sequence[Labelled]) -> int:
    counts = {label: sum(each.label == label for each in pool) for label in {each.label for each in pool}}
    rare, least = min(counts.items(), key=lambda item: (item[1], item[0]))
    shots = settings.shots if settings.shots is not None else max(1, least * 4 // 5)
    if shots > least or (settings.draws > 1 and shots == least):
        hint = "Draws must differ: give more real images, lower --shots, or --draws 1 (which has no interval)."
        got = f"{least} of {rare} and {shots} shots"
        raise JobError(Problem("REAL", f"more images a class than shots, for {settings.draws} draws", got, hint))
    return shots


def _apart(validation: list[Labelled], trained: dict[str, list[Labelled]], notices: list[str]) -> list[Labelled]:
    for where, images in trained.items():
        validation, alike = not_shared(images, validation, where, "the validation set", _LEAK)
        if alike:
            notices.append(f"{alike} validation images look like images of {where}, and do not choose")
    return validation


def _unlike(validation: list[Labelled], pool: list[Labelled], notices: list[str]) -> list[Labelled]:
    """Those taken from the real images that no other one looks like: the sets were parted by us, so nobody is asked."""
    alike = {id(mine) for mine, _ in same_pairs(validation, pool)}
    if alike:
        notices.append(f"{len(alike)} of them look like other real images, and do not choose")
    return [each for each in validation if id(each) not in alike]


def _synthetic(
    settings: ProofSettings, draw: int, classes: list[str], read: Callable[[str], list[Labelled]]
) -> list[Labelled]:
    """Of a draw; where the place does not say `{draw}` all draws have the same."""
    if settings.control == "copies":
        return []
    images = read(settings.synthetic.replace("{draw}", str(draw)))
    if unknown := sorted({each.label for each in images} - set(classes)):
        hint = f"Classes of REAL: {', '.join(classes)[:200]}."
        raise JobError(Problem("SYNTHETIC", "images of the classes of REAL", unknown[0] or "none", hint))
    if settings.control == "shuffled":
        order = np.random.default_rng([settings.seed, 4, draw]).permutation(len(images))
        images = [replace(each, label=images[other].label) for each, other in zip(images, order, strict=True)]
    return images


def _check_classes(images: Sequence[Labelled], classes: list[str], where: str) -> None:
    if strange := sorted({each.label for each in images} ^ set(classes)):
        got = f"{strange[0] or 'images without a class'} on one side alone"
        raise JobError(Problem(where, f"the classes of REAL: {', '.join(classes)[:200]}", got))


check_classes = _check_classes


def _draws(
    settings: ProofSettings, sets: RealSets, synthetic: list[list[Labelled]], size: int
) -> tuple[tuple[Draw, ...], bool]:
    classes = sets.classes
    made: list[Draw] = []
    brought: dict[int, Rows] = {}
    for (chosen, others), images in zip(sets.draws, synthetic, strict=True):
        real = rows_of(chosen, classes, size)
        if settings.control == "copies":
            own_synthetic = _copies(real)
        else:  # draws may share one set
            if id(images) not in brought:
                brought[id(images)] = rows_of(images, classes, size)
            own_synthetic = brought[id(images)]
        made.append(Draw(real, own_synthetic, _more(others, own_synthetic, classes, size)))
    with_more = all(each.more is not None for each in made)
    return tuple(made), with_more


def _copies(real: Rows) -> Rows:
    """The control that must change nothing: each real image ten times."""
    return real.some(np.tile(np.arange(len(real)), 10))


def _more(others: list[Labelled], synthetic: Rows, classes: list[str], size: int) -> Rows | None:
    """As many further real images of each class as there are synthetic ones."""
    found = []
    for number, label in enumerate(classes):
        own = [each for each in others if each.label == label]
        wanted = int((synthetic.labels == number).sum())
        if len(own) < wanted:
            return None
        found += own[:wanted]
    return rows_of(found, classes, size)


def _all(synthetic: Sequence[list[Labelled]]) -> list[Labelled]:
    """Each set once: without `{draw}` all draws share one."""
    unique: dict[tuple[str, str], Labelled] = {}
    for images in synthetic:
        for each in images:
            unique.setdefault((each.name, each.sha256), each)
    return list(unique.values())
