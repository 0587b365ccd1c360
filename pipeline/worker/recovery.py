"""One bad sample costs only itself: smaller batches for what does not fit, single samples for what breaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from promptmill.pipeline.display import cut
from promptmill.pipeline.models.interface import Generated, Generator
from promptmill.pipeline.prompts.inputs import InputReader, prepare_all
from promptmill.pipeline.scores.interface import Picture, Scorer
from promptmill.schemas.errors import DeviceLostError, DeviceMemoryError, ModelLoadError, SampleError, WorkerError
from promptmill.schemas.plan import Sample, Variant

BatchLimits = MutableMapping[Hashable, int]
"""Largest batch known to fit the device, by `batch_size_key`."""
Fields = Callable[[Sample], Mapping[str, Any]]


def batch_size_key(variant: Variant, samples: Sequence[Sample]) -> Hashable:
    """All that sizes a batch: weights and number format, size, whether guidance doubles it, and the inputs."""
    generation = variant.generation
    inputs = [(role, getattr(each.pixels, "shape", None)) for s in samples for role, each in s.inputs.items()]
    guided = generation.guidance_scale > 1
    added = variant.model.adapters, variant.model.controlnets, variant.model.ip_adapter
    own = frozenset(sample.settings for sample in samples)
    return variant.model, added, generation.width, generation.height, guided, frozenset(inputs), own


@dataclass(frozen=True)
class VariantGenerator:
    """A loaded model with the settings of one variant. One bad sample costs only itself."""

    generator: Generator
    variant: Variant
    limits: BatchLimits
    on_step: Callable[[], None]
    inputs: InputReader

    @property
    def scheduler(self) -> str:
        """Class that runs, such as `DDIMScheduler`."""
        return self.generator.scheduler_name(self.variant.generation)

    @property
    def dtype(self) -> str:
        return self.generator.dtype

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Encode each distinct prompt of a shard once; replaces those of the shard before."""
        self.generator.prepare(samples, self.variant.generation)

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """One answer a sample, in order. Raises DeviceLostError when the process must end."""
        samples = self.with_inputs(samples)
        usable = [sample for sample in samples if sample.error is None]
        made = iter(
            [
                self._again_in_full_precision(sample) if _not_finite(result) else result
                for sample, result in zip(usable, self._attempt(usable) if usable else [], strict=True)
            ]
        )
        return [next(made) if sample.error is None else Generated(None, error=sample.error) for sample in samples]

    def with_inputs(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with the pixels of their images, fetched and fitted, or with the reason why they have none."""
        if not any(sample.inputs for sample in samples):
            return list(samples)
        return prepare_all(samples, self.inputs, self.variant.generation, self.variant.model)

    def _attempt(self, batch: Sequence[Sample]) -> list[Generated]:
        size = batch_size_key(self.variant, batch)
        limit = self.limits.get(size, len(batch))
        if len(batch) > limit:
            return [made for i in range(0, len(batch), limit) for made in self._attempt(batch[i : i + limit])]
        try:
            return self.generator.generate(batch, self.variant.generation, self.on_step)
        except DeviceMemoryError as error:
            if len(batch) == 1:
                return [Generated(None, error=SampleError("memory", f"does not fit the device alone: {error}"))]
            self.limits[size] = len(batch) // 2
            return self._attempt(batch)
        except SampleError as error:
            if len(batch) == 1:
                return [Generated(None, error=error.bare())]
        except (DeviceLostError, ModelLoadError):  # an adapter that a row chose is gone, or another: no sample's fault
            raise
        except WorkerError as error:
            if len(batch) == 1:
                return [Generated(None, error=SampleError("generation", str(error)))]
        half = len(batch) // 2
        return self._attempt(batch[:half]) + self._attempt(batch[half:])

    def _again_in_full_precision(self, sample: Sample) -> Generated:
        try:
            (result,) = self.generator.generate([sample], self.variant.generation, self.on_step, full_precision=True)
        except DeviceMemoryError as error:
            return Generated(None, error=SampleError("memory", f"in full precision, after not finite values: {error}"))
        except SampleError as error:
            return Generated(None, error=error.bare())
        except (DeviceLostError, ModelLoadError):
            raise
        except WorkerError as error:
            return Generated(None, error=SampleError("generation", f"in full precision: {error}"))
        flags = result.flags if "retried_fp32" in result.flags else (*result.flags, "retried_fp32")
        return replace(result, flags=flags)


@dataclass(frozen=True)
class Scored:
    """Scores of one image by name, None where one is not finite; none at all without an image, or with the `error`."""

    values: Mapping[str, float | None] = field(default_factory=dict)
    error: SampleError | None = None


def score_batch(
    scorers: Sequence[Scorer], samples: Sequence[Sample], made: Sequence[Generated], fields: Fields | None = None
) -> list[Scored]:
    """One result a sample, in order; a sample that breaks a scorer fails alone.

    `fields` gives columns of its prompt.
    """
    if not scorers:
        return [Scored()] * len(made)
    pictures = [
        Picture(
            *(sample.sample_id, sample.caption, sample.prompt_id, m.pixels, fields(sample) if fields else {}),
            sample.label,
        )
        for sample, m in zip(samples, made, strict=True)
        if m.pixels is not None
    ]
    merged = map(_merged, zip(*(_scores(scorer, pictures) for scorer in scorers), strict=True))
    return [Scored() if m.pixels is None else next(merged) for m in made]


def _scores(scorer: Scorer, pictures: Sequence[Picture]) -> list[Scored]:
    if not pictures:
        return []
    try:
        found = scorer.score(pictures)
        return [
            Scored({name: float(values[i]) if math.isfinite(values[i]) else None for name, values in found.items()})
            for i in range(len(pictures))
        ]
    except DeviceLostError:
        raise
    except (WorkerError, RuntimeError, ValueError, ArithmeticError) as error:
        if len(pictures) == 1:
            return [Scored(error=SampleError("scoring", cut(f"{type(error).__name__}: {error}", 500)))]
    half = len(pictures) // 2
    return _scores(scorer, pictures[:half]) + _scores(scorer, pictures[half:])


def _merged(results: Sequence[Scored]) -> Scored:
    values = {name: value for result in results for name, value in result.values.items()}
    return Scored(values, next((result.error for result in results if result.error), None))


def _not_finite(result: Generated) -> bool:
    return result.error is not None and result.error.kind == "not_finite"
