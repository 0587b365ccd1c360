"""What a sample costs where something is wrong that is not its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from promptmill.pipeline.models.interface import Generated
from promptmill.pipeline.prompts.inputs import InputReader
from promptmill.pipeline.worker.recovery import VariantGenerator
from promptmill.schemas.errors import ModelLoadError, SampleError, WorkerError
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample
from tests.heart.mill import Tint, memory, small_plan

SAMPLES = [Sample(f"s{i}", "p", i, 0, i, "a", "", "a") for i in range(2)]


class Blank(Tint):
    """Makes no finite pixels; in full precision, or always, it raises."""

    def __init__(self, error: WorkerError, always: bool) -> None:
        super().__init__(())
        self._error, self._always = error, always

    def generate(
        self, samples: Sequence[Sample], settings: Generation, on_step: Callable[[], None], full_precision: bool = False
    ) -> list[Generated]:
        if full_precision or self._always:
            raise self._error
        return [Generated(None, error=SampleError("not_finite", "NaN")) for _ in samples]


def generator(folder: Path, error: WorkerError, always: bool) -> VariantGenerator:
    variant = small_plan(folder).variant(0)
    return VariantGenerator(Blank(error, always), variant, {}, lambda: None, InputReader(memory()))


def test_what_full_precision_raises_costs_the_sample_alone(tmp_path: Path) -> None:
    """It went up and failed the shard, at every try."""
    made = generator(tmp_path, WorkerError("no such argument"), False).generate(SAMPLES)
    assert [one.error and one.error.kind for one in made] == ["generation"] * 2
    assert "no such argument" in str(made[0].error)


@pytest.mark.parametrize("always", [True, False])
def test_an_adapter_that_does_not_load_is_no_sample_s_fault(tmp_path: Path, always: bool) -> None:
    """Each sample of the shard failed, and the run went on to the next."""
    with pytest.raises(ModelLoadError):
        generator(tmp_path, ModelLoadError("adapter hollow is not the file it was"), always).generate(SAMPLES)
