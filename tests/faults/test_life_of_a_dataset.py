"""Any order of runs, crashes, new source files, changed jobs, retries, damage and repair ends with each sample once."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from promptmill.pipeline.crashpoints import EXIT_CODE
from tests.faults.audit import audit, data_objects, sample_ids
from tests.faults.bench import PROMPTS, Bench
from tests.faults.forks import Ended

CRASHES = st.integers(1, 90)
FAULTY = {"PROMPTMILL_TEST_FAULTY": "1"}
TEXTS = (*PROMPTS[-3:], "green square raise")
"""One is empty; one fails in a run that is FAULTY, and `retry` can make it."""
FINISHED = (0, 3)


class Life(RuleBasedStateMachine):
    """`claimed` are the source files that the output knows, None before the first run got as far as that."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.bench.folder))
        self.source = self.folder / "source"
        self.source.mkdir()
        self.output = self.bench.output()
        self.job = self.bench.job(self.source)
        self.files: list[str] = []
        self.finished = False
        self.add_file()

    def claimed(self) -> bool:
        return (Path(self.output.url) / "job.json").exists()

    def known(self) -> set[str]:
        """Source files that the output's plan has."""
        ended = self.bench.forks.run("status", self.output.url, "--json")
        return set(self.files[: ended.json["samples_asked_for"] // (2 * len(TEXTS))])

    @rule()
    def add_file(self) -> None:
        if len(self.files) < 3:
            name = f"{'abc'[len(self.files)]}.parquet"
            shutil.copy(self.bench.prompts(TEXTS), self.source / name)
            self.files.append(name)
            self.finished = False

    @rule(crash=CRASHES | st.none(), extend=st.booleans(), faulty=st.booleans())
    def run(self, crash: int | None, extend: bool, faulty: bool) -> None:
        env = (FAULTY if faulty else {}) | ({} if crash is None else {"PROMPTMILL_TEST_CRASH": f"*:{crash}"})
        behind = self.claimed() and self.known() != set(self.files)
        options = ("--in-process", *(["--extend"] if extend else []))
        ended = self.bench.run(self.job, self.output, *options, **env)
        if behind and not extend:
            assert ended.code == 2, ended.printed
            assert f"prompts.source.{self.files[-1]}" in ended.printed
            assert "--extend" in ended.printed
        else:
            assert ended.code in (*FINISHED, *([EXIT_CODE] if crash else [])), ended.printed
            self.finished = ended.code in FINISHED

    @precondition(lambda self: self.claimed())
    @rule(change=st.sampled_from(["generation.guidance_scale=2.5", "seed=5", "output.images_per_shard=6"]))
    def run_another_job(self, change: str) -> None:
        before = self.output.files()
        arguments = ("run", str(self.job), "--set", f"output.url={self.output.url}", "--set", change, "--in-process")
        ended = self.bench.forks.run(*arguments, env=self.output.env)
        assert ended.code == 2, ended.printed
        assert change.partition("=")[0] in ended.printed
        assert self.output.files() == before

    @precondition(lambda self: self.finished)
    @rule(crash=CRASHES | st.none(), faulty=st.booleans())
    def retry(self, crash: int | None, faulty: bool) -> None:
        env = (FAULTY if faulty else {}) | ({} if crash is None else {"PROMPTMILL_TEST_CRASH": f"*:{crash}"})
        ended = self.bench.command("retry", self.output, "--in-process", **env)
        assert ended.code in (*FINISHED, *([EXIT_CODE] if crash else [])), ended.printed
        self.finished = ended.code in FINISHED

    @precondition(lambda self: self.finished)
    @rule(part=st.integers(0, 100), how=st.sampled_from(["cut", "zero", "flip", "remove"]))
    def damage_and_repair(self, part: int, how: str) -> None:
        objects = data_objects(self.output.files())
        key = sorted(objects)[part % len(objects)]
        content = objects[key]
        if how == "remove":
            self.output.remove(key)
        else:
            middle = len(content) // 2
            flipped = content[: middle - 1] + bytes([content[middle - 1] ^ 255]) + content[middle:]
            self.output.write(key, {"cut": content[:middle], "zero": b"", "flip": flipped}[how])
        verified = self.bench.command("verify", self.output, "--deep", "--repair")
        if how != "flip":  # a byte that no reader looks at may be flipped unnoticed
            assert verified.code == 1, verified.printed
            assert key not in self.output.files()
        self.finished = False

    def teardown(self) -> None:
        self.finish()
        shutil.rmtree(self.folder)

    def finish(self) -> None:
        """Whatever happened, the ordinary commands end with each sample once, as a run from scratch makes it."""
        ended = self.bench.run(self.job, self.output, "--in-process", "--extend")
        assert ended.code in FINISHED, ended.printed
        assert self.bench.command("retry", self.output, "--in-process").code in FINISHED
        verified = self.bench.command("verify", self.output, "--deep", "--repair")
        assert verified.code == 0, verified.printed
        expected = self.bench.output()
        fresh: Ended = self.bench.run(self.job, expected)
        assert fresh.code in FINISHED, fresh.printed
        counted = audit(self.output.files(), sample_ids(expected.files()))
        assert (counted.lost, counted.doubled) == (0, 0), counted
        assert images(self.output.files()) == images(expected.files())
        shutil.rmtree(expected.url)


def images(files: dict[str, bytes]) -> dict[str, str]:
    """Hash of the image by sample, of all that were kept."""
    columns = ["sample_id", "image_sha256"]
    tables = [pq.read_table(io.BytesIO(content), columns=columns) for content in data_objects(files).values()]
    return {row["sample_id"]: row["image_sha256"] for table in tables for row in table.to_pylist()}


@pytest.mark.slow
def test_each_sample_is_there_once_whatever_happened_before(bench: Bench) -> None:
    Life.bench = bench
    checks = settings(
        max_examples=4,
        stateful_step_count=8,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Life, settings=checks)
