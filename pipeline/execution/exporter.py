"""Metrics of this process for Prometheus: over HTTP while the run lives, and in a file that stays when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from promptmill.pipeline.display import shown
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.metrics import METRICS

_WRITE_EVERY_S: Final = 15.0
_ENDING: Final = ".prom"
_SUCCESS: Final = "promptmill_last_success_timestamp_seconds"
LOOPBACK: Final = "127.0.0.1"


class Exporter:
    """A meter (`metered.py`). Counters whose labels are known are there from the start, at 0: a rate needs what came
    before. Others, and gauges, come with their first value."""

    def __init__(self, dataset: str) -> None:
        self.registry = CollectorRegistry()
        self._dataset = shown(dataset)
        self._families = {
            metric.name: (Counter if metric.kind == "counter" else Gauge)(
                metric.name, metric.meaning, ("dataset", *metric.labels), registry=self.registry
            )
            for metric in METRICS
        }
        self._file: Path | None = None
        self._next_write = 0.0
        self._closing = ExitStack()
        for metric in METRICS:
            if metric.kind == "counter" and not metric.labels:
                self.add(metric.name, 0)
        for state in ("kept", "rejected", "failed"):
            self.add("promptmill_samples_total", 0, state=state)

    def add(self, name: str, amount: float, **labels: str) -> None:
        self._families[name].labels(dataset=self._dataset, **labels).inc(amount)
        self._write_now_and_then()

    def set(self, name: str, value: float) -> None:
        family = self._families[name]
        assert isinstance(family, Gauge)
        family.labels(dataset=self._dataset).set(value)

    def serve(self, address: str) -> int:
        """At `PORT` of this machine alone, or at `HOST:PORT`; 0 takes a free one, which is returned.

        Raises JobError where that is no address, or it is taken.
        """
        host, _, port = address.rpartition(":")
        where = f"--metrics-port {shown(address)}"
        if not port.isdecimal() or int(port) >= 1 << 16:
            raise JobError(Problem(where, "PORT or HOST:PORT", shown(address), "For example --metrics-port 9464"))
        try:
            server, thread = start_http_server(int(port), host.strip("[]") or LOOPBACK, self.registry)
        except OSError as error:
            raise JobError(Problem(where, "a free port of this machine", str(error), "Give another one")) from None
        self._closing.callback(server.server_close)
        self._closing.callback(server.shutdown)
        return int(server.server_port)

    def write_to(self, file: Path) -> None:
        """Now and then, and at the end, for node_exporter's textfile collector. Raises JobError where it cannot be."""
        where = f"--metrics-file {shown(file)}"
        if file.suffix != _ENDING:
            hint = "node_exporter's textfile collector reads no other"
            raise JobError(Problem(where, f"a name that ends in {_ENDING}", shown(file.name), hint))
        self._file = file
        try:
            if (before := _value_in(file, _SUCCESS, self._dataset)) is not None:
                self.set(_SUCCESS, before)
            self._write()
        except OSError as error:
            raise JobError(Problem(where, "a file that can be written", str(error))) from None

    def close(self, on_fault: Callable[[str], None]) -> None:
        """What was not written is told: a full disk is no reason to end a run."""
        try:
            if self._file is not None:
                self._write()
        except OSError as error:
            on_fault(f"--metrics-file {self._file}: {error}")
        self._closing.close()

    def _write_now_and_then(self) -> None:
        if self._file is not None and time.monotonic() >= self._next_write:
            try:
                self._write()
            except OSError:  # the last one tells it
                self._next_write = time.monotonic() + _WRITE_EVERY_S

    def _write(self) -> None:
        self._next_write = time.monotonic() + _WRITE_EVERY_S
        write_to_textfile(str(self._file), self.registry)


def _value_in(file: Path, name: str, dataset: str) -> float | None:
    """What an earlier run wrote: a run that fails must not forget when one went well. None where it is not there."""
    try:
        families = list(text_string_to_metric_families(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None
    samples = (sample for family in families for sample in family.samples)
    return next((each.value for each in samples if each.name == name and each.labels.get("dataset") == dataset), None)
