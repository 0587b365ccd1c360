"""The page in a real Chromium, from disk and from a server: it filters, sorts, steps, and asks for nothing outside."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptmill.pipeline.report.build import build_report
from tests.report.browser import CHROMIUM, DRIVER, Browser
from tests.report.conftest import Dataset

pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver")

READY = "document.documentElement.dataset.ready"
RIGHT, DOWN, ESCAPE, ENTER = "\ue014", "\ue015", "\ue00c", "\ue007"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.size(1400, 1000)
        yield browser


@pytest.fixture(scope="module")
def page(painted: Dataset) -> Path:
    build_report(painted.plan, painted.store, price_per_hour=2.0)
    return painted.folder / "report/index.html"


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    browser.open("about:blank")
    browser.requests(), browser.console()
    browser.open(page.as_uri())
    browser.wait(READY)
    yield browser
    assert browser.console() == []
    assert [url for url in browser.requests() if not url.startswith((page.parent.as_uri(), "data:"))] == []


def choose(browser: Browser, group: str, label: str, value: str) -> None:
    browser.run(
        f"""const boxes = [...document.querySelectorAll('#{group} label')];
        const box = boxes.find((each) => each.textContent.startsWith({json.dumps(label)}));
        const field = box.querySelector('select, input'); field.value = {json.dumps(value)};
        field.dispatchEvent(new Event(field.tagName === 'SELECT' ? 'change' : 'input', {{bubbles: true}}));"""
    )


def test_opens_with_the_answer(opened: Browser) -> None:
    answer = opened.run("return document.querySelector('.answer').textContent")
    assert answer.startswith("guidance_scale 5.0 · num_inference_steps 20 has the best mean clip")
    rows = opened.run("return [...document.querySelectorAll('#ranked tbody tr')].map((r) => r.className)")
    assert rows == ["better", "better", "better", "baseline"]
    assert opened.run("return document.querySelectorAll('#plots svg').length") >= 4
    kinds = opened.run("return [...document.querySelectorAll('.kinds tbody th')].map((t) => t.textContent)")
    assert {"colour", "relation", "hostile"} <= set(kinds)


def test_baseline_can_be_chosen(opened: Browser) -> None:
    choose(opened, "choices", "Compare with", "3")
    rows = opened.run("return [...document.querySelectorAll('#ranked tbody tr')].map((r) => r.className)")
    assert rows == ["baseline", "worse", "worse", "worse"]


def test_gallery_filters_and_sorts(opened: Browser) -> None:
    total = opened.run("return pm.samples.length")
    choose(opened, "gallery-choices", "Status", "0")
    kept = opened.run("return gallery.shown.length")
    assert 0 < kept < total and opened.run("return gallery.shown.every((s) => s.status === 0)")
    choose(opened, "gallery-choices", "Text or id", "circle")
    assert 0 < opened.run("return gallery.shown.length") < kept
    choose(opened, "gallery-choices", "from", "0.3")
    assert opened.run(
        "return gallery.shown.every((s) => s.scores.clip >= 0.3 && pm.prompts[s.prompt].text.includes('circle'))"
    )
    choose(opened, "gallery-choices", "Sort by", "+clip")
    scores = opened.run("return gallery.shown.map((s) => s.scores.clip)")
    assert scores == sorted(scores) and scores
    choose(opened, "gallery-choices", "Text or id", "no such prompt")
    assert opened.run("return document.querySelectorAll('#gallery .tile').length") == 0


def test_gallery_is_virtual(opened: Browser) -> None:
    assert opened.run("return document.querySelectorAll('#gallery .tile').length") < 100
    opened.run("document.getElementById('gallery').scrollTop = 1e9")
    opened.wait("document.querySelector('#gallery .tile[data-place=\"' + (gallery.shown.length - 1) + '\"]')")
    assert opened.run("return document.querySelectorAll('#gallery .tile').length") < 100
    opened.wait(
        "[...document.querySelectorAll('#gallery .tile.kept img')].every((i) => i.complete && i.naturalWidth > 0)"
    )


def test_keyboard_opens_a_sample_and_steps(opened: Browser) -> None:
    opened.run("document.querySelector('#gallery .tile[data-place=\"0\"]').focus()")
    opened.press(RIGHT)
    assert opened.run("return document.activeElement.dataset.place") == "1"
    opened.press(DOWN)
    assert int(opened.run("return document.activeElement.dataset.place")) > 1
    opened.press(ENTER)
    opened.wait("document.getElementById('detail').open")
    first = opened.run("return detail.sample.id")
    command = opened.run("return document.querySelector('#detail .command code').textContent")
    assert command.startswith("promptmill reproduce ") and command.endswith(first)
    names = opened.run("return [...document.querySelectorAll('#detail dt')].map((t) => t.textContent)")
    assert {"status", "clip", "scheduler", "guidance_scale", "seed", "category", "sample id"} <= set(names)
    opened.press(RIGHT)
    assert opened.run("return detail.sample.id") != first
    assert opened.run("return document.querySelectorAll('#detail .strip .tile').length") >= 3
    opened.press(ESCAPE)
    opened.wait("!document.getElementById('detail').open")


def test_grid_axes_are_chosen_on_the_page(opened: Browser) -> None:
    assert opened.run("return document.querySelectorAll('#grid .tile').length") == 4
    choose(opened, "grid-choices", "Down", "image number")
    assert opened.run("return document.querySelectorAll('#grid .tile').length") == 6
    before = opened.run("return document.getElementById('grid-prompt').textContent")
    opened.run("document.getElementById('grid-next').click()")
    assert opened.run("return document.getElementById('grid-prompt').textContent") != before


def test_prompts_cannot_inject(opened: Browser) -> None:
    choose(opened, "gallery-choices", "Text or id", "<script>")
    assert opened.run("return gallery.shown.length") == 12
    opened.run("document.querySelector('#gallery .tile').click(); findPrompt('<script>')")
    assert "<script>" in opened.run("return document.querySelector('#detail .prompt').textContent")
    assert "<script>" in opened.run("return document.getElementById('grid-prompt').textContent")
    assert opened.run("return document.querySelectorAll('main script, dialog script, header b').length") == 0


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_fits_the_screen_in_both_colours(opened: Browser, width: int, dark: bool) -> None:
    opened.size(width, 900)
    opened.dark(dark)
    try:
        assert opened.run("return document.documentElement.scrollWidth <= innerWidth + 1")
        colour = opened.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in colour[4:-1].split(",")) < 384) == dark
    finally:
        opened.size(1400, 1000)
        opened.dark(False)


def test_from_a_server(browser: Browser, page: Path) -> None:
    handler = functools.partial(QuietHandler, directory=str(page.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.requests(), browser.console()
        root = f"http://127.0.0.1:{server.server_port}/"
        browser.open(root + "index.html")
        browser.wait(READY)
        browser.wait("document.querySelector('#gallery .tile img')")
        assert [url for url in browser.requests() if not url.startswith((root, "data:", page.parent.as_uri()))] == []
        assert browser.console() == []
        browser.open("about:blank")
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_empty_and_unscored_pages_open(browser: Browser, claimed: Callable[..., Dataset]) -> None:
    empty = claimed()
    build_report(empty.plan, empty.store)
    browser.console()
    browser.open((empty.folder / "report/index.html").as_uri())
    browser.wait(READY)
    assert "Nothing has been made yet" in browser.run("return document.body.innerText")
    assert browser.console() == []
