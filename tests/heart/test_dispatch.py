"""A shard that fails by an error nobody expects is tried again, and its receipt says how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.state import read_receipts
from promptmill.pipeline.execution import dispatch
from promptmill.pipeline.execution.dispatch import InProcessDispatcher
from promptmill.pipeline.execution.events import Stop
from promptmill.pipeline.execution.lasting import lasts
from promptmill.pipeline.execution.run import run_job
from promptmill.pipeline.report.summary import run_facts
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.work import TRIES_ALONE, read_work
from promptmill.schemas.errors import SampleError
from promptmill.schemas.plan import Counts, Sample
from promptmill.schemas.resolved import ResolvedModel
from tests.heart.mill import Tint, TintContext, memory, small_plan
from tests.heart.test_run import Notes


class Faulty(Tint):
    """Loses its mind on a prompt with `star`, as often as it is told to."""

    faults = 0
    error: Exception = AttributeError("no such thing")

    def _one(self, sample: Sample, guidance_scale: float) -> Any:
        if "star" in sample.prompt and Faulty.faults > 0:
            Faulty.faults -= 1
            raise Faulty.error
        return super()._one(sample, guidance_scale)


class FaultyContext(TintContext):
    def _load(self, model: ResolvedModel) -> Tint:
        return Faulty(())


def run(folder: Path, store: Store, faults: int, monkeypatch: pytest.MonkeyPatch, **compute: Any) -> tuple[Any, Notes]:
    monkeypatch.setattr(dispatch, "WorkerContext", FaultyContext)
    monkeypatch.setattr(Faulty, "faults", faults)
    plan = claim_output(small_plan(folder, compute=compute or None), store)
    notes = Notes()
    return run_job(plan, store, InProcessDispatcher(plan, store), notes, Stop()), notes


def test_tries_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()
    summary, notes = run(tmp_path, store, 2, monkeypatch)
    assert summary.counts == Counts(10, 8, 0, 2)
    receipts = {receipt.shard: receipt for receipt in read_receipts(store)}
    assert {number: receipt.attempts for number, receipt in receipts.items()} == {0: 1, 1: 3, 2: 1}
    assert run_facts(list(receipts.values()), 1.0, None).attempts_repeated == 2
    assert [text for text in notes.heard if isinstance(text, str)] == [
        "shard 1: AttributeError: no such thing; trying again"
    ] * 2


@pytest.mark.parametrize(("compute", "tries"), [({}, 3), ({"max_attempts": 1}, 1), ({"max_attempts": 5}, 5)])
def test_a_shard_that_always_fails_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: dict[str, Any], tries: int
) -> None:
    with pytest.raises(AttributeError, match="no such thing"):
        run(tmp_path, memory(), 100, monkeypatch, **compute)
    assert Faulty.faults == 100 - tries


@pytest.mark.parametrize("error", [OSError(22, "EINVAL"), OverflowError(), pa.ArrowTypeError()])
def test_what_is_the_same_at_every_try_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Images of a shard were made three times over, to end in the same words."""
    monkeypatch.setattr(Faulty, "error", error)
    with pytest.raises(type(error)):
        run(tmp_path, memory(), 100, monkeypatch)
    assert Faulty.faults == 99


@pytest.mark.parametrize("error", [RuntimeError(), OSError(5, "EIO"), pa.ArrowMemoryError(), ConnectionError()])
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    assert not lasts(error)


@pytest.mark.parametrize(("kind", "attempts"), [("crash", TRIES_ALONE), ("hang", TRIES_ALONE), ("generation", 1)])
def test_no_row_depends_on_how_a_job_runs(tmp_path: Path, kind: str, attempts: int) -> None:
    for most in (1, 7):
        plan = small_plan(tmp_path, compute={"max_attempts": most})
        context = TintContext(plan, memory())
        (first, *_) = read_work(plan.shard(0), context, {}).asked
        (failure,) = read_work(plan.shard(0), context, {first: SampleError(kind, "it died")}).failures
        assert failure.attempts == attempts
