"""The moment a shard becomes part of the dataset, on a store in memory that can be made to misbehave."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.commit import commit_shard, committed_footer
from promptmill.pipeline.dataset.encode import EncodedImage
from promptmill.pipeline.dataset.records import Outcome, RecordWriter, read_footer, to_parquet
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import OutputMismatchError, PromptmillError, SampleError
from promptmill.schemas.plan import CommitRecord, Counts, Sample, Shard

SHARD = Shard(7, 0, 0, 0, 4)
KEY = "data/part-000007.parquet"
OURS, THEIRS = "a" * 64, "b" * 64
ASKED = ["s0", "s1", "s2", "s3"]


class Watched(Store):
    """Keeps what was written in its order; `before_create` is called once for each call of `create`."""

    def __init__(self, before_create: Callable[[Store], None] = lambda store: None) -> None:
        super().__init__(f"memory://{uuid4().hex}", patience_s=0.1)
        self.calls: list[tuple[str, str]] = []
        self.before_create = before_create

    def put(self, key: str, data: bytes) -> None:
        self.calls.append(("put", key))
        super().put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self.before_create(self)
        self.calls.append(("create", key))
        return super().create(key, data)


def outcome(name: str, error: SampleError | None = None, reason: str | None = None, image: bytes = b"png") -> Outcome:
    row = ASKED.index(name) if name in ASKED else 0
    sample = Sample(name, f"p:{row}", row, 0, row, f"prompt {row}", "", f"prompt {row}")
    encoded = EncodedImage(image, hashlib.sha256(image).hexdigest(), "0" * 16)
    made = Outcome(sample, {"clip": 0.5}, ("flag",), 8, 8, encoded, f"{name}.png", reason, error, 1)
    return replace(made, image=None, image_name=None, width=None, height=None) if error else made


BROKEN = SampleError("generation", "it broke")
OUTCOMES = [outcome("s3", BROKEN), outcome("s1", reason="not_selected"), outcome("s2"), outcome("s0")]


def commit(
    store: Store, outcomes: Sequence[Outcome] = OUTCOMES, asked: Sequence[str] = ASKED, fingerprint: str = OURS
) -> tuple[Counts, int]:
    writer = RecordWriter(["clip"], pa.table({"tag": [10, 11, 12, 13]}), {"variant": "{}", "model": "m"}, "clip")
    return commit_shard(SHARD, asked, outcomes, writer, store, fingerprint)


def table(store: Store, key: str) -> pa.Table:
    return pq.read_table(io.BytesIO(store.read(key)))


def names(store: Store) -> list[str]:
    return [entry.name for folder in ("data", "rejects", "failures") for entry in store.list(folder)]


def test_each_outcome_has_its_place() -> None:
    store = Watched()
    counts, size = commit(store)
    assert counts == Counts(4, 2, 1, 1)
    data, rejects, failures = names(store)
    assert data == KEY
    kept = table(store, data)
    assert kept.column("sample_id").to_pylist() == ["s0", "s2"]  # in the order asked for
    assert kept.column("tag").to_pylist() == [10, 12]
    assert kept.column("clip_score").to_pylist() == [0.5, 0.5]
    assert kept.column("flags").to_pylist() == [["flag"], ["flag"]]
    assert table(store, rejects).select(["sample_id", "reason", "tag"]).to_pylist() == [
        {"sample_id": "s1", "reason": "not_selected", "tag": 11}
    ]
    assert table(store, failures).select(["sample_id", "error_kind", "message", "attempts", "tag"]).to_pylist() == [
        {"sample_id": "s3", "error_kind": "generation", "message": "it broke", "attempts": 1, "tag": 13}
    ]
    assert size == len(store.read(KEY))


def test_side_objects_first_and_named_by_their_content() -> None:
    store = Watched()
    commit(store)
    (first, rejects), (second, failures), last = store.calls
    assert (first, second, last) == ("put", "put", ("create", KEY))
    for folder, key in (("rejects", rejects), ("failures", failures)):
        assert key == f"{folder}/part-000007-{hashlib.sha256(store.read(key)).hexdigest()[:12]}.parquet"


def test_the_footer_is_the_proof() -> None:
    store = Watched()
    commit(store)
    _, rejects, failures = names(store)
    record = CommitRecord(OURS, SHARD, Counts(4, 2, 1, 1), (rejects, failures))
    assert committed_footer(store, SHARD, OURS) == record
    metadata = pq.read_metadata(io.BytesIO(store.read(KEY)))
    assert read_footer(metadata) == record
    assert json.loads(metadata.metadata[b"promptmill"])["version"] == 1
    assert b"huggingface" in metadata.metadata


def test_a_failed_sample_with_a_reason_is_failed() -> None:
    store = Watched()
    counts, _ = commit(store, [replace(outcome("s0", BROKEN), reason="nsfw")], ["s0"])
    assert counts == Counts(1, 0, 0, 1)


def test_no_side_object_without_rows() -> None:
    store = Watched()
    counts, _ = commit(store, [outcome("s0")], ["s0"])
    assert counts == Counts(1, 1, 0, 0)
    assert store.calls == [("create", KEY)]
    nothing = Watched()
    assert commit(nothing, [], [])[0] == Counts()
    assert table(nothing, KEY).num_rows == 0


def test_what_is_there_is_never_overwritten() -> None:
    """Another driver was first, with other bytes: its counts hold, and its bytes stay."""
    store = Watched()
    commit(store, [outcome(name, image=b"theirs") for name in ASKED])
    before = store.read(KEY)
    counts, size = commit(store)
    assert store.read(KEY) == before
    assert counts == Counts(4, 4, 0, 0)
    assert size != len(before)
    assert committed_footer(store, SHARD, OURS) == CommitRecord(OURS, SHARD, Counts(4, 4, 0, 0), ())


def test_a_lost_reply_looks_like_somebody_else_was_first() -> None:
    class LostReply(Watched):
        def create(self, key: str, data: bytes) -> bool:
            assert super().create(key, data)
            return super().create(key, data)

    store = LostReply()
    assert commit(store)[0] == Counts(4, 2, 1, 1)
    assert table(store, KEY).num_rows == 2


def test_an_object_of_another_job_is_an_error() -> None:
    store = Watched()
    commit(store, fingerprint=THEIRS)
    before = store.read(KEY)
    with pytest.raises(OutputMismatchError) as caught:
        commit(store)
    assert str(caught.value) == (
        f"{store.url}/{KEY}: expected an object of job {OURS[:12]}, got one of {THEIRS[:12]}. Choose another output.url"
    )
    assert store.read(KEY) == before


def test_an_object_of_another_program_is_an_error() -> None:
    store = Watched()
    store.put(KEY, to_parquet(pa.table({"a": [1]})))
    with pytest.raises(OutputMismatchError, match=f"an object of job {OURS[:12]}, got one of another program"):
        commit(store)


@pytest.mark.parametrize("content", [b"no parquet at all", b"", b"PAR1\0\0\0\0PAR1"])
def test_a_damaged_object_is_an_error_and_stays(content: bytes) -> None:
    store = Watched()
    store.put(KEY, content)
    with pytest.raises(OutputMismatchError) as caught:
        commit(store)
    (problem,) = caught.value.problems
    assert (problem.where, problem.expected) == (f"{store.url}/{KEY}", "a whole Parquet object")  # type: ignore[union-attr]
    assert problem.hint == "`promptmill verify --repair` removes it so that it is made again"  # type: ignore[union-attr]
    assert problem.got  # type: ignore[union-attr]
    assert store.read(KEY) == content


def test_a_footer_that_cannot_be_read_is_damage() -> None:
    store = Watched()
    for broken in (b"{", b'{"fingerprint": "a"}', b'{"fingerprint": "a", "shard": {"x": 1}}'):
        sink = io.BytesIO()
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"promptmill": broken}), sink)
        store.put(KEY, sink.getvalue())
        with pytest.raises(OutputMismatchError, match="a whole Parquet object"):
            committed_footer(store, SHARD, OURS)


def test_no_object_is_no_proof() -> None:
    assert committed_footer(Watched(), SHARD, OURS) is None


def test_a_damaged_object_that_is_removed_meanwhile_makes_room() -> None:
    """`create` is refused, and before the look at it a `verify --repair` removes what was there."""

    class Removed(Watched):
        refusals = 2

        def create(self, key: str, data: bytes) -> bool:
            self.refusals -= 1
            return False if self.refusals >= 0 else super().create(key, data)

    store = Removed()
    assert commit(store)[0] == Counts(4, 2, 1, 1)
    assert table(store, KEY).num_rows == 2


def test_an_object_that_comes_and_goes_for_ever_ends_in_an_error() -> None:
    class Gone(Watched):
        def create(self, key: str, data: bytes) -> bool:
            self.calls.append(("create", key))
            return False

    store = Gone()
    with pytest.raises(PromptmillError) as caught:
        commit(store, [outcome("s0")], ["s0"])
    assert str(caught.value) == (f"{store.url}/{KEY} was there and is gone: something else deletes from this output")
    assert len(store.calls) == 3


MISSING = [outcome("s0"), outcome("s1"), outcome("s2")]


@pytest.mark.parametrize(
    ("outcomes", "asked", "said"),
    [
        (MISSING, ASKED, "4 samples asked for, 3 ended, 1 missing, 0 too many"),
        ([], ASKED, "4 samples asked for, 0 ended, 4 missing, 0 too many"),
        ([*MISSING, outcome("s2"), outcome("s3")], ASKED, "4 samples asked for, 5 ended, 0 missing, 1 too many"),
        ([*MISSING, outcome("s2")], ASKED, "4 samples asked for, 4 ended, 1 missing, 1 too many"),
        ([*OUTCOMES, outcome("x")], ASKED, "4 samples asked for, 5 ended, 0 missing, 1 too many"),
        ([*MISSING, outcome("x")], ASKED, "4 samples asked for, 4 ended, 1 missing, 1 too many"),
        (OUTCOMES, [*ASKED, "s0"], "5 samples asked for, 4 ended, 0 missing, 0 too many"),
        ([*OUTCOMES, outcome("s0")], [*ASKED, "s0"], "5 samples asked for, 5 ended, 0 missing, 1 too many"),
    ],
)
def test_a_shard_that_does_not_add_up_is_not_written(outcomes: list[Outcome], asked: list[str], said: str) -> None:
    store = Watched()
    with pytest.raises(PromptmillError) as caught:
        commit(store, outcomes, asked)
    assert str(caught.value) == (
        f"a shard does not add up: {said}. Nothing was written; this is a defect of Promptmill"
    )
    assert store.calls == []


def test_the_same_shard_has_the_same_bytes() -> None:
    first, second = Watched(), Watched()
    commit(first)
    commit(second, OUTCOMES[::-1])
    assert [first.read(key) for key in names(first)] == [second.read(key) for key in names(second)]
