"""Rules and board against what a run exports, asked of a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptmill.pipeline.execution.budget import Budget
from promptmill.pipeline.execution.exporter import Exporter
from promptmill.schemas.compute import Compute
from promptmill.schemas.metrics import METRICS
from tests.engine.test_metered import counted_run
from tests.heart.mill import memory
from tests.infra.places import INFRA

FOLDER = INFRA / "monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
BOARD = json.loads((FOLDER / "grafana.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in BOARD["panels"] for target in panel["targets"]]
WANTED = ("prometheus", "promtool")

needs_prometheus = pytest.mark.skipif(not all(map(shutil.which, WANTED)), reason="needs Debian's package prometheus")


def test_queries_name_what_is_exported() -> None:
    known = {metric.name for metric in METRICS}
    used: set[str] = set()
    for text in [query for _, query in QUERIES] + [rule["expr"] for rule in RULES]:
        used |= set(re.findall(r"(?<![:\w])promptmill_\w+", text))
    assert used == known
    labels = {label for metric in METRICS for label in metric.labels} | {"dataset"}
    for text in [query for _, query in QUERIES] + [rule["expr"] for rule in RULES]:
        assert {each.strip() for by in re.findall(r"(?:by|on) \(([^)]*)\)", text) for each in by.split(",")} <= labels


def test_every_alert_has_its_page_in_the_runbook() -> None:
    headings = re.findall(r"^## (.*)$", (INFRA / "RUNBOOK.md").read_text(), re.M)
    for rule in RULES:
        if "alert" in rule:
            for part in rule["annotations"]["runbook"].removeprefix("infra/RUNBOOK.md: ").split("; "):
                assert any(heading.startswith(part) for heading in headings), part


@needs_prometheus
@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules rules.yml", "test rules rules.test.yml"]
)
def test_promtool(command: str) -> None:
    ended = subprocess.run(["promtool", *command.split()], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_prometheus
def test_every_alert_is_tried() -> None:
    tried = (FOLDER / "rules.test.yml").read_text()
    for name in (rule["alert"] for rule in RULES if "alert" in rule):
        assert tried.count(f"alertname: {name}") >= 2, name  # where it comes, and where it does not


Ask = Callable[[str], list[dict[str, Any]]]


def prometheus(folder: Path, targets: list[str], started: list[Any], **changes: Any) -> Ask:
    """The shipped configuration, with other targets and every second."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
    config["scrape_configs"][1]["static_configs"] = []
    config["scrape_configs"][2].update(changes)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    started.append(
        subprocess.Popen(
            ["prometheus", *options, f"--web.listen-address={address}", "--log.level=error"], stdin=subprocess.DEVNULL
        )
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(query: str) -> list[dict[str, Any]]:
        url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with opener.open(url, timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code < 500:  # it is there, and does not take the query
                raise ValueError(f"{query}: {error.read().decode()}") from None
            return []
        except OSError:
            return []
        return found

    return ask


def eventually(ask: Ask, query: str, seconds: float = 30) -> list[dict[str, Any]]:
    end = time.monotonic() + seconds
    while not (found := ask(query)):
        assert time.monotonic() < end, f"no series: {query}"
        time.sleep(0.3)
    return found


@pytest.fixture
def started() -> Iterator[list[Any]]:
    processes: list[Any] = []
    yield processes
    for process in processes:
        process.terminate()
        process.wait(20)


@needs_prometheus
@pytest.mark.slow
def test_a_prometheus_scrapes_a_run_and_every_panel_has_a_series(tmp_path: Path, started: list[Any]) -> None:
    exporter = Exporter("small")
    port = exporter.serve("0")
    ask = prometheus(tmp_path, [f"127.0.0.1:{port}"], started)
    eventually(ask, "promptmill_samples_total == 0")
    exporter.add("promptmill_rejected_total", 1, reason="below_min")
    counted_run(tmp_path, exporter, memory(), Budget(Compute(price_per_hour=1.0, max_cost=1e-12)))
    eventually(ask, 'promptmill_samples_total{state="kept"} > 0')
    for _, query in QUERIES:
        eventually(ask, query.replace("$dataset", ".*").replace("$__rate_interval", "30s"))
    for rule in RULES:
        ask(rule["expr"])  # most of them have nothing to tell of a run that goes well
    with pytest.raises(ValueError, match="parse error"):
        ask(f"{RULES[0]['expr']} >")
    (alert,) = eventually(ask, 'ALERTS{alertstate="firing"}')
    assert alert["metric"]["alertname"] == "PromptmillOverBudget"
    assert ask('increase(promptmill_samples_total{state="kept"}[1m])')[0]["value"][1] != "0"
    exporter.close(print)
