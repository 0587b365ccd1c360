"""Addresses that name no cluster, folders that do not stay, and the health of places: known without any cluster."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from promptmill.pipeline.execution.events import Notice
from promptmill.pipeline.execution.fleet.actor import refuse_other_versions, versions
from promptmill.pipeline.execution.fleet.backlog import Backlog
from promptmill.pipeline.execution.fleet.blame import Blame
from promptmill.pipeline.execution.fleet.crew import Crew
from promptmill.pipeline.execution.fleet.lost_devices import Device
from promptmill.pipeline.execution.fleet.places import NoPlaceLeftError, Places
from promptmill.pipeline.execution.fleet.sight import Beacon, UnseenError, prove_sight
from promptmill.pipeline.execution.fleet.worker_handle import WorkerHandle
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import ClusterError, JobError, ModelLoadError, PlaceError, StorageError
from promptmill.schemas.plan import Shard
from tests.engine.conftest import Answer

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
COMMAND = Path(sys.executable).with_name("promptmill")


@pytest.fixture
def web_server() -> Iterator[int]:
    """As Ray's dashboard, which people give for the head."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr("promptmill.pipeline.execution.fleet.address._TIMEOUT_S", 0.5)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("http://127.0.0.1:8265", "promptmill submit"),
        ("https://head", "promptmill submit"),
        ("tcp://127.0.0.1:6379", "tcp://"),
        ("head", "HOST:PORT"),
        ("head:", "HOST:PORT"),
        (":6379", "HOST:PORT"),
        ("127.0.0.1:port", "HOST:PORT"),
        ("127.0.0.1:99999", "HOST:PORT"),
    ],
)
@pytest.mark.parametrize("by", ["--address", "RAY_ADDRESS"])
def test_an_address_that_is_none(
    cli: Cli, job: MakeJob, tmp_path: Path, address: str, says: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "RAY_ADDRESS":
        monkeypatch.setenv(by, address)
    answer = cli("run", job(), *(["--address", address] if by == "--address" else []))
    assert answer.code == 2, answer
    assert says in answer.err
    assert f"{by}: {address}" in answer.err
    assert not (tmp_path / "out").exists(), "an address is known to be wrong before the output is claimed"


def test_a_cluster_of_other_versions_is_told_with_both() -> None:
    """Ray's own words about them were cut off, and the two lines that say which were lost."""
    from ray._private.utils import compute_version_info

    from promptmill.pipeline.execution.fleet.address import _check_versions

    ours = dict(zip(("ray_version", "python_version"), compute_version_info(), strict=False))
    _check_versions(ours, "--address head:6379")
    with pytest.raises(JobError) as error:
        _check_versions({**ours, "ray_version": "2.9.3"}, "--address head:6379")
    assert "Ray 2.9.3 and Python" in str(error.value) and f"got Ray {ours['ray_version']}" in str(error.value)


def test_the_dashboards_port(cli: Cli, job: MakeJob, web_server: int) -> None:
    answer = cli("run", job(), "--address", f"127.0.0.1:{web_server}", "--json")
    assert (answer.code, answer.json["exit_code"]) == (2, 2)
    assert "a web server answers" in answer.err
    assert "6379" in answer.err


def test_a_port_that_says_nothing(cli: Cli, job: MakeJob, silent_server: int) -> None:
    answer = cli("run", job(), "--address", f"127.0.0.1:{silent_server}")
    assert answer.code == 2
    assert "no Ray cluster answers" in answer.err


@pytest.mark.parametrize("session", ["session_2026-11-28_05-14-35_161285_13", "session_latest", "of-another-temp-dir"])
def test_output_in_the_working_folder_of_a_ray_job(
    cli: Cli, job: MakeJob, tmp_path: Path, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(output={"url": "out/mine"})
    folder = tmp_path / "ray" / session / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for command in (["run", made, "--in-process"], ["report", "out/mine"], ["plan", made], ["doctor", "out/mine"]):
        answer = cli(*command)
        assert answer.code == 2, (command, answer)
        assert "Ray deletes" in answer.err
        assert "object storage" in answer.err
    assert list(folder.iterdir()) == []
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert cli("run", job(output={"url": str(link / "out")}), "--in-process").code == 2


def test_a_folder_that_is_gone(job: MakeJob, tmp_path: Path) -> None:
    made, folder = job(), tmp_path / "gone"
    for command in (["run", str(made), "--json"], ["status", "out", "--json"], ["init"]):
        folder.mkdir()
        script = f'rmdir "{folder}"; exec "$@"'
        ended = subprocess.run(
            ["bash", "-c", script, "bash", str(COMMAND), *command],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 2, ended.stderr
        assert "the current folder" in ended.stderr
        assert "Traceback" not in ended.stderr
        if "--json" in command:
            assert json.loads(ended.stdout)["exit_code"] == 2


def test_a_beacon_is_seen_in_the_same_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptmill.pipeline.execution.fleet.sight._SEEN_WITHIN_S", 0.0)
    here, elsewhere, beacon = Store(str(tmp_path / "a")), Store(str(tmp_path / "b")), Beacon.new()
    beacon.light(here)
    prove_sight(beacon, here, "host-1")
    assert [path.name for path in (tmp_path / "a" / ".tmp").iterdir()] == [Path(beacon.key).name]
    with pytest.raises(UnseenError, match="does not see the output"):
        prove_sight(beacon, elsewhere, "host-1")
    assert not (tmp_path / "b").exists(), "nothing is written where the output is not"
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / beacon.key).write_bytes(b"of another run")
    with pytest.raises(UnseenError):
        prove_sight(beacon, elsewhere, "host-1")
    beacon.put_out(here)
    assert list((tmp_path / "a" / ".tmp").iterdir()) == []


def test_another_version_is_refused_by_name() -> None:
    refuse_other_versions(versions(), versions())
    with pytest.raises(PlaceError, match=r"has promptmill 0\.0\.1, the driver "):
        refuse_other_versions({**versions(), "promptmill": "0.0.1"}, versions())


def test_a_place_is_left_out_after_failures_in_a_row() -> None:
    places, error = Places(), StorageError("the disk is full")
    assert places.fails("n1", error, "full") is None
    assert places.fails("n1", error, "full") is None
    places.works("n1")
    assert places.fails("n1", error, "full") is None
    assert places.fails("n1", error, "full") is None
    assert places.fails("n1", error, "full") is not None
    assert places.fails("n1", error, "full") is None, "it is said once"
    assert places.selector() == {"ray.io/node-id": "!in(n1)"}
    assert not places.exhausted({"n1", "n2"})
    assert places.exhausted({"n1"})


def test_a_node_that_worked_and_is_gone_is_waited_for() -> None:
    places = Places()
    places.works("n2")
    places.fails("n1", StorageError("full"), "full", limit=1)
    assert not places.exhausted({"n1"})
    places.fails("n2", StorageError("full"), "full", limit=1)
    assert places.exhausted({"n1"})


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([StorageError("a"), StorageError("b")], 4),
        ([ModelLoadError("a"), ModelLoadError("b")], 2),
        ([StorageError("a"), ModelLoadError("b")], 5),
        ([ValueError("a"), ValueError("b")], 1),
    ],
)
def test_no_place_left_ends_as_its_causes_say(errors: list[Exception], code: int) -> None:
    places = Places()
    for number, error in enumerate(errors):
        places.meet(f"n{number}", f"host{number}", f"10.0.0.{number}")
        places.fails(f"n{number}", error, f"cause {error}", limit=1)
    raised = NoPlaceLeftError(places.left_out_places)
    assert isinstance(raised, ClusterError)
    assert raised.exit_code == code
    for number in range(2):
        assert f"host{number} (10.0.0.{number}): cause {'ab'[number]}" in str(raised)


def test_a_second_attempt_goes_elsewhere_first() -> None:
    shards = [Shard(number, 0, 0, number, number + 1) for number in range(3)]
    backlog, places = Backlog(shards), Places()
    first = backlog.take("n1", {"n1", "n2"}, [])
    assert first == shards[0]
    backlog.of(shards[0]).erred("n1")
    backlog.first(shards[0])
    assert backlog.take("n1", {"n1", "n2"}, []) == shards[1]
    assert backlog.take("n2", {"n1", "n2"}, []) == shards[0]
    backlog.of(shards[0]).erred("n2")
    backlog.last(shards[0])
    assert backlog.take("n1", {"n1"}, []) == shards[2]
    assert backlog.take("n1", {"n1", "n2"}, []) == shards[0], "where it failed everywhere, anywhere"
    places.fails("n1", ValueError("x"), "x", limit=1)
    assert backlog.of(shards[0]).attempts(places) == 1, "what failed on a node that is left out was that node's fault"


def test_shards_that_killed_a_worker_run_alone() -> None:
    shards = [Shard(number, 0, 0, number, number + 1) for number in range(2)]
    backlog = Backlog(shards)
    backlog.of(shards[0]).died("n1", hung=False)
    assert backlog.take("n2", {"n1", "n2"}, [shards[1]]) is None
    assert backlog.take("n1", {"n1", "n2"}, []) == shards[1]
    assert backlog.take("n2", {"n1", "n2"}, []) == shards[0]


def test_a_place_that_worked_first_is_named_when_it_fails() -> None:
    """It was met without a name, and stayed "8f1adb9a (unknown address)" in what is told of it."""
    places = Places()
    places.works("8f1adb9a77")
    places.meet("8f1adb9a77", "gpu-host-7", "10.0.0.7")
    places.meet("8f1adb9a77", "", "")  # Ray has forgotten it since
    left_out = places.fails("8f1adb9a77", StorageError("disk full"), "disk full", limit=1)
    assert left_out is not None
    assert (left_out.name, left_out.address) == ("gpu-host-7", "10.0.0.7")


@pytest.mark.parametrize("gpus", [(), ("3",)])
def test_a_worker_that_never_loads_beside_working_ones(gpus: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPU it was tried again for as long as its mates had work: each of their shards made its node good again."""
    monkeypatch.setattr("promptmill.pipeline.execution.fleet.blame.node_name", lambda node: ("host-7", "10.0.0.7"))
    heard: list[str] = []
    listener = SimpleNamespace(notice=heard.append)
    places = Places()
    blame = Blame(places, listener, started_here=False)  # type: ignore[arg-type]
    error = ModelLoadError("the model does not load: cannot allocate memory")
    tries = 0
    for _ in range(20):
        places.works("a")
        tries += 1
        if blame.device(Device("a", gpus), error):
            break
    assert tries == 2
    (left_out,) = blame.left_out
    assert "host-7" in left_out.name and left_out.name != "host-7", "the node itself works on"
    assert (left_out.address, "cannot allocate memory" in left_out.cause) == ("10.0.0.7", True)
    assert heard == [f"left out from now on: {left_out}"]
    assert not places.is_left_out("a") and places.selector() == {}


def test_each_worker_that_is_counted_as_lost_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose calls were lost first had nothing in hand any more: it was counted, and nobody was told."""
    monkeypatch.setattr("promptmill.pipeline.execution.fleet.crew.node_name", lambda node: ("host-7", "10.0.0.7"))
    one, two = (Shard(number, 0, 0, number, number + 1) for number in range(2))
    heard: list[Notice] = []
    listener: Any = SimpleNamespace(notice=heard.append)
    absent: Any = None
    crew = Crew(absent, absent, Places(), listener, size=4)
    for in_hand, suspects in (({}, [one, two]), ({"a call": one}, [two]), ({"a call": one}, []), ({}, [])):
        crew.lose(WorkerHandle(None, None, Device("a", ()), dict(in_hand), suspects=list(suspects)), "it died")
    assert crew.lost == len(heard) == 4
    assert all(text.startswith("lost a worker on host-7 (it died); ") for text in heard)
    assert [text.partition("; ")[2] for text in heard] == [
        "2 shard(s) went when it could not be reached",
        "its 1 shard(s) go to another one, 1 shard(s) went when it could not be reached",
        "its 1 shard(s) go to another one",
        "it had no shard in hand",
    ]
    assert [notice.about["shards"] for notice in heard] == [[0, 1], [0, 1], [0], []]
