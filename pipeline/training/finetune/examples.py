"""Which images are learnt, and what they are called."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from promptmill.pipeline.dataset.labelled import Labelled, read_labelled
from promptmill.pipeline.dataset.same_images import refuse_shared
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.tuning import Tuning


@dataclass(frozen=True)
class Lesson:
    """One adapter to make. `name` is what it is called in files, `of` the class or image it is of, if not of all."""

    name: str
    of: str
    images: tuple[Labelled, ...]
    captions: tuple[str, ...]


def lessons(tuning: Tuning) -> list[Lesson]:
    """Raises JobError where an image is also one of a set to keep apart, or there is nothing to learn."""
    images = read_labelled(tuning.images.source, "images.source")
    if (wanted := tuning.images.classes) is not None:
        if unknown := [each for each in wanted if each not in {image.label for image in images}]:
            there = ", ".join(sorted({image.label for image in images}))[:200]
            raise JobError(Problem("images.classes", f"classes of the images: {there}", unknown[0]))
        if not wanted:
            raise JobError(Problem("images.classes", "one class or more, or null for all", "none"))
        images = [image for image in images if image.label in wanted]
    for source in tuning.images.exclude:
        hint = "Take them out of the images to learn from: an adapter that has seen them spoils every later test."
        refuse_shared(images, read_labelled(source, "images.exclude"), "images.source", source, hint)
    return [_lesson(tuning, number, *group) for number, group in enumerate(_groups(tuning, images))]


def caption_of(tuning: Tuning, image: Labelled) -> str:
    how, said = tuning.finetune, tuning.images.caption
    if said is not None:
        return said.replace("{label}", image.label).replace("{caption}", image.caption)
    if how.method == "dreambooth":
        return f"a {how.token} {how.class_word}"
    if how.method == "textual_inversion":
        return f"a {how.token}"
    return image.caption or image.label


def _groups(tuning: Tuning, images: Sequence[Labelled]) -> list[tuple[str, list[Labelled]]]:
    if tuning.finetune.each == "all":
        return [("", list(images))]
    if tuning.finetune.each == "image":
        return [(image.name, [image]) for image in images]
    if bare := [image.name for image in images if not image.label]:
        raise JobError(Problem("images.source", "a class for each image, where each class is learnt apart", bare[0]))
    return [(label, [i for i in images if i.label == label]) for label in sorted({i.label for i in images})]


def _lesson(tuning: Tuning, number: int, of: str, images: list[Labelled]) -> Lesson:
    """Names of classes are anyone's text: files are numbered."""
    name = tuning.name if not of else f"{tuning.name[:50]}-{number:04d}"
    captions = tuple(caption_of(tuning, image) for image in images)
    if nameless := [image.name for image, caption in zip(images, captions, strict=True) if not caption.strip()]:
        hint = "Give images.caption, a metadata.jsonl, or folders by class."
        raise JobError(Problem("images.source", "a caption for each image", f"none for {nameless[0]}", hint))
    return Lesson(name, of, tuple(images), captions)


def hash_of(lesson: Lesson) -> str:
    whole = hashlib.sha256()
    for image, caption in zip(lesson.images, lesson.captions, strict=True):
        whole.update(f"{image.sha256}\n{len(caption)}\n{caption}\n".encode("utf-8", "surrogatepass"))
    return whole.hexdigest()
