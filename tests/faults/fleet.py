"""What happens to workers, nodes and calls on Ray, and prompts that break their worker."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

from tests.faults.audit import failures
from tests.faults.bench import WORDS, Bench, Output
from tests.faults.cluster import Fleet
from tests.faults.forks import Ended, Fork
from tests.faults.rows import Row

MANY = tuple(f"{one} and {other}" for one in WORDS for other in WORDS)


def long_job(bench: Bench) -> Path:
    """18 shards."""
    return bench.job(bench.prompts(MANY))


def count(row: Row, bench: Bench, fleet: Fleet, job: Path, output: Output, ended: Ended, began: float) -> None:
    row.check(ended.code in (0, 3), f"the run ended with {ended.code}: {ended.printed[-3000:]}")
    check_told(row, fleet, ended)
    row.add(*bench.end_state(job, output), recover_s=time.monotonic() - began)


def check_told(row: Row, fleet: Fleet, ended: Ended) -> None:
    """Each worker that is counted as lost has its line."""
    told, counted = ended.printed.count("lost a worker"), fleet.workers_lost()
    row.check(told == counted, f"{told} lines, and {counted} lost workers: {ended.printed[-3000:]}")


def workers_killed(bench: Bench, fleet: Fleet, place: str, kills: int, chance: random.Random) -> Row:
    """SIGKILL to one worker every 0.5–2 s; where a job is done before there were enough, in another of the same."""
    row, job = Row(f"Ray worker killed, {place}"), long_job(bench)
    while row.times < kills:
        output, began = bench.output(place), time.monotonic()
        running = bench.start(job, output, *fleet.options(), **fleet.env())
        while row.times < kills and not running.ends_within(chance.uniform(0.5, 2)):
            workers = fleet.workers()
            if workers:
                chance.choice(workers).kill()
                row.times += 1
                began = time.monotonic()
        count(row, bench, fleet, job, output, running.wait(), began)
    return row


def driver_killed(bench: Bench, fleet: Fleet, place: str, kills: int, chance: random.Random) -> Row:
    row, job = Row(f"Ray driver killed, {place}"), long_job(bench)
    output = bench.output(place)
    while row.times < kills:
        done = sum(key.startswith("data/") for key in output.files())
        running = bench.start(job, output, *fleet.options(), **fleet.env())
        wait_for_shards(output, running, done + chance.randint(1, 4))
        if running.ends_within(0):
            break
        running.signal(signal.SIGKILL)
        running.wait()
        row.times += 1
    began = time.monotonic()
    count(row, bench, fleet, job, output, bench.run(job, output, *fleet.options(), **fleet.env()), began)
    return row


def node_lost(bench: Bench, fleet: Fleet, place: str, drain: bool = False) -> Row:
    """One of two nodes goes in mid-run, with or without notice; another one comes."""
    row, job = Row(f"Ray node {'drained' if drain else 'lost'}, another added, {place}", times=1), long_job(bench)
    output = bench.output(place)
    running = bench.start(job, output, *fleet.options(), **fleet.env())
    wait_for_shards(output, running, 2)
    began = time.monotonic()
    node = fleet.nodes[0]
    if drain:
        fleet.drain_node(node, 20)
        fleet.add_node()
        count(row, bench, fleet, job, output, running.wait(), began)
        fleet.remove_node(node)
        return row
    fleet.remove_node(node)
    fleet.add_node()
    count(row, bench, fleet, job, output, running.wait(), began)
    return row


LOST_CALLS = 12


def calls_lost(bench: Bench, fleet: Fleet) -> Row:
    """Ray itself drops requests that hand a shard to a worker, and their replies."""
    row, job = Row("Ray call lost", times=LOST_CALLS), long_job(bench)
    output, began = bench.output(), time.monotonic()
    each = {"num_failures": LOST_CALLS, "req_failure_prob": 20, "resp_failure_prob": 20, "in_flight_failure_prob": 0}
    chaos = json.dumps({"CoreWorkerService.grpc_client.PushTask": each})
    env = fleet.env(RAY_testing_rpc_failure=chaos, RAY_testing_rpc_failure_avoid_intra_node_failures="0")
    ended = bench.run(job, output, *fleet.options(), **env)
    count(row, bench, fleet, job, output, ended, began)
    return row


def wait_for_shards(output: Output, running: Fork, shards: int) -> None:
    while sum(key.startswith("data/") for key in output.files()) < shards and not running.ends_within(0.1):
        pass


def device_left_out(bench: Bench, fleet: Fleet) -> Row:
    """One of two GPUs breaks every process that uses it: after two losses nothing is given to it any more.

    The other is slow, so that there is work left when the first one's second worker has started.
    """
    texts = [f"{text} slow" for text in MANY]
    job = bench.job(bench.prompts(texts), compute={"gpus_per_worker": 1.0})
    row, output, began = Row("GPU lost, twice"), bench.output(), time.monotonic()
    ended = bench.run(job, output, *fleet.options(), **fleet.env(PROMPTMILL_TEST_FAULTY="gpu:0"))
    row.times = ended.printed.count("is lost to its process")
    told = [(lost["name"], lost["address"], lost["cause"]) for lost in ended.json["left_out"]]
    good = len(told) == 1 and "lost twice" in told[0][2] and not told[0][1].startswith("unknown")
    row.check(good and "left out from now on: " in ended.printed, f"not left out: {ended.printed[-2000:]}")
    count(row, bench, fleet, job, output, ended, began)
    return row


BAD_PROMPTS = {
    "segfault": ("segfault", "crash"),
    "hang": ("hang", "hang"),
    "device": ("device", "crash"),
    "raise": ("raise", "generation"),
    "out of memory above a batch of 2": ("memory", None),
}


def bad_prompt(bench: Bench, fleet: Fleet, word: str, kind: str | None) -> Row:
    """One prompt of eight breaks whoever draws it: its two samples fail, all others are as they always were."""
    texts = list(WORDS)
    texts[2] = f"{texts[2]} {word}"
    changes = {"generation": {"images_per_prompt": 2}, "compute": {"step_timeout_s": 3.0, "max_attempts": 2}}
    job = bench.job(bench.prompts(texts), select=None, **changes)
    row, output, began = Row(f"prompt: {word}", times=1), bench.output(), time.monotonic()
    running = bench.start(job, output, *fleet.options(), **fleet.env(PROMPTMILL_TEST_FAULTY="1"))
    ended = running.wait()
    row.check(ended.code == (3 if kind else 0), f"the run ended with {ended.code}: {ended.printed[-3000:]}")
    counted, problems = bench.end_state(job, output)
    row.add(counted, [p for p in problems if p.startswith("verify")], time.monotonic() - began)
    rows = failures(output.files())
    found = sorted((row["prompt"], row["error_kind"]) for row in rows)
    row.check(found == ([(texts[2], kind)] * 2 if kind else []), f"failures: {found}")
    receipts = [json.loads(content) for key, content in output.files().items() if key.startswith("receipts/")]
    tries = max(receipt["attempts"] for receipt in receipts)
    row.check((tries > 1) == (kind in ("crash", "hang")), f"receipts say {tries} tries at most")
    return row
