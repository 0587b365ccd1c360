"""Scores of the user's own: found by import path, checked before anything runs, in the job and afterwards."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]

BRIGHTNESS = '''
import numpy as np

class Brightness:
    """Mean of all channels."""

    scores = ("brightness", "darkness")
    lower_is_better = ("darkness",)
    version = "1"

    def score(self, pictures):
        means = np.array([picture.pixels.mean() / 255 for picture in pictures])
        return {"brightness": means, "darkness": 1 - means}

class OnDevice(Brightness):
    on_device = True
    calls = []

    def prepare(self, captions):
        self.captions = list(captions)

    def score(self, pictures):
        OnDevice.calls.append(len(pictures))
        assert {picture.caption for picture in pictures} <= set(self.captions)
        return super().score(pictures)

class Siblings(Brightness):
    scores, lower_is_better, scope = ("siblings",), (), "group"

    def score(self, pictures):
        return {"siblings": [sum(other.group == picture.group for other in pictures) for picture in pictures]}

class Tagged(Brightness):
    scores, lower_is_better = ("tagged",), ()

    def score(self, pictures):
        return {"tagged": [picture.fields["tag"] for picture in pictures]}

class Broken(Brightness):
    def score(self, pictures):
        if any(picture.caption == "a blue square" for picture in pictures):
            raise KeyError("nothing like it")
        return super().score(pictures)

class Short(Brightness):
    def score(self, pictures):
        return {"brightness": [], "darkness": []}

class Unmakeable(Brightness):
    def __init__(self, argument):
        pass

class NoVersion:
    scores = ("a b",)

    def score(self, pictures):
        return {}

text = "no class"
'''


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, of another name each time: Python keeps what it has imported."""
    name = f"own_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{name}.py").write_text(BRIGHTNESS)
    monkeypatch.chdir(tmp_path)
    return name


def brightness(row: dict[str, Any]) -> float:
    return float(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).mean() / 255)


@pytest.mark.parametrize("kind", ["Brightness", "OnDevice"])
def test_in_a_job_it_is_a_score_like_others(cli: Cli, job: MakeJob, own: str, tmp_path: Path, kind: str) -> None:
    select = {"keep": 1, "by": "darkness"}
    path = job(score=[{"metric": "image"}, {"python": f"{own}:{kind}"}], select=select)
    answer = cli("run", path, "--in-process", "--json", "--set", "output.keep_rejected_images=true")
    assert answer.code == 0, answer
    kept, rejected = records(tmp_path / "out"), records(tmp_path / "out", "rejects")
    assert list(kept[0]["scores"])[-2:] == ["brightness", "darkness"]
    for row, other in zip(kept, rejected, strict=True):
        assert row["scores"]["brightness"] == pytest.approx(brightness(row), abs=1e-6)
        assert row["scores"]["darkness"] <= other["scores"]["darkness"]
    assert f"`{own}:{kind}`, version `1`" in (tmp_path / "out" / "README.md").read_text()
    assert cli("verify", tmp_path / "out").code == 0
    again = cli("select", tmp_path / "out", "--keep", "1", "--by", "darkness", "--json")
    assert (again.code, again.json["kept"]) == (0, len(kept)), again
    (view,) = (tmp_path / "out" / "selections").glob("*.parquet")
    chosen = {row["sample_id"] for row in pq.read_table(view).to_pylist() if row["reason"] is None}
    assert chosen == {row["sample_id"] for row in kept}
    assert cli("compare", tmp_path / "out", tmp_path / "out", "--out", tmp_path / "both").code == 0
    (analysis,) = (tmp_path / "both" / "data").glob("analysis.*.js")
    assert '"name":"darkness","lower_is_better":true' in analysis.read_text()


def test_columns_of_the_prompt_reach_it(cli: Cli, job: MakeJob, own: str, tmp_path: Path) -> None:
    assert cli("run", job(score=[{"python": f"{own}:Tagged"}]), "--in-process").code == 0
    rows = records(tmp_path / "out")
    assert [row["scores"]["tagged"] for row in rows] == [row["tag"] for row in rows]


def test_another_version_is_another_dataset(cli: Cli, job: MakeJob, own: str, tmp_path: Path) -> None:
    path = job(score=[{"python": f"{own}:Brightness"}])
    assert cli("run", path, "--in-process").code == 0
    sys.modules[own].Brightness.version = "2"  # type: ignore[attr-defined]
    answer = cli("run", path, "--in-process")
    assert answer.code == 2 and "score[0].version" in answer.err
    assert "not 1 with" not in answer.err


def test_what_it_raises_costs_its_images_only(cli: Cli, job: MakeJob, own: str, tmp_path: Path) -> None:
    answer = cli("run", job(score=[{"python": f"{own}:Broken"}]), "--in-process", "--json")
    assert (answer.code, answer.json["kept"], answer.json["failed"]) == (3, 6, 2)
    messages = {row["message"] for row in records(tmp_path / "out", "failures")}
    assert messages == {f"ValueError: {own}:Broken: KeyError: 'nothing like it'"}


def test_what_it_returns_is_checked(cli: Cli, job: MakeJob, own: str, tmp_path: Path) -> None:
    cli("run", job(score=[{"python": f"{own}:Short"}]), "--in-process", "--json")
    messages = {row["message"] for row in records(tmp_path / "out", "failures")}
    assert messages == {f"ValueError: {own}:Short: brightness: expected 1 numbers, got the shape (0,)"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere_at_all:Score", "ModuleNotFoundError"),
        ("{own}:Missing", "no attribute 'Missing'"),
        ("{own}:text", "is a str"),
        ("{own}:NoVersion", "a text that changes when its results do"),
        ("{own}:Siblings", "`promptmill score URL --metric python=…` takes it afterwards"),
        ("brightness", "entry point in the group"),
        ("image", "entry point in the group"),
        ("leaves_at_once:Score", "SystemExit: 0"),
    ],
)
def test_what_does_not_keep_the_protocol_is_refused_before_anything_runs(
    cli: Cli, job: MakeJob, own: str, tmp_path: Path, path: str, words: str
) -> None:
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(0)\n")
    answer = cli("validate", job(score=[{"python": path.format(own=own)}]))
    assert answer.code == 2, answer
    assert words in " ".join(answer.err.split()) and "score.0.python" in answer.err
    assert not (tmp_path / "out").exists()


def test_names_are_those_of_no_other_score(cli: Cli, job: MakeJob, own: str) -> None:
    answer = cli("validate", job(score=[{"python": f"{own}:Brightness"}, {"python": f"{own}:OnDevice"}]))
    assert answer.code == 2 and "'brightness' twice" in answer.err
    select = {"by": "brightnes"}
    answer = cli("validate", job(score=[{"python": f"{own}:Brightness"}], select=select))
    assert answer.code == 2 and "brightness, darkness" in " ".join(answer.err.split())
    select = {"by": "darkness", "min": 0.5}
    answer = cli("validate", job(score=[{"python": f"{own}:Brightness"}], select=select))
    assert answer.code == 2 and "select.min" in answer.err
    answer = cli("validate", job(score=[{"python": f"{own}:Brightness", "name": "x"}]))
    assert answer.code == 2 and "Its class names its scores" in answer.err


def test_a_class_that_cannot_be_made_ends_the_run_with_its_words(cli: Cli, job: MakeJob, own: str) -> None:
    answer = cli("run", job(score=[{"python": f"{own}:Unmakeable"}]), "--in-process")
    assert answer.code != 0 and "cannot be made: TypeError" in " ".join(answer.err.split())


def test_afterwards_it_scores_what_is_there(cli: Cli, job: MakeJob, own: str, tmp_path: Path) -> None:
    assert cli("run", job(), "--in-process").code == 0
    words = ["--metric", f"python={own}:Siblings", "--metric", f"python={own}:Brightness"]
    answer = cli("score", tmp_path / "out", *words, "--json")
    assert answer.code == 0, answer
    assert json.loads(answer.out)["mean"]["siblings"] == 2
    again = cli("select", tmp_path / "out", "--keep", "1", "--by", "darkness", "--json")
    (view,) = (tmp_path / "out" / "selections").glob("*.parquet")
    chosen = {row["sample_id"] for row in pq.read_table(view).to_pylist() if row["reason"] is None}
    rows, darkness = records(tmp_path / "out"), (lambda row: 1 - brightness(row))
    least = [min((row for row in rows if row["prompt_id"] == one["prompt_id"]), key=darkness) for one in rows]
    assert again.code == 0 and chosen == {row["sample_id"] for row in least}
    pages = [each.read_text() for each in (tmp_path / "out" / "report" / "data").glob("analysis.*.js")]
    assert any('"name":"darkness","lower_is_better":true' in each for each in pages)
    answer = cli("score", tmp_path / "out", "--metric", f"python={own}:NoVersion")
    assert answer.code == 2 and "such as" in answer.err


def test_the_class_that_a_stranger_s_dataset_names_is_not_imported(
    cli: Cli, job: MakeJob, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = job(score=[{"python": f"{own}:Broken"}])
    assert cli("run", path, "--in-process").code == 3
    (row, *_) = records(tmp_path / "out")
    monkeypatch.setenv("PROMPTMILL_STATE_DIR", str(tmp_path / "another user"))
    sys.modules.pop(own)
    (tmp_path / f"{own}.py").write_text("raise SystemExit('the code of somebody else ran')")
    for command in (["retry", tmp_path / "out", "--in-process"], ["reproduce", tmp_path / "out", row["sample_id"]]):
        answer = cli(*command)
        assert answer.code == 2 and "--trust-dataset" in answer.err and f"{own}:Broken" in answer.err, answer
