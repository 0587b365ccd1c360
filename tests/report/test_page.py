"""The page in a real Chromium, from disk and from a server: it filters, sorts, steps, and asks for nothing outside."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from csv import reader as csv_reader
from pathlib import Path
from xml.etree import ElementTree

import pytest

import promptmill
from promptmill.pipeline.report.build import build_report
from tests.engine.test_inputs import picture
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


def test_what_matters_is_said(opened: Browser) -> None:
    rows = opened.run("return [...document.querySelectorAll('#effects tbody tr')].map((r) => r.cells[0].textContent)")
    assert [name for name in rows if name] == ["guidance_scale", "num_inference_steps"]
    assert opened.run("return document.querySelector('#effects tr.better') !== null")
    titles = opened.run("return [...document.querySelectorAll('#plots figcaption')].map((t) => t.textContent)")
    assert any(title.startswith("Main effects") for title in titles) and any(" by " in title for title in titles)


def test_too_few_prompts_are_never_sure(opened: Browser) -> None:
    said = opened.run(
        """return [verdict([0.5, 0.4, 0.6, 5, 0.001], 'clip', 0.001), verdict([0.5, 0.4, 0.6, 6, 0.001], 'clip', 0.001),
        verdict([0.5, 0.4, 0.6, 6, 0.04], 'clip', 0.2), holm([0.01, null, 0.04, 0.03])];"""
    )
    assert said == ["too few prompts", "better", "unsure among many", [0.03, None, 0.06, 0.06]]


def test_ties_are_told_for_many_settings(opened: Browser) -> None:
    """Above twelve settings the sentence vanished, and eight equal winners were shown as one."""
    said = opened.run(
        """const kept = pm.analysis; const mean = (i) => [i < 8 ? 1 : 0.5, 0.4, 1, 30];
        const gap = (a, b) => { const d = mean(b)[0] - mean(a)[0]; return [d, d - 0.1, d + 0.1, 30, d ? 1e-6 : 1]; };
        const all = [...Array(45).keys()];
        const differences = Object.fromEntries(all.map((a) => [a, all.map((b) => gap(a, b))]));
        const group = { means: all.map(mean), differences };
        pm.analysis = { ...kept, cells: all.map((i) => ({ name: `s${i}` })) };
        const text = sentence(group, ranking(group, 'clip')).textContent; pm.analysis = kept; return text;"""
    )
    assert said.startswith("8 settings share the best mean clip: ")
    assert "7 others cannot be told apart from it with these prompts: s1; s2; s3; s4; and 3 more." in said
    assert "The best mean of 45 is partly luck" in said


def test_tables_plots_and_the_grid_can_be_taken_along(opened: Browser) -> None:
    csv, markdown, latex = opened.run(
        "return Object.values(FORMS).map(([, , write]) => write(rowsOf(document.getElementById('ranked'))))"
    )
    rows = list(csv_reader(csv.splitlines()))
    assert rows[0][1:4] == ["num_inference_steps", "guidance_scale", "clip"] and len(rows) == 5
    assert len({len(row) for row in rows}) == 1
    assert markdown.splitlines()[1].count("---") == len(rows[0]) == latex.splitlines()[2].count(" & ") + 1
    assert "num\\_inference\\_steps" in latex and "\\end{tabular}" in latex
    hostile = opened.run(
        "return [csvCell('=1+1'), csvCell('−0.5'), csvCell('a,b'), latexCell('a_b & 5 %'), fileName('Ünïcode / x')]"
    )
    assert hostile == ["'=1+1", "-0.5", '"a,b"', "a\\_b \\& 5 \\%", "n-code-x"]
    hostile = opened.run(
        "return [csvCell('＝1+1'), latexCell('[a] <b> *|c'), FORMS.Markdown[2]([['a'], ['&lt;$x$~~']])]"
    )
    assert hostile == ["'＝1+1", "{[}a{]} $<$b$>$ {*}$|$c", "| a |\n| --- |\n| \\&lt;\\$x\\$\\~\\~ |\n"]
    odd = """const plot = document.querySelector('#plots svg').cloneNode(true);
        plot.append(document.createElementNS('http://www.w3.org/2000/svg', 'text'));
        plot.lastChild.textContent = 'a\\x1b[31m\\x00'; return svgText(plot)"""
    assert ElementTree.fromstring(opened.run(odd))[-1].text == "a\ufffd[31m\ufffd"
    svg = opened.run("return svgText(document.querySelector('#plots svg'))")
    assert "var(" not in svg and ElementTree.fromstring(svg).tag.endswith("svg")
    opened.wait("[...document.querySelectorAll('#grid img')].length >= 4")
    size = opened.run("const canvas = gridCanvas(); return [canvas.width, canvas.height, canvas.toDataURL().length]")
    assert size[0] == 160 + 2 * 256 and size[1] == 40 + 2 * 256 and size[2] > 5_000
    assert opened.run("return document.querySelectorAll('.copies button').length") > 10


def test_the_address_says_what_is_chosen(opened: Browser, page: Path) -> None:
    choose(opened, "choices", "Compare with", "2")
    choose(opened, "gallery-choices", "Text or id", "circle")
    choose(opened, "gallery-choices", "Setting", "1")
    choose(opened, "grid-choices", "Down", "prompt")
    opened.run("document.getElementById('grid-next').click(); document.querySelector('nav a').click()")
    address, count = opened.run("return [location.href, gallery.shown.length]")
    assert "baseline=2" in address and "text=circle" in address and "down=prompt" in address
    opened.open("about:blank")
    opened.open(address)
    opened.wait(READY)
    found = opened.run("return [chosen.baseline, gallery.shown.length, grid.y, grid.prompt, gallery.filters.cell]")
    assert found == [2, count, "prompt", 1, "1"] and opened.run("return location.href") == address
    opened.open("about:blank")
    for hostile in (
        "metric=gone&baseline=99&down=nothing&setting=77&sort=x&at:y=z&is:w=1",
        "kinds=constructor&x=toString&colour=__proto__&facet=valueOf&across=constructor&down=toString&is:constructor=0",
        "kinds=%ZZ&x=%00&text=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&low=1e999&high=NaN&baseline=-1&prompt=%F0%9F",
    ):
        opened.open("about:blank")
        opened.open(page.as_uri() + "#" + hostile)
        opened.wait(READY)


def test_tiles_say_their_setting(opened: Browser) -> None:
    texts = opened.run("return [...document.querySelectorAll('#gallery .tile .setting')].map((t) => t.textContent)")
    assert texts and all("guidance_scale" in text for text in texts)
    assert opened.run("return document.querySelectorAll('#grid .tile .setting').length") == 0


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
    assert opened.run("return grid.fixed[SEEDS]") == 0, "the same seed everywhere"
    choose(opened, "grid-choices", "Down", "image number")
    assert opened.run("return document.querySelectorAll('#grid .tile').length") == 6
    choose(opened, "grid-choices", "Across", "prompt")
    assert opened.run("return document.querySelectorAll('#grid .tile').length") == 18
    before = opened.run("return document.getElementById('grid-prompt').textContent")
    opened.run("document.getElementById('grid-next').click()")
    assert opened.run("return document.getElementById('grid-prompt').textContent") != before


def test_what_images_were_drawn_from_stands_beside_them(browser: Browser, models: Path, tmp_path: Path) -> None:
    """Two photos, three prompts each, two strengths; the page showed photos in the details alone."""
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        picture(number).save(tmp_path / "photos" / name)
    job = {
        "name": "photos",
        "prompts": {
            "source": str(tmp_path / "photos"),
            "columns": {"image": "file_name"},
            "templates": ["a cat", "a dog", "a fox"],
        },
        "model": {"path": str(models / "sd")},
        "generation": {"num_inference_steps": 2},
        "sweep": {"strength": [0.5, 1.0]},
        "output": {"url": str(tmp_path / "out")},
    }
    promptmill.run(job, in_process=True)
    browser.open((tmp_path / "out/report/index.html").as_uri())
    browser.wait(READY)
    shown = "return [...document.querySelectorAll('#grid tr')].map((row) => [...row.children].map((cell) => %s))"
    kind = "cell.querySelector('.given img, .given .picture') || cell.matches('.given') ? 'in' : cell.tagName"
    browser.wait("document.querySelectorAll('#grid .given img').length")
    rows = browser.run(shown % kind)
    assert rows[0] == ["TH"] * 4 and rows[1] == ["TH", "in", "TD", "TD"] and len(rows) == 1 + 6
    assert browser.run(shown % "cell.textContent")[0] == ["prompt ↓ strength →", "image", "0.5", "1"]
    choose(browser, "grid-choices", "Down", "")
    assert browser.run(shown % kind) == [["TH", "TH", "TH"], ["in", "TD", "TD"]]
    choose(browser, "grid-choices", "Down", "strength")
    choose(browser, "grid-choices", "Across", "prompt")
    rows = browser.run(shown % kind)
    assert rows[1] == ["TH", *["in"] * 6] and rows[2] == ["TH", *["TD"] * 6]
    assert list(browser.run("return pm.analysis.facets")) == ["prompt"]  # and not where the photos lie


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


def test_a_page_without_its_folders_says_why(browser: Browser, page: Path, tmp_path: Path) -> None:
    """As from private object storage, where a signed link opens one object."""
    (tmp_path / "index.html").write_bytes(page.read_bytes())
    browser.open((tmp_path / "index.html").as_uri())
    browser.wait("getComputedStyle(document.getElementById('missing')).visibility === 'visible'")
    assert "promptmill report --single-file" in browser.run("return document.getElementById('missing').innerText")
    browser.console()


def test_a_single_file_needs_nothing_beside_it(browser: Browser, painted: Dataset, tmp_path: Path) -> None:
    build_report(painted.plan, painted.store, single_file=True)
    (tmp_path / "one.html").write_bytes((painted.folder / "report/single-file.html").read_bytes())
    browser.open("about:blank")
    browser.requests(), browser.console()
    browser.open((tmp_path / "one.html").as_uri())
    browser.wait(READY)
    browser.wait("document.querySelector('#gallery .tile img')?.naturalWidth > 0")
    assert browser.console() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [(tmp_path / "one.html").as_uri()]


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
