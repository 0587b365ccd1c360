"""`promptmill curate`: which copies are found, and that the output is a dataset whatever happens on the way."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.jobs.curating import curate_dataset, options_of
from promptmill.pipeline import crashpoints
from promptmill.pipeline.curation.claim import claim_curation
from promptmill.pipeline.curation.curate import Progress, Spread, curate, here
from promptmill.pipeline.curation.decisions import bounds_said
from promptmill.pipeline.curation.known import parts_of
from promptmill.pipeline.curation.percentiles import worst_of
from promptmill.pipeline.curation.settings import CELL_ROWS, LARGEST_DIFFERENCE, Settings, Task
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError
from promptmill.schemas.scores import reason_kind
from tests.curation.drawn import Picture, as_jpeg, make_dataset, scenes, write_images

S = TypeVar("S")
T = TypeVar("T")


CLIP = "builtin:shapes"


def wanted(cell_rows: int = CELL_ROWS, **options: Any) -> Settings:
    return Settings.of(options_of(**options), "--model", cell_rows=cell_rows)


def rows(out: Path, folder: str) -> list[dict[str, Any]]:
    return [row for file in sorted((out / folder).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def numbers(out: Path, folder: str = "data") -> list[int]:
    return [int(row["prompt"].split()[-1]) for row in rows(out, folder)]


def reasons(out: Path) -> dict[int, str]:
    return {int(row["prompt"].split()[-1]): row["reason"] for row in rows(out, "rejects")}


def curated(folder: Path, settings: Settings, to: str = "curated", spread: Spread = here) -> Path:
    """Without the page, which takes longer than all the rest."""
    plan, source = open_dataset(str(folder / "made"))
    target = Store(str(folder / to))
    known = [*parts_of("real", settings.real), *parts_of("test", settings.test)]
    own = claim_curation(plan, source, target, settings, known)
    curate(own, Task(source.url, target.url, settings, own.fingerprint), known, spread, Progress())
    assert verify_dataset(own, target).complete
    return folder / to


def bytes_in(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and ".tmp" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def cropped(image: Picture) -> Picture:
    return np.asarray(Image.fromarray(image[3:-3, 3:-3]).resize((64, 64), Image.Resampling.BICUBIC))


def test_copies_of_test_images_are_found_and_other_scenes_stay(tmp_path: Path) -> None:
    drawn = scenes(460)
    own, test, real = drawn[:300], drawn[300:360], drawn[360:]
    copies = [*test[:10], *map(as_jpeg, test[10:40]), *(np.ascontiguousarray(each[:, ::-1]) for each in test[40:])]
    make_dataset(tmp_path, [*own, *copies, as_jpeg(real[3]), as_jpeg(own[5]), own[6]], per_shard=128)
    settings = wanted(
        model=CLIP,
        real=[str(write_images(tmp_path / "real", real))],
        test=[str(write_images(tmp_path / "test", test))],
    )
    out = curated(tmp_path, settings)
    found = reasons(out)
    assert sorted(found) == list(range(300, 363))
    assert all(found[300 + i] == f"leak:{i:04d}.png" for i in range(60))
    ids = {int(row["prompt"].split()[-1]): row["sample_id"] for row in rows(out, "data")}
    assert [found[360], found[361], found[362]] == [
        *("memorised:0003.png", f"near_copy:{ids[5]}", f"exact_copy:{ids[6]}")
    ]


def test_an_image_that_was_moved_is_a_copy_where_the_threshold_says_so(tmp_path: Path) -> None:
    own = scenes(20)
    make_dataset(tmp_path, [*own, cropped(own[0])])
    out = curated(tmp_path, wanted(model=CLIP, threshold=0.97))
    assert reason_kind(reasons(out)[20]) == "near_copy"


def test_copies_of_one_another_are_looked_for_inside_a_class(tmp_path: Path) -> None:
    own = scenes(8)
    labels = ["cat"] * 8 + ["dog", "cat", "dog"]
    make_dataset(tmp_path, [*own, as_jpeg(own[0]), as_jpeg(own[1]), own[2]], label_name=labels)
    out = curated(tmp_path, wanted(model=CLIP))
    assert {number: reason_kind(reason) for number, reason in reasons(out).items()} == {
        9: "near_copy",
        10: "exact_copy",  # the very same pixels under two labels: whatever the class
    }


def test_of_a_chain_what_is_no_copy_of_what_stays_stays(tmp_path: Path) -> None:
    """The second is like the first and the third like the second, which goes: the third is like nothing that stays."""
    a, b, c = (np.full((16, 16, 3), value, np.uint8) for value in (100, 103, 106))
    make_dataset(tmp_path, [a, b, c])
    settings = wanted(model=CLIP)
    assert numbers(curated(tmp_path, settings)) == [0, 2]


def test_without_a_model_only_the_same_pixels_are_copies(tmp_path: Path) -> None:
    own = scenes(6)
    test = write_images(tmp_path / "test", [own[4]], "bmp")
    make_dataset(tmp_path, [*own, own[2], as_jpeg(own[3])], per_shard=3)
    out = curated(tmp_path, wanted(test=(str(test),)))
    assert {number: reason_kind(reason) for number, reason in reasons(out).items()} == {4: "leak", 6: "exact_copy"}


def test_rejects_and_failures_of_the_input_go_along(tmp_path: Path) -> None:
    own: list[Picture | None] = [*scenes(6)]
    make_dataset(tmp_path, [*own, own[0], None], select={"keep": 1, "min": 0.0})
    before, out = tmp_path / "made", curated(tmp_path, wanted())
    assert len(rows(before, "rejects")) > 0
    ended = Counter(row["sample_id"] for kind in ("data", "rejects", "failures") for row in rows(out, kind))
    assert ended == Counter(row["sample_id"] for kind in ("data", "rejects", "failures") for row in rows(before, kind))
    kept = {row["reason"] for row in rows(before, "rejects")}
    assert kept < {row["reason"] for row in rows(out, "rejects")} | kept


def test_cells_lose_no_pair_that_one_cell_finds(tmp_path: Path) -> None:
    own = scenes(150)
    make_dataset(tmp_path, [*own, *map(as_jpeg, own)], per_shard=64)
    whole = curated(tmp_path, wanted(model=CLIP, threshold=0.999), "one")
    parted = curated(tmp_path, wanted(model=CLIP, threshold=0.999, cell_rows=10), "many")
    assert len(numbers(whole)) == 150
    assert reasons(parted) == reasons(whole)


class _Died(BaseException):
    pass


def test_killed_at_every_step_the_same_bytes_come_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own: list[Picture | None] = [*scenes(5)]
    test = write_images(tmp_path / "test", [own[1]])  # type: ignore[list-item]
    make_dataset(tmp_path, [*own, own[0], None], per_shard=4)
    settings = wanted(test=(str(test),))
    assert check_killed_everywhere(tmp_path, settings, monkeypatch) > 40


def check_killed_everywhere(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of crash points passed."""
    expected = bytes_in(curated(tmp_path, settings, "undisturbed"))

    def die(_: int) -> None:
        raise _Died

    monkeypatch.setattr(crashpoints.os, "_exit", die)
    for step in itertools.count(1):
        to = f"died-{step}"
        monkeypatch.setenv("PROMPTMILL_TEST_CRASH", f"*:{step}")
        monkeypatch.setattr(crashpoints, "_passes", itertools.count(1))
        try:
            curated(tmp_path, settings, to)
        except _Died:
            monkeypatch.delenv("PROMPTMILL_TEST_CRASH")
            found = bytes_in(curated(tmp_path, settings, to))
            found["job.json"] = found["job.json"].replace(to.encode(), b"undisturbed")
            assert found == expected, step
            continue
        break
    return step


def backwards(function: Callable[[S], T], things: Sequence[S], model: bool = False) -> Iterable[T]:
    """As workers would that are never in step."""
    answers = {number: function(things[number]) for number in reversed(range(len(things)))}
    return [answers[number] for number in range(len(things))]


def test_the_order_of_work_changes_no_byte(tmp_path: Path) -> None:
    own = scenes(12)
    make_dataset(tmp_path, [*own, *own[:4]], per_shard=4)
    settings = wanted(cell_rows=5)
    one = bytes_in(curated(tmp_path, settings, "forth"))
    other = bytes_in(curated(tmp_path, settings, "backw", backwards))
    other["job.json"] = other["job.json"].replace(b"backw", b"forth")
    assert one == other


def test_what_is_there_is_another_curation_s(tmp_path: Path) -> None:
    make_dataset(tmp_path, scenes(4))
    curated(tmp_path, wanted())
    with pytest.raises(JobError, match=r"curate\.quantile"):
        curated(tmp_path, wanted(quantile=0.9))


def test_an_input_that_grew_is_another_input(tmp_path: Path) -> None:
    test = write_images(tmp_path / "test", scenes(2))
    make_dataset(tmp_path, scenes(4))
    curated(tmp_path, wanted(test=(str(test),)))
    write_images(test, scenes(3))
    with pytest.raises(JobError, match=r"curate\.test"):
        curated(tmp_path, wanted(test=(str(test),)))


@pytest.mark.parametrize("to", ["made", "made/within", "made/data/x", ""])
def test_an_output_in_its_input_is_refused(tmp_path: Path, to: str) -> None:
    make_dataset(tmp_path, scenes(2))
    with pytest.raises(JobError, match="--to: expected a place outside the input"):
        curate_dataset(str(tmp_path / "made"), str(tmp_path / to), wanted())


def test_an_unfinished_input_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path, scenes(4), per_shard=2)
    next((tmp_path / "made" / "data").iterdir()).unlink()
    with pytest.raises(JobError, match="expected a dataset that is finished, got 1 of 2 shards missing"):
        curated(tmp_path, wanted())


def test_a_few_images_say_nothing_of_the_cosine(tmp_path: Path) -> None:
    make_dataset(tmp_path, scenes(4))
    real = write_images(tmp_path / "real", scenes(5, seed=1))
    said = bounds_said(Store(str(curated(tmp_path, wanted(model=CLIP, real=(str(real),))))))
    assert (said["cosine"], said["difference"]) == (None, LARGEST_DIFFERENCE)
    assert said["calibration"]["images"] == 5


def test_a_curated_dataset_is_not_retried(tmp_path: Path, cli: Callable[..., Any]) -> None:
    make_dataset(tmp_path, scenes(3))
    answer = cli("curate", tmp_path / "made", "--to", tmp_path / "curated", "--in-process", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["kept"], answer.json["reasons"]) == (3, {})
    assert (tmp_path / "curated" / "report" / "index.html").exists()
    assert cli("verify", tmp_path / "curated", "--deep").code == 0
    answer = cli("retry", tmp_path / "curated", "--in-process")
    assert answer.code == 2
    assert "one that `promptmill curate` made" in answer.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threshold", "0.9"], "--model: expected a model, of whose embeddings"),
        (["--threshold", "1"], "--threshold: expected a number"),
        (["--quantile", "1"], "--quantile: expected a number of at least 0.5"),
        (["--percentile", "clip=100"], "--percentile: expected SCORE=P, with P between 0 and 100"),
        (["--percentile", "clip=9", "--percentile", "clip=8"], "got clip twice"),
        (["--label", "lable"], "--label: expected a column of the dataset, got 'lable'"),
        (["--real", "nowhere"], "a folder of images"),
        (["--model", "no-such-model"], "--model: expected"),
    ],
)
def test_settings_that_decide_nothing(tmp_path: Path, cli: Callable[..., Any], options: list[str], said: str) -> None:
    make_dataset(tmp_path, scenes(2))
    answer = cli("curate", tmp_path / "made", "--to", tmp_path / "out", "--in-process", *options)
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "out").exists()


PERCENTILE = wanted(percentiles={"clip": 30.0})


def test_the_worst_of_each_class_go_and_classes_of_one_size_stay_so(tmp_path: Path) -> None:
    kinds = ["cat", "dog"] * 25
    make_dataset(tmp_path, scenes(50), per_shard=8, label_name=kinds)
    before = rows(tmp_path / "made", "data")
    out = curated(tmp_path, PERCENTILE)
    expected = set()
    for kind in ("cat", "dog"):
        own = [row for row in before if row["label_name"] == kind]
        expected |= {row["sample_id"] for row in sorted(own, key=lambda row: row["scores"]["clip"])[:7]}  # 30 % of 25
    assert {row["sample_id"] for row in rows(out, "rejects")} == expected
    assert set(reasons(out).values()) == {"clip among the worst 30 % of its class"}
    assert Counter(row["label_name"] for row in rows(out, "data")) == {"cat": 18, "dog": 18}


def test_who_goes_for_a_percentile_is_nobody_s_twin(tmp_path: Path) -> None:
    """The worst of the first class goes, so its copy in the second, where it is the best, stays."""
    sorted_ = sorted(scenes(20), key=lambda image: float(image[..., 0].mean()))  # as the score has it
    first, second = sorted_[10:], [sorted_[10], *sorted_[:9]]
    make_dataset(tmp_path, [*first, *second], per_shard=8, label_name=["cat"] * 10 + ["dog"] * 10)
    reason = "clip among the worst 10 % of its class"
    assert reasons(curated(tmp_path, wanted(percentiles={"clip": 10.0}))) == {0: reason, 11: reason}
    assert reason_kind(reasons(curated(tmp_path, wanted(), "plain"))[10]) == "exact_copy"


def test_of_equal_scores_the_last_go_and_what_has_none_goes() -> None:
    values = np.array([0.5, np.nan, 0.5, 0.5, 0.9])
    reason = "clip among the worst 50 % of its class"
    assert worst_of(values, "clip", 50) == {1: "no_score", 3: reason, 2: reason}
    assert worst_of(values, "clip", 20) == {1: "no_score"}


def test_killed_at_every_step_a_percentile_comes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = scenes(12)
    make_dataset(tmp_path, [*own, own[0]], per_shard=8)
    check_killed_everywhere(tmp_path, PERCENTILE, monkeypatch)


@pytest.mark.parametrize(
    ("images", "percentiles", "message"),
    [
        (3, {"clip": 30.0}, "--percentile: expected 10 images with clip in each class, got 3 of 'all'"),
        (12, {"aes": 30.0}, r"--percentile: expected a score of the dataset \(clip\), got 'aes'"),
    ],
)
def test_a_percentile_of_what_is_not_there_is_refused(
    tmp_path: Path, images: int, percentiles: dict[str, float], message: str
) -> None:
    make_dataset(tmp_path, scenes(images))
    with pytest.raises(JobError, match=message):
        curated(tmp_path, wanted(percentiles=percentiles))


def test_another_call_that_decides_meanwhile_does_this_one_no_harm(tmp_path: Path) -> None:
    """It tidies away the vectors that this one is about to read."""
    own = scenes(6)
    make_dataset(tmp_path, [*own, own[0]], per_shard=4)
    expected = bytes_in(curated(tmp_path, wanted(), "undisturbed"))
    calls = itertools.count()

    def meanwhile(function: Callable[[S], T], things: Sequence[S], model: bool = False) -> Iterable[T]:
        answers = list(here(function, things))
        if next(calls) == 0:
            curated(tmp_path, wanted(), "disturbed")
        return answers

    found = bytes_in(curated(tmp_path, wanted(), "disturbed", meanwhile))
    found["job.json"] = found["job.json"].replace(b"/disturbed", b"/undisturbed")
    assert found == expected


def test_so_many_of_each_class_stay_and_a_class_that_lacks_some_is_told(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    own = scenes(9)
    make_dataset(tmp_path, [*own, own[0]], per_shard=4, label_name=["cat"] * 5 + ["dog"] * 4 + ["cat"])
    ended = cli("curate", tmp_path / "made", "--to", tmp_path / "four", "--per-class", 4, "--in-process", "--json")
    assert (ended.code, ended.json["reasons"]) == (0, {"over_per_class": 1, "exact_copy": 1})
    assert numbers(tmp_path / "four") == [0, 1, 2, 3, 5, 6, 7, 8]
    assert reasons(tmp_path / "four")[4] == "over_per_class"
    ended = cli("curate", tmp_path / "made", "--to", tmp_path / "five", "--per-class", 5, "--in-process", "--json")
    assert (ended.code, ended.json["short"]) == (3, {"dog": 4})
    assert Counter(row["label_name"] for row in rows(tmp_path / "five", "data")) == {"cat": 5, "dog": 4}
    assert cli("verify", tmp_path / "five", "--deep").code == 0


@pytest.mark.parametrize(("label", "none"), [(None, "dog"), ("label_name", "dog"), ("label", "1")])
def test_a_class_of_which_every_sample_failed_is_short(
    tmp_path: Path, cli: Callable[..., Any], label: str | None, none: str
) -> None:
    make_dataset(tmp_path, [*scenes(2), None], mapped={"label": "animal"}, animal=["cat", "cat", "dog"])
    asked = ("--per-class", 2, *(("--label", label) if label else ()))
    ended = cli("curate", tmp_path / "made", "--to", tmp_path / "two", *asked, "--in-process", "--json")
    assert (ended.code, ended.json["short"]) == (3, {none: 0})


def test_a_later_option_changes_no_older_curation() -> None:
    assert wanted().fields({}) == {
        **{"threshold": None, "quantile": 0.9998, "label": None, "cell_rows": CELL_ROWS, "model": None}
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--percentile", "nope=20"), "a score of the dataset"),
        (("--percentile", "clip=20"), "10 images with clip in each class, got 3"),
        (("--test", "broken.png"), "1 that do not decode"),
    ],
)
def test_a_refused_curation_takes_no_place(
    tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path, scenes(3))
    (tmp_path / "broken.png").write_bytes(b"no image")
    call = ("curate", "made", "--to", "out", "--in-process", "--json")
    refused = cli(*call, *wrong)
    assert refused.code == 2
    assert said in refused.json["message"]
    assert not (tmp_path / "out").exists()
    assert cli(*call).code == 0
