"""Storage that stumbles, and storage that stays broken."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.bench import Bench, Output
from tests.faults.rows import Row, finish
from tests.servers.fault import Fault
from tests.servers.proxy import FaultProxy

Break = Callable[[FaultProxy], Fault]

# A PUT whose connection is reset is sent again once by aiohttp: only every second reset in a row is ours to survive.
TRANSIENT: dict[str, Break] = {
    "503 SlowDown": lambda proxy: proxy.slow_down(None, probability=0.2),
    "503 burst": lambda proxy: proxy.unavailable(12),
    "500 once in ten": lambda proxy: proxy.status(500, None, error="InternalError", probability=0.1),
    "reset": lambda proxy: proxy.reset(probability=0.2),
    "reset in mid-upload": lambda proxy: proxy.reset_mid_upload(1500, method="PUT", probability=0.6),
    "lost reply": lambda proxy: proxy.reset_after_request(method="PUT", probability=0.4),
    "409 of a conditional write": lambda proxy: proxy.conflict(None, path=r"/data/", probability=0.5),
    "412 though nothing is there": lambda proxy: proxy.precondition_failed(2, path=r"/data/part-00000[13]"),
    "reply cut short": lambda proxy: proxy.truncate_reply(200, method="GET", probability=0.2),
    "latency": lambda proxy: proxy.latency(0.3, probability=0.3),
}

LASTING: dict[str, tuple[Break, str]] = {
    "503 for ever": (lambda proxy: proxy.unavailable(None), "run the same command again"),
    "token expired": (lambda proxy: proxy.expired_token(None, path="/data/"), "credentials"),
    "bucket read-only": (lambda proxy: proxy.access_denied(None), "credentials"),
    "storage full": (lambda proxy: proxy.no_space(None, path="/data/"), "space"),
    "refused connections": (lambda proxy: proxy.refuse(), "run the same command again"),
}


def through(bench: Bench, proxy: FaultProxy, **env: str) -> tuple[Output, Output]:
    """The same empty output, reached through the proxy and directly."""
    direct = bench.output("s3")
    return Output(direct.url, {**direct.env, **proxy.env(), **env}, direct.server), direct


def survived(bench: Bench, proxy: FaultProxy, kind: str, runs: int = 1) -> Row:
    """Runs through the fault: each finishes by itself, and says that it had to wait."""
    row, job = Row(f"storage: {kind}"), bench.job()
    for _ in range(runs):
        broken, direct = through(bench, proxy)
        before = proxy.injected.total()
        began = time.monotonic()
        with TRANSIENT[kind](proxy):
            ended = bench.run(job, broken)
        row.times += proxy.injected.total() - before
        row.check(ended.code == 3, f"the run ended with {ended.code}: {ended.printed[-2000:]}")
        if kind not in ("latency", "lost reply", "412 though nothing is there"):
            row.check("storage: cannot " in ended.printed, f"no notice: {ended.printed[-2000:]}")
        row.add(*bench.end_state(job, direct), recover_s=time.monotonic() - began)
    row.check(row.times > 0, "no fault was injected")
    return row


def stopped(bench: Bench, proxy: FaultProxy, kind: str) -> Row:
    """Ends with exit code 4 and says where and what to do; nothing cut short is visible; afterwards it goes on."""
    broken_for_good, advice = LASTING[kind]
    row, job = Row(f"storage: {kind}"), bench.job()
    broken, direct = through(bench, proxy, PROMPTMILL_STORAGE_PATIENCE_S="1")
    before = proxy.injected.total()
    with broken_for_good(proxy):
        ended = bench.run(job, broken)
    row.times = proxy.injected.total() - before
    row.check(ended.code == 4, f"exit code {ended.code}, not 4: {ended.printed[-2000:]}")
    row.check(direct.url in ended.printed and advice in ended.printed, f"no advice: {ended.printed[-2000:]}")
    finish(row, bench, job, direct)
    return row


def killed_in_upload(bench: Bench, proxy: FaultProxy, kills: int, chance: random.Random) -> Row:
    """SIGKILL while an upload crawls: what was half sent must not be there."""
    row, job = Row("killed in mid-upload"), bench.job()
    while row.times < kills:
        broken, direct = through(bench, proxy)
        with proxy.bandwidth(4000, method="PUT", path="/(data|rejects)/") as slow:
            running = bench.start(job, broken)
            while slow.injected == 0 and not running.ends_within(0.02):
                pass
            if running.ends_within(chance.uniform(0, 0.5)):
                continue
            running.signal(signal.SIGKILL)
            running.wait()
        row.times += 1
        finish(row, bench, job, direct)
    return row


def disk_full(bench: Bench, folder: Path) -> Row:
    """`folder` lies on a disk that becomes full in mid-run, later has room again."""
    from tests.servers.disk import fill

    row, job = Row("disk full", times=1), bench.job()
    bench.reference(job)
    output = Output(str(folder / "out"))
    filler = fill(folder, leave_bytes=24 << 10)
    ended = bench.run(job, output)
    row.check(ended.code == 4, f"exit code {ended.code}, not 4: {ended.printed[-2000:]}")
    row.check("Free some space" in ended.printed, f"no advice: {ended.printed[-2000:]}")
    filler.unlink()
    finish(row, bench, job, output)
    return row
