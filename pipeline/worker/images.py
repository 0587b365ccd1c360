"""The images of one shard, while the device is held: generate, score, select, and hand each to an encoder thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from promptmill.pipeline.dataset.encode import SUFFIX, encode_image, parameters_text
from promptmill.pipeline.dataset.records import Outcome
from promptmill.pipeline.models.interface import Generated, Pixels
from promptmill.pipeline.prompts.inputs import without_pixels
from promptmill.pipeline.scores.interface import ReadsSome
from promptmill.pipeline.worker.context import Clock, WorkerContext
from promptmill.pipeline.worker.recovery import Scored, VariantGenerator, score_batch
from promptmill.pipeline.worker.selection import rejection_reasons, unmet_condition
from promptmill.pipeline.worker.work import Work
from promptmill.schemas.errors import SampleError
from promptmill.schemas.plan import Sample

_FETCH_PULSE_S = 1.0


@dataclass(frozen=True)
class _Made:
    """An image with its scores: `scores` come from the device, `beside` from an encoder thread meanwhile."""

    sample: Sample
    made: Generated
    scores: Mapping[str, float | None]
    beside: Future[list[Scored]]

    def score(self, name: str) -> float | None:
        return self.scores[name] if name in self.scores else self.scored_beside().values.get(name)

    def scored_beside(self) -> Scored:
        return self.beside.result()[0]


class ImageMaker:
    """While batch k + 1 is on the device, the encoders work on what was kept of batch k."""

    def __init__(self, work: Work, context: WorkerContext, clock: Clock) -> None:
        """Call with the device held: loads the model of the shard's variant."""
        self._work, self._context, self._clock = work, context, clock
        self._output = context.plan.job.output
        loads = context.pulse.model_loads
        with clock("load"):
            self._generator: VariantGenerator = context.generator(work.variant)
        clock.model_loads = context.pulse.model_loads - loads
        work.writer.add_constants({"scheduler": self._generator.scheduler, "dtype": self._generator.dtype})

    def make(self) -> Iterator[Future[Outcome]]:
        """One future for each sample that can be tried, in order."""
        self._prepare()
        for _, group in groupby(self._generate_and_score(), lambda scored: self._work.group(scored.sample)):
            yield from self._decide(list(group))

    def _prepare(self) -> None:
        samples = [sample for sample in self._work.ready if sample is not None]
        scorers = self._context.scorers()
        self._context.pulse.step()  # from here on silence counts: text encoders can hang too
        with self._clock("prepare"):
            self._generator.prepare(samples)
            for scorer in scorers:
                scorer.prepare([sample.caption for sample in samples])

    def _generate_and_score(self) -> Iterator[_Made]:
        for batch in self._batches():
            with self._clock.batch(len(batch)):
                made = self._generator.generate(batch)
            scorers, own = self._context.scorers(), self._context.plan.python_scores
            with self._clock("score"):
                results = score_batch(scorers, batch, made, self._fields if own else None)
            self._context.pulse.advance(len(batch))
            for sample, result, scored in zip(batch, made, results, strict=True):
                error = result.error or scored.error
                cut = any(isinstance(scorer, ReadsSome) and scorer.is_cut(sample.caption) for scorer in scorers)
                flags = (*result.flags, *(["caption_truncated"] if cut else []))
                final = Generated(result.pixels if error is None else None, flags, error)
                yield _Made(without_pixels(sample), final, scored.values, self._score_beside(sample, final))

    def _batches(self) -> Iterator[list[Sample]]:
        """Images of batch k + 1 are fetched and fitted by an encoder thread while batch k is on the device."""
        batches = self._work.batches()
        if not self._context.plan.job.task.roles:
            yield from batches
            return
        ready: deque[Future[list[Sample]]] = deque()
        for batch in batches:
            ready.append(self._context.encoders.submit(self._generator.with_inputs, batch))
            if len(ready) == 2:
                yield self._awaited(ready.popleft())
        yield from (self._awaited(future) for future in ready)

    def _awaited(self, fetched: Future[list[Sample]]) -> list[Sample]:
        """Each fetch is bounded, and many that are slow are no sign of a device that hangs."""
        while not wait([fetched], timeout=_FETCH_PULSE_S).done:
            self._context.pulse.step()
        return fetched.result()

    def _score_beside(self, sample: Sample, result: Generated) -> Future[list[Scored]]:
        scorers = self._context.scorers_beside
        return self._context.encoders.submit(score_batch, scorers, [sample], [result], self._fields)

    def _fields(self, sample: Sample) -> Mapping[str, Any]:
        return self._work.fields(sample.row)

    def _decide(self, group: Sequence[_Made]) -> Iterator[Future[Outcome]]:
        select, by = self._context.plan.job.select, self._context.plan.job.ranked_by
        usable = [scored for scored in group if scored.made.pixels is not None]
        reasons = rejection_reasons(
            [scored.score(by) if by else None for scored in usable],
            [scored.made.flags for scored in usable],
            [scored.sample.sample_index for scored in usable],
            select,
            self._work.block.prompts[group[0].sample.row].quota,
            by in self._context.plan.lowest_is_best,
            ranked=by is not None,
            unmet=[unmet_condition(select.where, scored.score) for scored in usable] if select else (),
        )
        reason_of = dict(zip((scored.sample.sample_id for scored in usable), reasons, strict=True))
        for scored in group:
            yield self._context.encoders.submit(self._finish, scored, reason_of.get(scored.sample.sample_id))

    def _finish(self, scored: _Made, reason: str | None) -> Outcome:
        sample, made, beside = scored.sample, scored.made, scored.scored_beside()
        error, scores = made.error or beside.error, {**scored.scores, **beside.values}
        if made.pixels is None or error is not None:
            error = error or SampleError("generation", "the model returned no image")
            attempts = 2 if error.kind == "not_finite" else 1
            return Outcome(sample, scores, made.flags, error=error, attempts=attempts)
        height, width = made.pixels.shape[:2]
        outcome = Outcome(sample, scores, made.flags, width, height, reason=reason)
        if reason is not None and not self._output.keep_rejected_images:
            return outcome
        return self._encode(outcome, made.pixels)

    def _encode(self, outcome: Outcome, pixels: Pixels) -> Outcome:
        sample, variant = outcome.sample, self._work.variant
        height, width = pixels.shape[:2]
        ingredients = (
            sample,
            sample.drawn_with(variant.generation),
            variant.model,
            self._generator.scheduler,
            width,
            height,
        )
        try:
            parameters = parameters_text(*ingredients) if self._output.embed_parameters else None
            image = encode_image(pixels, parameters, self._output, composite="mask" in sample.inputs)
        except (OSError, ValueError) as error:
            return Outcome(sample, outcome.scores, outcome.flags, error=SampleError("encoding", str(error)))
        name = f"{sample.sample_id}.{SUFFIX[self._output.image_format]}"
        return Outcome(sample, outcome.scores, outcome.flags, width, height, image, name, outcome.reason)
