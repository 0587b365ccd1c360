"""`promptmill watch` over a dataset that is being made: in a real browser, and against those who should see nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from promptmill.jobs.schema import events_schema
from promptmill.jobs.watch import watch_token
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.execution.heartbeat import KEY
from promptmill.pipeline.live.server import Feed, serve
from promptmill.pipeline.live.viewer import Viewer
from promptmill.pipeline.report.build import build_report
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, StorageError
from promptmill.schemas.plan import Shard
from tests.engine.conftest import Answer
from tests.heart.mill import TintContext, memory, process_shard, run_small, small_plan
from tests.report.browser import CHROMIUM, DRIVER, Browser

HOSTILE = "<img src=x onerror=alert(1)> \"quotes' </script> \u202eback"
PROMPTS = [HOSTILE, "a blue square", "", "a green star", "nsfw", "a yellow circle"]
Cli = Callable[..., Answer]


@pytest.fixture
def serving() -> Iterator[Callable[..., int]]:
    """Serves in a thread; the port."""
    stop, threads = threading.Event(), []

    def start(store: Store, plan: Any, token: str | None = None, host: str = "127.0.0.1", **options: Any) -> int:
        ready, ports = threading.Event(), []

        def told(port: int) -> None:
            ports.append(port)
            ready.set()

        viewer = Viewer(plan, store, options.pop("price", None))
        arguments = (viewer, store, host, 0, token, told, stop, 0.1)
        threads.append(threading.Thread(target=serve, args=arguments, daemon=True))
        threads[-1].start()
        assert ready.wait(20)
        return ports[0]

    yield start
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def ask(port: int, path: str, host: str = "127.0.0.1") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    return connection.getresponse()


def beat(store: Store, **changes: Any) -> None:
    now = time.time()
    content = {"state": "running", "host": "gpu-7", "process": 1, "began": now - 60, "beat": now, "workers": 2}
    store.put(KEY, json.dumps({**content, "images_per_second": 1.5, "eta_s": 90, **changes}).encode())


def make(plan: Any, store: Store, shards: list[Shard]) -> None:
    context = TintContext(plan, store, "gpu-7:11")
    context.broken = ["star"]
    for shard in shards:
        process_shard(shard, context)
    context.close()


def test_a_look_says_what_is_there(tmp_path: Path) -> None:
    store = memory()
    options = {"select": {"keep": 1}, "output": {"keep_rejected_images": True}}
    plan = claim_output(small_plan(tmp_path, PROMPTS, **options), store)
    viewer, shards = Viewer(plan, store, 3.6), list(plan.all_shards())
    first = viewer.look()
    assert (first.state, first.shards_done, first.nodes, first.complete) == ("none", 0, [], False)
    beat(store, samples_done=3)
    make(plan, store, shards[:1])
    second = viewer.look()
    assert (second.state, second.host, second.workers, second.samples_done) == ("running", "gpu-7", 2, 4)
    assert [(node.node, node.workers, node.shards) for node in second.nodes] == [("gpu-7", 1, 1)]
    assert second.cost is not None and second.cost > 0
    kept = viewer.pictures.kept
    assert kept and all((each.image or "").startswith("data:image/webp;base64,") for each in kept)
    assert "\u202e" not in kept[0].prompt and "onerror" in kept[0].prompt and kept[0].note.startswith("clip ")
    assert {each.note for each in viewer.pictures.rejected} == {"not_selected"} and viewer.pictures.rejected[0].image
    make(plan, store, shards[1:])
    beat(store, state="stopped")
    third = viewer.look()
    assert third.complete and third.state == "stopped" and third.report == ""
    assert third.kept + third.rejected + third.failed == third.samples == plan.samples
    assert sum(third.failed_by_kind.values()) == third.failed == 4
    assert sum(third.rejected_by_reason.values()) == third.rejected
    assert {each.kind for each in third.failures} == {"empty_prompt", "generation"}
    schema = json.loads(events_schema())
    for name, content in (("view", third), ("pictures", viewer.pictures)):
        jsonschema.validate(asdict(content), {"$defs": schema["$defs"], **schema["properties"][name]})
    assert replace(viewer.look(), nodes=[]) == replace(third, nodes=[])  # they say how long they have been silent


def test_each_object_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()
    viewer = Viewer(run_small(tmp_path, store), store)
    viewer.look()
    opened: list[str] = []
    for name in ("open", "read_if_exists"):
        before = getattr(store, name)
        monkeypatch.setattr(
            store, name, lambda key, *a, _before=before, **k: (opened.append(key), _before(key, *a, **k))[1]
        )
    viewer.look()
    assert {key for key in opened if key.startswith(("data", "receipts", "failures", "rejects"))} == set()


def test_a_store_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()
    viewer = Viewer(run_small(tmp_path, store), store)
    seen = viewer.look()

    def refuse(*_: object) -> None:
        raise StorageError("no\x1b[31m answer")

    monkeypatch.setattr(store, "list", refuse)
    now = viewer.look()
    assert now.kept == seen.kept and now.problem == "no\\x1b[31m answer"
    with pytest.raises(StorageError):
        Viewer(small_plan(tmp_path), store).look()


def test_the_report_is_read_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()
    plan = run_small(tmp_path, store)
    viewer, reads, read = Viewer(plan, store), [], Store.read_if_exists

    def counted(self: Store, key: str, *rest: Any) -> bytes | None:
        reads.append(key)
        return read(self, key, *rest)

    monkeypatch.setattr(Store, "read_if_exists", counted)
    costs: list[float] = []
    for price in (2.0, 30.0):
        build_report(plan, store, price_per_hour=price)
        reads.clear()
        seen = [viewer.look().cost for _ in range(3)]
        assert len(set(seen)) == 1 and reads.count("report/summary.json") == 1
        costs.append(seen[0] or 0.0)
    assert costs[1] == pytest.approx(15 * costs[0]) and costs[0] > 0
    told = store.read("report/summary.json")
    assert told.count(b'"price_per_hour": 30.0') == 1
    store.put("report/summary.json", told.replace(b'"price_per_hour": 30.0', b'"price_per_hour": 60.0'))
    assert viewer.look().cost == pytest.approx(30 * costs[0]), "a report of the same length is another one"


def test_a_dataset_that_is_broken_while_it_is_watched(tmp_path: Path) -> None:
    store = memory()
    viewer = Viewer(run_small(tmp_path, store), store)
    seen, whole = viewer.look(), store.read("job.json")
    store.put("job.json", b"{")
    now = viewer.look()
    assert now.kept == seen.kept and "job.json" in (now.problem or "")
    feed = Feed(Viewer(small_plan(tmp_path), store))
    assert "job.json" in asyncio.run(first_event(feed))
    store.put("job.json", whole)
    assert not viewer.look().problem and '"problem"' in asyncio.run(first_event(feed))


async def first_event(feed: Feed) -> str:
    await feed.look()
    return await anext(feed.events())


def test_a_slow_client_misses_nothing(tmp_path: Path) -> None:
    """What came while an event was on its way counted as told."""
    store = memory()
    plan = claim_output(small_plan(tmp_path, PROMPTS), store)
    feed = Feed(Viewer(plan, store))

    async def watched() -> list[str]:
        await feed.look()
        events = feed.events()
        told = [await anext(events)]
        make(plan, store, list(plan.all_shards()))
        await feed.look()
        return told + [await asyncio.wait_for(anext(events), 10) for _ in range(2)]

    first, pictures, second = asyncio.run(watched())
    assert first.startswith("event: view") and pictures.startswith("event: pictures")
    assert '"complete": false' in first and '"complete": true' in second


def test_only_this_machine_and_only_what_it_shows(tmp_path: Path, serving: Callable[..., int]) -> None:
    store = memory()
    plan = run_small(tmp_path, store)
    store.put("report/index.html", b"<p>report")
    store.put("report/secret.txt", b"no kind of ours")
    port = serving(store, plan)
    page = ask(port, "/")
    assert page.status == 200 and "default-src 'none'" in (page.headers["Content-Security-Policy"] or "")
    assert ask(port, "/", "evil.example").status == 403  # DNS rebinding
    report = ask(port, "/report/index.html")
    assert report.status == 200 and report.headers["Content-Security-Policy"].startswith("sandbox ")
    for path in ("/report/../job.json", "/report/%2e%2e/job.json", "/report/..%2fjob.json", "/report/secret.txt"):
        assert ask(port, path).status == 404, path
    for path in ("/job.json", "/data/part-000000.parquet", "/live.py", "/x/"):
        assert ask(port, path).status == 404, path


def test_a_token_for_others(tmp_path: Path, serving: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()
    token = watch_token(is_local=False)
    assert token is not None and len(token) >= 32 and watch_token(is_local=True) is None
    port = serving(store, run_small(tmp_path, store), token)
    for path in ("/", "/events", "/wrong/", f"/{token[:-1]}x/", f"/{token}x/events", "/live.js"):
        assert ask(port, path, "gpu-7.example").status in (403, 404), path
    assert ask(port, f"/{token}/", "gpu-7.example").status == 200
    events = ask(port, f"/{token}/events", "gpu-7.example")
    assert events.headers["Content-Type"].startswith("text/event-stream")
    events.close()
    monkeypatch.setenv("PROMPTMILL_WATCH_TOKEN", "short")
    with pytest.raises(JobError, match="PROMPTMILL_WATCH_TOKEN"):
        watch_token(is_local=False)
    monkeypatch.setenv("PROMPTMILL_WATCH_TOKEN", "a-long-enough-token")
    assert watch_token(is_local=True) == "a-long-enough-token"


def test_what_cannot_be_watched(cli: Cli, tmp_path: Path, serving: Callable[..., int]) -> None:
    assert cli("watch", tmp_path / "none").code == 2
    store = Store(str(tmp_path / "out"))
    port = serving(store, run_small(tmp_path / "a", store))
    answer = cli("watch", tmp_path / "out", "--port", port)
    assert answer.code == 2 and "--port" in answer.err
    assert cli("watch", tmp_path / "out", "--price-per-hour", "nan").code == 2


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver")
def test_in_a_browser(tmp_path: Path, serving: Callable[..., int]) -> None:
    """It fills while the run goes on, shows hostile prompts as text, and ends with the report."""
    store = Store(str(tmp_path / "out"))
    plan = claim_output(small_plan(tmp_path / "prompts", PROMPTS, select={"keep": 1}), store)
    shards = list(plan.all_shards())
    beat(store, samples_done=1)
    port = serving(store, plan, "a-token-of-the-test", price=2.0)
    with Browser(tmp_path / "profile") as browser:
        browser.open("about:blank")
        browser.requests(), browser.console()
        browser.open(f"http://127.0.0.1:{port}/a-token-of-the-test/")
        browser.wait("document.getElementById('state').textContent === 'running'")
        make(plan, store, shards[:1])
        browser.wait("document.querySelector('#kept img')?.naturalWidth > 0")
        assert HOSTILE[:20] in browser.run("return document.querySelector('#kept').textContent")
        assert browser.run("return document.querySelectorAll('[onerror]').length") == 0
        make(plan, store, shards[1:])
        browser.wait("document.querySelectorAll('#failures tr').length === 4")
        facts = browser.run("return document.getElementById('facts').textContent")
        assert "samples" in facts and "cost so far" in facts
        assert "gpu-7" in browser.run("return document.getElementById('nodes').textContent")
        build_report(plan, store)
        beat(store, state="stopped")
        browser.wait("document.getElementById('state').textContent === 'complete'")
        browser.wait("document.querySelector('#report iframe')")
        assert browser.run("return document.querySelector('#report iframe').contentDocument") is None  # it runs apart
        assert [url for url in browser.requests() if not url.startswith((f"http://127.0.0.1:{port}/", "data:"))] == []
        browser.enter_frame(0)
        browser.wait("document.documentElement.dataset.ready")
        assert browser.console() == []
