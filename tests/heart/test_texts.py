"""A text source is fetched and parsed once, and still read again where it may have changed."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.prompts import texts
from promptmill.pipeline.storage.local import LocalBackend
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError
from tests.heart.mill import job


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was read, by name."""
    counts: Counter[str] = Counter()
    read = LocalBackend.read

    def counting(self: LocalBackend, key: str, most_bytes: int | None = None) -> bytes:
        counts[Path(self.path(key)).name] += 1
        return read(self, key, most_bytes)

    monkeypatch.setattr(LocalBackend, "read", counting)
    return counts


def write(path: Path, text: str, age_s: float = 60) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))


def planned(source: Path) -> Plan:
    return plan_job(job(source, prompts={"columns": {"id": "key"}}))


@pytest.mark.parametrize("name", ["a.csv", "deep/a.csv"])
def test_a_text_is_fetched_once(tmp_path: Path, fetched: Counter[str], name: str) -> None:
    """It was four times: for Git LFS, to plan, for unique ids, to stage."""
    (tmp_path / "prompts").mkdir()
    write(tmp_path / "prompts" / name, "key,prompt\n1,a red circle\n2,a blue square\n")
    claim_output(planned(tmp_path / "prompts"), Store(str(tmp_path / "out")))
    assert fetched["a.csv"] == 1
    planned(tmp_path / "prompts")
    assert fetched["a.csv"] == 1


def test_a_text_that_changed_after_the_plan_is_refused(tmp_path: Path, fetched: Counter[str]) -> None:
    write(tmp_path / "prompts/a.csv", "key,prompt\n1,a red circle\n")
    plan = planned(tmp_path / "prompts")
    write(tmp_path / "prompts/a.csv", "key,prompt\n1,a tan circle\n", age_s=30)
    with pytest.raises(InputError, match="expected the file as it was planned, got other content"):
        claim_output(plan, Store(str(tmp_path / "out")))
    write(tmp_path / "prompts/a.csv", 'key,prompt\n1,"a tan', age_s=20)
    with pytest.raises(InputError, match="expected the file as it was planned"):
        claim_output(plan, Store(str(tmp_path / "out")))
    assert fetched["a.csv"] == 3


def test_a_text_just_written_is_read_again(tmp_path: Path, fetched: Counter[str]) -> None:
    write(tmp_path / "prompts/a.csv", "key,prompt\n1,a red circle\n", age_s=0)
    claim_output(planned(tmp_path / "prompts"), Store(str(tmp_path / "out")))
    assert fetched["a.csv"] == 3


def test_no_more_is_kept_than_fits(tmp_path: Path, fetched: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_MOST_BYTES", 10)
    write(tmp_path / "prompts/a.csv", "key,prompt\n1,a red circle\n")
    planned(tmp_path / "prompts")
    assert fetched["a.csv"] == 2
