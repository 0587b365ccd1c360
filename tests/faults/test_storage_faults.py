"""What a network and a store do to a run: it waits and finishes, or stops and says what to do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import storage
from tests.faults.bench import PROMPTS, Bench, Output
from tests.faults.test_deaths import assert_good
from tests.servers.proxy import FaultProxy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def proxy(bench: Bench) -> Iterator[FaultProxy]:
    assert bench.server is not None
    with FaultProxy(bench.server, seed=4) as proxy:
        yield proxy


@pytest.mark.parametrize("kind", storage.TRANSIENT)
def test_a_fault_that_passes_is_survived_and_shown(bench: Bench, proxy: FaultProxy, kind: str) -> None:
    assert_good(storage.survived(bench, proxy, kind))


@pytest.mark.parametrize("kind", storage.LASTING)
def test_a_fault_that_stays_ends_with_4_and_advice(bench: Bench, proxy: FaultProxy, kind: str) -> None:
    assert_good(storage.stopped(bench, proxy, kind))


def test_killed_in_mid_upload(bench: Bench, proxy: FaultProxy) -> None:
    assert_good(storage.killed_in_upload(bench, proxy, 2, random.Random(4)))


def test_a_disk_that_fills(bench: Bench, full_disk: Path) -> None:
    assert_good(storage.disk_full(bench, full_disk))


def test_a_folder_that_is_read_only(bench: Bench, read_only_folder: Path) -> None:
    ended = bench.run(bench.job(), Output(str(read_only_folder), {"PROMPTMILL_STORAGE_PATIENCE_S": "1"}))
    assert ended.code == 4
    assert str(read_only_folder) in ended.printed
    assert "may list, read and write" in ended.printed


def test_prompts_on_a_store_that_stumbles(bench: Bench, proxy: FaultProxy) -> None:
    """Reads of the source used to be tried once: a single 503 ended the run with a traceback."""
    assert bench.server is not None
    bucket = bench.server.make_bucket()
    local = bench.prompts(PROMPTS)
    bench.server.filesystem().put_file(str(local), f"{bucket}/{local.name}")
    job = bench.job(f"s3://{bucket}/{local.name}")
    output = bench.output(env=proxy.env())
    with proxy.unavailable(None, probability=0.4, method="GET") as stumbling:
        ended = bench.run(job, output)
    assert stumbling.injected > 0
    assert ended.code == 3, ended.printed
    assert ended.json["samples"] == 2 * len(PROMPTS)
