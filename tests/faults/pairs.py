"""Two commands at once on one dataset: each sample still ends once, and whoever says done is right."""

from __future__ import annotations

import io
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.audit import Files, audit, data_objects, footer_of, sample_ids
from tests.faults.bench import Bench, Output
from tests.faults.forks import Ended, Fork
from tests.faults.rows import Row

COMMANDS = ("run", "extend", "retry", "repair", "score", "report", "export", "select")
PAIRS = tuple(combinations_with_replacement(COMMANDS, 2))
FINISHED = (0, 3)
_ALLOWED: dict[str, dict[int, str]] = {
    # Exit codes, and what a command that ends so must have said.
    "run": {0: "", 3: "", 2: "prompts.source.b.parquet"},  # extended meanwhile
    "extend": {0: "", 3: ""},
    "retry": {0: "", 3: "", 2: "a finished dataset"},
    "repair": {0: "", 1: ""},
    "score": {0: ""},
    "report": {0: ""},
    "export": {0: "", 2: "removed meanwhile"},
    "select": {0: ""},
}
_MET_DAMAGE = {
    **dict.fromkeys(("run", "extend", "retry"), "verify --repair"),
    "export": "every image can be read",
}
"""What they say who meet what the repair has yet to remove."""
_MADE_IN = {"a": ("red circle", "green square raise", "", "blue star"), "b": ("yellow star", "green circle raise")}
_DAMAGED, _MISSING = "data/part-000000.parquet", "data/part-000001.parquet"
_ORPHAN = "rejects/part-000001-000000000000.parquet"


class Scene:
    """A dataset of `a.parquet` in which two samples failed, and a source that has got a `b.parquet` since."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.folder = bench.folder / "pairs"
        first, both = self.folder / "first", self.folder / "both"
        for source in (first, both):
            source.mkdir(parents=True)
        for name, texts in _MADE_IN.items():
            columns = {"prompt": list(texts), "tag": ["one"] * len(texts), "include": [[{"class": "x"}]] * len(texts)}
            pq.write_table(pa.table(columns), both / f"{name}.parquet")
        shutil.copy2(both / "a.parquet", first / "a.parquet")
        self.job, self.extended = bench.job(first), bench.job(both)
        made = bench.output()
        assert bench.run(self.job, made, PROMPTMILL_TEST_FAULTY="1").code in FINISHED
        self.files: Files = made.files()
        fresh = bench.output()
        assert bench.run(self.extended, fresh).code in FINISHED
        self.asked = sample_ids(fresh.files())
        self.images = images(fresh.files())

    def set_up(self, place: str, pair: Sequence[str]) -> Output:
        """As it was made; for a run a shard is missing, for a repair one is damaged, and one left over."""
        output = self.bench.output(place)
        for key, content in self.files.items():
            if not (key == _MISSING and "run" in pair):
                write(output, key, content)
        if "repair" in pair:
            write(output, _ORPHAN, b"left over")
            write(output, _DAMAGED, b"cut")
        return output

    def start(self, command: str, output: Output) -> Fork:
        url, env = output.url, output.env
        if command in ("run", "extend"):
            job, options = (self.job, ()) if command == "run" else (self.extended, ("--extend",))
            return self.bench.start(job, output, "--in-process", *options)
        arguments = {
            "retry": ("retry", url, "--in-process"),
            "repair": ("verify", url, "--deep", "--repair", "--grace", "0"),
            "score": ("score", url, "--metric", "image"),
            "report": ("report", url),
            "export": ("export", url, str(self.folder / f"tree-{time.monotonic_ns()}"), "--layout", "geneval"),
            "select": ("select", url, "--keep", "1", "--by", "clip"),
        }[command]
        return self.bench.forks.start(*arguments, "--json", env=env)


def images(files: Files) -> dict[str, str]:
    columns = ["sample_id", "image_sha256"]
    tables = [pq.read_table(io.BytesIO(content), columns=columns) for content in data_objects(files).values()]
    return {row["sample_id"]: row["image_sha256"] for table in tables for row in table.to_pylist()}


def write(output: Output, key: str, content: bytes) -> None:
    if output.server is None:
        (Path(output.url) / key).parent.mkdir(parents=True, exist_ok=True)
    output.write(key, content)


def at_once(scene: Scene, place: str, pairs: Sequence[tuple[str, str]], chance: random.Random, kill: bool) -> Row:
    """Each pair once, in a random order of the two; with `kill` one of them is killed on its way."""
    row = Row(f"{'two commands at once, one killed' if kill else 'two commands at once'}, {place}")
    for pair in pairs:
        row.times += 1
        _one(scene, place, pair, chance, kill, row)
    return row


def _one(scene: Scene, place: str, pair: tuple[str, str], chance: random.Random, kill: bool, row: Row) -> None:
    output, name = scene.set_up(place, pair), " beside ".join(pair)
    began = time.monotonic()
    order = chance.sample(pair, 2)
    forks: list[Fork] = []
    for command in order:
        forks.append(scene.start(command, output))
        time.sleep(chance.uniform(0, 0.6))
    if kill:
        chance.choice(forks).signal(signal.SIGKILL)
    ended = [fork.wait() for fork in forks]
    for command, end in zip(order, ended, strict=True):
        if end.code == -signal.SIGKILL:
            continue
        said = _ALLOWED[command].get(end.code)
        if "repair" in pair and end.code == 2 and "removed meanwhile" not in end.printed:
            said = _MET_DAMAGE.get(command)
        row.check(said is not None and said in end.printed, f"{name}: {command}: {end.code}: {end.printed[-1500:]}")
        if command in ("run", "extend") and end.code in FINISHED and not kill:
            _who_says_done(scene, output, f"{name}: {command}", row)
    _finish(scene, output, name, row, began)


def _who_says_done(scene: Scene, output: Output, name: str, row: Row) -> None:
    files = output.files()
    there = data_objects(files)
    gone = [side for content in there.values() if content != b"cut" for side in footer_of(content)["side_objects"]]
    gone = [side for side in gone if side not in files]
    row.check(not gone, f"{name} said done, and {gone} are gone")
    verified = scene.bench.command("verify", output)
    if "retry" not in name:  # whose shards may be unfinished, where it was not the one that said done
        row.check(verified.json["missing_shards"] == [], f"{name} said done: {verified.printed[-1500:]}")


def _finish(scene: Scene, output: Output, name: str, row: Row, began: float) -> None:
    bench = scene.bench
    steps: list[tuple[str, Callable[[], Ended]]] = [
        ("repair", lambda: bench.command("verify", output, "--deep", "--repair")),
        ("run --extend", lambda: bench.run(scene.extended, output, "--in-process", "--extend")),
        ("retry", lambda: bench.command("retry", output, "--in-process")),
    ]
    for step, call in steps:
        ended = call()
        problem = f"{name}, then {step}: {ended.code}: {ended.printed[-1500:]}"
        row.check(ended.code in FINISHED or step == "repair", problem)
    verified = bench.command("verify", output, "--deep", "--repair")
    row.check(verified.code == 0, f"{name}, in the end: {verified.printed[-1500:]}")
    files = output.files()
    row.add(audit(files, scene.asked), [], time.monotonic() - began)
    row.check(images(files) == scene.images, f"{name}: other images than those of an undisturbed run")
    left = [key for key in files if key == _ORPHAN or key.startswith(".tmp/")]
    row.check(not left, f"{name}: left over: {left}")
