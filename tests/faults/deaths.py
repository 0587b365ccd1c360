"""Processes that die: at every step, at random, several drivers at once, one that comes back from the dead."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterable

from promptmill.pipeline.crashpoints import EXIT_CODE
from tests.faults.audit import audit, difference, sample_ids
from tests.faults.bench import PROMPTS, Bench, Output
from tests.faults.forks import Ended
from tests.faults.rows import Row, finish

DRIVER_POINTS = ("driver-after-claim", "driver-before-dispatch", "driver-shard-done", "driver-dispatched")
WORKER_POINTS = ("before-side-objects", "after-rejects", "after-failures", "before-data", "after-data", "after-receipt")
DISK_POINTS = ("temporary-written", "linked")


def crash_at(bench: Bench, place: str, points: Iterable[str], kind: str = "") -> Row:
    """Each point is `name:n`, the n-th pass of it; `*:n` is the n-th pass of any."""
    row = Row(f"crash point{f', {kind}' if kind else ''}, {place}")
    job = {"": bench.job, "from images": bench.image_job, "with conditions": bench.judged_job}[kind]()
    for point in points:
        output = bench.output(place)
        ended = bench.run(job, output, PROMPTMILL_TEST_CRASH=point)
        if ended.code != EXIT_CODE:
            row.check(ended.code == 3 and point.startswith("*"), f"{point} was not reached: {ended.printed[-500:]}")
            return row
        row.times += 1
        finish(row, bench, job, output)
    return row


def kill_at_random(bench: Bench, place: str, kills: int, chance: random.Random) -> Row:
    """SIGKILL after a random part of an undisturbed run's time, again and again; a new output when one is done."""
    row, job = Row(f"driver killed, {place}"), bench.job()
    bench.reference(job)
    began = time.monotonic()
    output = bench.output(place)
    bench.run(job, output)
    whole_s = time.monotonic() - began
    output = bench.output(place)
    while row.times < kills:
        running = bench.start(job, output)
        if running.ends_within(chance.uniform(0, whole_s)):
            row.add(*bench.end_state(job, output))
            output = bench.output(place)
            continue
        running.signal(signal.SIGKILL)
        running.wait()
        row.times += 1
    finish(row, bench, job, output)
    return row


def two_drivers(bench: Bench, place: str) -> Row:
    row, job = Row(f"two drivers at once, {place}", times=1), bench.job()
    output = bench.output(place)
    drivers = [bench.start(job, output) for _ in range(2)]
    for driver in drivers:
        ended = driver.wait()
        row.check(ended.code == 3, f"a driver ended with {ended.code}: {ended.printed[-2000:]}")
    finish(row, bench, job, output)
    return row


def zombie(bench: Bench, place: str, chance: random.Random) -> Row:
    """A driver is stopped in mid-run, another finishes the job, then the first one goes on."""
    row, job = Row(f"driver stopped, replaced, continued, {place}", times=1), bench.job()
    output = bench.output(place)
    first = bench.start(job, output)
    deadline = time.monotonic() + 60
    while not any(key.startswith("rejects/") for key in output.files()) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 0.1))
    first.signal(signal.SIGSTOP)
    second = bench.run(job, output)
    row.check(second.code == 3, f"the replacement ended with {second.code}: {second.printed[-2000:]}")
    first.signal(signal.SIGCONT)
    ended = first.wait()
    row.check(ended.code == 3, f"the first driver ended with {ended.code}: {ended.printed[-2000:]}")
    finish(row, bench, job, output)
    return row


def crash_in_retry(bench: Bench, place: str, passes: Iterable[int]) -> Row:
    """Failed samples are made again by `retry`, which dies at the n-th step and is called again."""
    faulty = {"PROMPTMILL_TEST_FAULTY": "1"}
    row, job = Row(f"crash in retry, {place}"), bench.job(bench.prompts((*PROMPTS[:-1], "green square raise")))
    for n in passes:
        output = bench.output(place)
        bench.run(job, output, **faulty)
        ended = bench.command("retry", output, "--in-process", **faulty, PROMPTMILL_TEST_CRASH=f"*:{n}")
        if ended.code != EXIT_CODE:
            return row
        row.times += 1
        began = time.monotonic()
        again = bench.command("retry", output, "--in-process", **faulty)
        row.check(again.code == 3, f"retry ended with {again.code}: {again.printed[-2000:]}")
        counted, problems = bench.end_state(job, output, **faulty)
        unexpected = [p for p in problems if not p.startswith("too many: ")]
        row.add(counted, unexpected, time.monotonic() - began)
        shards = sum(key.startswith("data/") for key in output.files())
        # Died after its shard was there, the second call is a retry of what failed in the first.
        row.check(shards in (5, 6), f"after the retry there are {shards} shards, not 4 + 1 or 4 + 2")
    return row


def crash_in_curate(bench: Bench, place: str, passes: Iterable[int]) -> Row:
    """A finished dataset is curated by a call that dies at the n-th step and is made again."""
    row, job = Row(f"crash in curate, {place}"), bench.job()
    made = bench.output(place)
    bench.run(job, made)
    options = ("--in-process", "--model", f"local-dir:{bench.models / 'clip'}", "--threshold", "0.9")

    def curate(to: Output, **env: str) -> Ended:
        return bench.command("curate", made, "--to", to.url, *options, **env)

    undisturbed = bench.output(place)
    ended = curate(undisturbed)
    row.check(ended.code == 0, f"curate ended with {ended.code}: {ended.printed[-2000:]}")
    expected = undisturbed.files()
    kept = [audit(files, sample_ids(files)).kept for files in (made.files(), expected)]
    row.check(0 < kept[1] < kept[0], f"of {kept[0]} images {kept[1]} were kept: copies were to be found")
    for n in passes:
        output = bench.output(place)
        ended = curate(output, PROMPTMILL_TEST_CRASH=f"*:{n}")
        if ended.code != EXIT_CODE:
            row.check(ended.code == 0, f"curate ended with {ended.code}: {ended.printed[-2000:]}")
            return row
        row.times += 1
        began = time.monotonic()
        again = curate(output)
        row.check(again.code == 0, f"curate again ended with {again.code}: {again.printed[-2000:]}")
        files = output.files()
        same = files.get("curation/decisions.parquet") == expected["curation/decisions.parquet"]
        row.check(same, f"after a death at step {n} other decisions")
        verified = bench.command("verify", output, "--deep", "--repair")
        row.check(verified.code == 0, f"verify ended with {verified.code}: {verified.printed[-2000:]}")
        files = output.files()
        row.add(audit(files, sample_ids(expected)), difference(files, expected), time.monotonic() - began)
    return row
