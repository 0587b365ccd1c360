"""What images are made with and of: each with its identity and its licence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from promptmill.schemas.job import Job
from promptmill.schemas.origin import Lineage
from promptmill.schemas.resolved import ResolvedModel


@dataclass(frozen=True)
class Part:
    """`kind` is for people, `identity` says which weights they are; a source has none. `images` is the hash of the set
    that an adapter was trained on, where that is known."""

    kind: str
    name: str
    identity: str
    license: str | None
    images: str | None = None


def model_parts(models: Sequence[ResolvedModel]) -> list[Part]:
    return _each_once(Part("model", each.path, each.revision, each.license) for each in models)


def added_parts(models: Sequence[ResolvedModel]) -> list[Part]:
    """What is put onto them."""
    return _each_once(part for model in models for part in _added(model))


def source_part(job: Job, lineage: Lineage) -> list[Part]:
    """The source, where images are drawn from it, or where it says its licence."""
    if lineage.license is None and not job.prompts.columns.images:
        return []
    return [Part("source", job.prompts.source or "", "", lineage.license)]


def licensed_parts(job: Job, models: Sequence[ResolvedModel], lineage: Lineage) -> list[Part]:
    """All whose licences hold for the images."""
    return [*model_parts(models), *added_parts(models), *source_part(job, lineage)]


def _added(model: ResolvedModel) -> Iterator[Part]:
    for adapter in model.adapters:
        yield Part("adapter", adapter.name, adapter.sha, adapter.license, adapter.images)
    for net in model.controlnets:
        yield Part("ControlNet", net.name, net.revision, net.license)
    if model.ip_adapter is not None:
        yield Part("IP-Adapter", model.ip_adapter.path, model.ip_adapter.revision, model.ip_adapter.license)


def _each_once(parts: Iterator[Part]) -> list[Part]:
    return list(dict.fromkeys(parts))
