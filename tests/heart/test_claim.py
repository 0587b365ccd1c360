"""Whose output it is: claimed once, joined by the same job, extended by new files, refused to others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from promptmill.pipeline.dataset.claim import add_segments, claim_output, join
from promptmill.pipeline.dataset.open import open_dataset, read_plan, require_plan
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, JobError, OutputMismatchError, StorageError
from promptmill.schemas.plan import Segment
from tests.heart.mill import CLIP, MODEL, job, make_missing, memory, rows, run_small, small_plan, write_prompts


def with_new_file(folder: Path, **sections: object) -> Plan:
    write_prompts(folder / "b.parquet", ["a red star", "a blue star", "a star"])
    return plan_job(job(folder, **sections))


def test_the_first_claims(tmp_path: Path) -> None:
    store = memory()
    plan = small_plan(tmp_path)
    claimed = claim_output(plan, store)
    assert claimed == replace(plan, notices=())
    assert require_plan(store) == claimed
    content = json.loads(store.read("job.json"))
    assert content["fingerprint"] == plan.fingerprint
    assert {name: content["plan"][name] for name in ("prompts", "variants", "samples", "shards")} == {
        "prompts": 5,
        "variants": 1,
        "samples": 10,
        "shards": 3,
    }


def test_who_comes_second_joins(tmp_path: Path) -> None:
    store = memory()
    claim_output(small_plan(tmp_path), store)
    before = store.read("job.json")
    again = small_plan(tmp_path, compute={"workers": 7}, output={"url": "memory://moved"}, name="another name")
    joined = claim_output(again, store)
    assert (joined.job.compute.workers, joined.job.output.url) == (7, "memory://moved")  # how to run is today's choice
    assert joined.job.name == "small"
    assert store.read("job.json") == before


def test_two_that_claim_at_once_agree(tmp_path: Path) -> None:
    class Late(Store):
        """Whose claim comes after another's, which it did not see when it looked."""

        def create(self, key: str, data: bytes) -> bool:
            super().create(key, data.replace(b'"small"', b'"faster"'))
            return super().create(key, data)

    assert claim_output(small_plan(tmp_path), Late(memory().url)).job.name == "faster"


def test_a_claim_that_vanishes_is_said(tmp_path: Path) -> None:
    class Hole(Store):
        def create(self, key: str, data: bytes) -> bool:
            return True

    store = Hole(memory().url)
    with pytest.raises(StorageError) as caught:
        claim_output(small_plan(tmp_path), store)
    assert str(caught.value) == (f"{store.url}/job.json was written and cannot be found. Does something delete there?")


def test_another_job_is_refused_with_every_field(tmp_path: Path) -> None:
    store = memory()
    claim_output(small_plan(tmp_path), store)
    other = small_plan(tmp_path, seed=5, generation={"scheduler": "ddim"}, select={"keep": 1, "by": "clip"})
    with pytest.raises(OutputMismatchError) as caught:
        claim_output(other, store)
    assert str(caught.value).splitlines() == [
        f'{store.url}: generation.scheduler: expected nothing, as in the dataset there, got "ddim"',
        f"{store.url}: seed: expected 0, as in the dataset there, got 5",
        f'{store.url}: select.by: expected nothing, as in the dataset there, got "clip"',
        f"{store.url}: select.keep: expected nothing, as in the dataset there, got 1",
        "This output belongs to another job. Choose another output.url, or change these fields back",
    ]


def test_values_are_shown_as_they_are_written(tmp_path: Path) -> None:
    store = memory()
    claim_output(small_plan(tmp_path), store)
    with pytest.raises(OutputMismatchError, match='got "é"'):
        claim_output(small_plan(tmp_path, generation={"negative_prompt": "é"}), store)


def test_long_values_are_cut(tmp_path: Path) -> None:
    store = memory()
    claim_output(small_plan(tmp_path), store)
    for length, shown in ((198, '"' + "x" * 198 + '"'), (199, '"' + "x" * 196 + "…")):
        with pytest.raises(OutputMismatchError) as caught:
            claim_output(small_plan(tmp_path, generation={"negative_prompt": "x" * length}), store)
        assert f"got {shown}\n" in str(caught.value)


def test_new_files_are_for_extend(tmp_path: Path) -> None:
    store = memory()
    run_small(tmp_path, store)
    plan = with_new_file(tmp_path)
    with pytest.raises(OutputMismatchError) as caught:
        claim_output(plan, store)
    hint = "The source has new files: `promptmill run --extend` adds what is new"
    assert str(caught.value).splitlines()[-1] == hint
    grown = claim_output(plan, store, extend=True)
    assert grown.segments[1] == Segment("extend", grown.segments[1].files, 3, 3, 2)
    assert [file.name for file in grown.segments[1].files] == ["b.parquet"]
    assert (grown.prompts, grown.samples, grown.shards) == (8, 16, 5)
    assert grown.fingerprint == plan_job(job(tmp_path, prompts={"source": str(tmp_path / "a.parquet")})).fingerprint
    assert grown.fields == plan.fields
    assert [entry.name for entry in store.list("segments")] == ["segments/000000003.json"]
    make_missing(grown, store)
    assert [row["prompt_id"] for row in rows(store)[8:]] == [f"b.parquet:{n}" for n in (0, 0, 1, 1, 2, 2)]
    assert claim_output(plan, store, extend=True).segments == grown.segments  # nothing is new any more
    assert claim_output(plan, store).segments == grown.segments


def test_an_extension_of_a_sweep(tmp_path: Path) -> None:
    store = memory()
    sweep = {"sweep": {"guidance_scale": [1.0, 5.0]}}
    claim_output(small_plan(tmp_path, **sweep), store)
    grown = claim_output(with_new_file(tmp_path, **sweep), store, extend=True)
    assert (grown.segments[1].first_shard, grown.segments[1].shards) == (6, 4)
    assert [(s.variant, s.start, s.stop) for s in grown.all_shards()][6:] == [
        (0, 0, 2),
        (0, 2, 3),
        (1, 0, 2),
        (1, 2, 3),
    ]


def test_an_extension_comes_after_a_retry(tmp_path: Path) -> None:
    from promptmill.pipeline.dataset.retry import plan_retry

    store = memory()
    retried = plan_retry(run_small(tmp_path, store, broken=["square"]), store)
    make_missing(retried, store)
    grown = claim_output(with_new_file(tmp_path), store, extend=True)
    assert [(s.kind, s.first_shard, s.shards) for s in grown.segments] == [
        ("source", 0, 3),
        ("retry", 3, 1),
        ("extend", 4, 2),
    ]


def test_a_changed_job_is_not_extended(tmp_path: Path) -> None:
    store = memory()
    claim_output(small_plan(tmp_path), store)
    with pytest.raises(OutputMismatchError) as caught:
        claim_output(with_new_file(tmp_path, seed=1), store, extend=True)
    (first, last) = str(caught.value).splitlines()
    assert first.startswith(f"{store.url}: seed: ")
    assert store.list("segments") == []


def test_a_changed_file_is_not_extended(tmp_path: Path) -> None:
    store = memory()
    claim_output(small_plan(tmp_path), store)
    write_prompts(tmp_path / "a.parquet", ["another"] * 5)
    with pytest.raises(OutputMismatchError) as caught:
        claim_output(with_new_file(tmp_path), store, extend=True)
    assert "prompts.source.a.parquet.etag" in str(caught.value)
    assert str(caught.value).splitlines()[-1] == (
        "The dataset was made from these files as they were. Bring them back, with new prompts in a new file that "
        "`promptmill run --extend` adds, or choose another output.url"
    )


def test_a_job_with_a_limit_is_not_extended(tmp_path: Path) -> None:
    store = memory()
    claim_output(small_plan(tmp_path, prompts={"limit": 4}), store)
    with pytest.raises(JobError) as caught:
        claim_output(with_new_file(tmp_path, prompts={"limit": 4}), store, extend=True)
    assert str(caught.value) == (
        "prompts.limit: expected null for a job that is extended, got 4. Extend a job without a limit"
    )


def test_of_two_that_add_to_the_same_state_one_wins(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)
    files = plan.segments[0].files
    first = add_segments(plan, store, [Segment("extend", files, 2, 3, 1)], {"x": {"rows": 2}})
    second = add_segments(plan, store, [Segment("extend", files, 4, 3, 2)], {"y": {"rows": 4}})
    assert first == second
    assert first.segments[1].prompts == 2
    assert first.fields["prompts"]["source"]["x"] == {"rows": 2}
    assert plan.fields["prompts"]["source"].keys() == {"a.parquet"}  # the plan that it came from stays
    assert add_segments(plan, store, [], {}) is plan


def test_a_segment_that_does_not_follow_is_refused(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)
    add_segments(plan, store, [Segment("extend", plan.segments[0].files, 2, 3, 1)], {})
    store.put("segments/000000009.json", store.read("segments/000000003.json"))
    with pytest.raises(OutputMismatchError) as caught:
        read_plan(store)
    assert str(caught.value) == (
        f"{store.url}/segments/000000009.json: expected prompts that came to this dataset later, "
        "got ValueError: the segment of shard 3 does not follow shard 3. Choose another output.url"
    )


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"version": 1}', b'{"version": 1, "plan": {}}', b"\xff"])
def test_another_job_json_is_refused(content: bytes) -> None:
    store = memory()
    store.put("job.json", content)
    with pytest.raises(OutputMismatchError, match="the job file of a Promptmill dataset"):
        read_plan(store)


def test_no_dataset(tmp_path: Path) -> None:
    store = memory()
    assert read_plan(store) is None
    with pytest.raises(JobError) as caught:
        require_plan(store)
    assert str(caught.value) == (
        f"{store.url}: expected a Promptmill dataset (a folder or URL with a job.json), got none. "
        "Give the job's output.url"
    )
    (tmp_path / "file").write_text("")
    for url, got in ((tmp_path / "file", "a file"), (tmp_path / "file" / "x", "a path below a file")):
        with pytest.raises(JobError) as caught:
            open_dataset(str(url))
        assert str(caught.value) == (
            f"{url}: expected a folder, or the name of a new one, got {got}. Give the job's output.url"
        )


def test_text_sources_are_copied_and_come_back(tmp_path: Path) -> None:
    store = memory()
    (tmp_path / "a.csv").write_text("prompt,tag\na red circle,x\na blue circle,y\n")
    plan = plan_job(job(tmp_path / "a.csv"))
    claimed = claim_output(plan, store)
    (file,) = claimed.segments[0].files
    key = file.path.removeprefix("staged:")
    assert [entry.name for entry in store.list("inputs")] == [key]
    assert (file.name, file.rows) == ("a.csv", 2)
    before = store.read(key)
    store.delete(key)
    assert claim_output(plan, store) == claimed
    assert store.read(key) == before
    make_missing(claimed, store)
    assert [(row["prompt_id"], row["tag"]) for row in rows(store)][::2] == [("a.csv:0", "x"), ("a.csv:1", "y")]


def test_text_that_does_not_fit_is_no_extension(tmp_path: Path) -> None:
    """A column of numbers in the dataset, and of words in the file that came later."""
    store = memory()
    (tmp_path / "a.csv").write_text("prompt,n\na red circle,1\n")
    claimed = claim_output(plan_job(job(tmp_path)), store)
    (tmp_path / "b.csv").write_text("prompt,n\na blue circle,2\n")
    grown = claim_output(plan_job(job(tmp_path)), store, extend=True)
    (file,) = grown.segments[1].files
    assert [entry.name for entry in store.list("inputs")] == sorted(
        each.path.removeprefix("staged:") for each in (file, *claimed.segments[0].files)
    )
    (tmp_path / "c.csv").write_text("prompt,n\na star,many\n")
    with pytest.raises(InputError) as caught:
        claim_output(plan_job(job(tmp_path)), store, extend=True)
    assert "prompts.source: c.csv: expected values of the types that the columns of the dataset have" in str(
        caught.value
    )
    assert len(store.list("segments")) == 1


def test_a_project_that_has_moved_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All paths of the job are relative; what the claim holds of them was absolute then."""

    def relative() -> Plan:
        sections = {"model": {"path": "model"}, "score": [{"clip": "local-dir:clip"}]}
        return plan_job(job(Path("prompts"), **sections))

    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    shutil.copytree(MODEL, there / "model")
    shutil.copytree(CLIP, there / "clip")
    (there / "prompts").mkdir()
    write_prompts(there / "prompts" / "a.parquet", ["a red circle"])
    (there / "prompts" / "b.csv").write_text("prompt\na blue circle\n")
    monkeypatch.chdir(there)
    store = memory()
    claimed = claim_output(relative(), store)
    there.rename(here)
    monkeypatch.chdir(here)
    joined = claim_output(relative(), store)
    assert (joined.models[0].location, joined.clips[0].location) == (f"{here}/model", f"local-dir:{here}/clip")
    parquet, text = joined.segments[0].files
    assert parquet.path == f"{here}/prompts/a.parquet"
    assert text == claimed.segments[0].files[1]  # the copy in the output
    assert joined.fingerprint == claimed.fingerprint
    make_missing(joined, store)
    assert [row["prompt"] for row in rows(store)] == ["a red circle"] * 2 + ["a blue circle"] * 2


def test_a_hub_model_s_commit_is_the_claim_s(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    plan = replace(plan, clips=(replace(plan.clips[0], revision="1" * 40, location="hf-hub:org/x"),))
    claimed = replace(plan, clips=(replace(plan.clips[0], revision="0" * 40, location="hf-hub:stranger/x", tag="x"),))
    assert join(plan, claimed, "somewhere").clips == (replace(plan.clips[0], revision="0" * 40),)


def test_joining_reads_nothing(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    assert join(plan, plan, "somewhere") == plan
    with pytest.raises(OutputMismatchError, match=r"^somewhere: seed: "):
        join(small_plan(tmp_path, seed=2), plan, "somewhere")
