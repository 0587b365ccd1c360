"""The S3 servers and the fault proxy do what the tests built on them take for granted."""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import botocore.exceptions
import botocore.handlers
import pytest
import s3fs
from aiohttp import ClientPayloadError
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError

from tests.servers.disk import CannotMount, file_size_limit, fill, read_only, small_disk
from tests.servers.fault import Fault
from tests.servers.proxy import FaultProxy
from tests.servers.s3 import SERVERS, S3Server, available_servers, start_s3

ROOT = Path(__file__).parents[1]
DATA = bytes(range(256)) * 1000
WRITERS = 4
# Faults that never reach the server are the same on all: one is enough.
ANY_SERVER = pytest.mark.parametrize("whole_rig", available_servers()[:1], indirect=True)


class Rig(NamedTuple):
    """One server with a bucket, reached directly and through a proxy; the client there sends each request once."""

    server: S3Server
    bucket: str
    direct: s3fs.S3FileSystem
    proxy: FaultProxy
    client: s3fs.S3FileSystem

    def put(self, key: str, data: bytes = DATA) -> None:
        self.client.pipe_file(f"{self.bucket}/{key}", data, mode="create")

    def stored(self, key: str) -> bytes | None:
        path = f"{self.bucket}/{key}"
        return bytes(self.direct.cat_file(path)) if self.direct.exists(path) else None


@pytest.fixture(scope="module", params=SERVERS)
def whole_rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    if request.param not in available_servers():
        pytest.skip(f"{request.param} is not installed")
    with start_s3(request.param, tmp_path_factory.mktemp("s3")) as server, FaultProxy(server, seed=7) as proxy:
        client = proxy.filesystem(attempts=1, config_kwargs={"read_timeout": 1})
        yield Rig(server, server.make_bucket(), server.filesystem(), proxy, client)


@pytest.fixture
def rig(whole_rig: Rig) -> Iterator[Rig]:
    yield whole_rig
    whole_rig.proxy.clear()


def put_within(client: s3fs.S3FileSystem, path: str, seconds: float) -> None:
    """A conditional write with an outer deadline; raises `FSTimeoutError`."""
    sync(client.loop, client._pipe_file, path, DATA, mode="create", timeout=seconds)


# Servers


def test_second_writer_is_refused(rig: Rig) -> None:
    rig.put("once", b"first")
    with pytest.raises(OSError, match=r"\[Errno 22\]") as caught:
        rig.put("once", b"second")
    assert caught.value.__cause__.response["Error"]["Code"] == "PreconditionFailed"  # type: ignore[union-attr]
    assert rig.stored("once") == b"first"


def test_of_racing_writers_one_wins(rig: Rig) -> None:
    clients = [rig.server.filesystem() for _ in range(WRITERS)]
    start = threading.Barrier(WRITERS)

    def write(writer: int, key: str) -> bool:
        start.wait()
        try:
            clients[writer].pipe_file(f"{rig.bucket}/{key}", bytes([writer]) * 50_000, mode="create")
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        for key in (f"race/{n}" for n in range(5)):
            wins = list(pool.map(write, range(WRITERS), [key] * WRITERS))
            assert wins.count(True) == 1
            assert rig.stored(key) == bytes([wins.index(True)]) * 50_000


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_credentials_are_refused(rig: Rig, wrong: str) -> None:
    stranger = rig.server.filesystem(attempts=1, **{wrong: "nobody"})
    with pytest.raises(PermissionError):
        stranger.ls(rig.bucket)
    with pytest.raises(PermissionError):
        stranger.pipe_file(f"{rig.bucket}/stranger", DATA)


@pytest.mark.parametrize("through_proxy", [False, True])
def test_unmodified_s3fs_follows_the_environment(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, through_proxy: bool
) -> None:
    rig.direct.pipe_file(f"{rig.bucket}/env", b"seen")
    for name, value in (rig.proxy if through_proxy else rig.server).env().items():
        monkeypatch.setenv(name, value)
    before = len(rig.proxy.seen)
    assert s3fs.S3FileSystem(skip_instance_cache=True).cat_file(f"{rig.bucket}/env") == b"seen"
    assert (len(rig.proxy.seen) > before) == through_proxy


def test_read_only_credentials(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.direct.pipe_file(f"{rig.bucket}/ro/there", b"text")
    for name, value in rig.server.read_only_env(rig.bucket).items():
        monkeypatch.setenv(name, value)
    reader = s3fs.S3FileSystem(skip_instance_cache=True)
    assert reader.cat_file(f"{rig.bucket}/ro/there") == b"text"
    with pytest.raises(PermissionError):
        reader.pipe_file(f"{rig.bucket}/ro/new", b"text")
    with pytest.raises(PermissionError):
        reader.rm_file(f"{rig.bucket}/ro/there")
    assert rig.direct.ls(f"{rig.bucket}/ro") == [f"{rig.bucket}/ro/there"]


def test_restart_keeps_the_data(rig: Rig) -> None:
    rig.put("kept")
    rig.server.restart()
    assert rig.stored("kept") == DATA


def test_pause_is_a_black_hole(rig: Rig) -> None:
    rig.server.pause()
    try:
        with pytest.raises(FSTimeoutError):
            put_within(rig.direct, f"{rig.bucket}/paused", 1)
    finally:
        rig.server.resume()
    put_within(rig.direct, f"{rig.bucket}/paused", 20)


@ANY_SERVER
def test_no_server_outlives_a_killed_owner(rig: Rig, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from tests.servers.s3 import start_s3\n"
        "server = start_s3(sys.argv[1], pathlib.Path(sys.argv[2])).__enter__()\n"
        "print(*[child.pid for child in server._children], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, rig.server.kind, str(tmp_path / "s3")]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids, done.stderr
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether it is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_command_runs_with_a_server() -> None:
    code = "import os, sys; print(os.environ['BUCKET'] == sys.argv[1], 'AWS_ENDPOINT_URL' in os.environ); sys.exit(7)"
    command = [sys.executable, "-m", "tests.servers.s3", "--", sys.executable, "-c", code, "{bucket}"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (7, ["True", "True"]), done.stderr


# Faults


def test_without_faults_the_proxy_is_transparent(rig: Rig) -> None:
    rig.put("plain")
    path = f"{rig.bucket}/plain"
    assert rig.client.cat_file(path) == DATA
    assert rig.client.info(path)["size"] == len(DATA)
    assert rig.client.cat_file(path, start=10, end=20) == DATA[10:20]
    rig.client.rm(path)
    assert not rig.client.exists(path)


@ANY_SERVER
def test_latency(rig: Rig) -> None:
    with rig.proxy.latency(0.3, times=1):
        started = time.monotonic()
        rig.put("late")
    assert time.monotonic() - started >= 0.3


@ANY_SERVER
def test_bandwidth(rig: Rig) -> None:
    with rig.proxy.bandwidth(len(DATA) * 2, times=1):
        started = time.monotonic()
        rig.put("slow")
    assert time.monotonic() - started >= 0.4
    assert rig.stored("slow") == DATA


@ANY_SERVER
def test_reset(rig: Rig) -> None:
    with rig.proxy.reset(), pytest.raises(botocore.exceptions.EndpointConnectionError):
        rig.put("reset")
    assert rig.stored("reset") is None


def test_reset_in_mid_upload_leaves_nothing(rig: Rig) -> None:
    with rig.proxy.reset_mid_upload(100_000) as fault, pytest.raises(botocore.exceptions.EndpointConnectionError):
        rig.put("half")
    assert fault.injected >= 1
    assert rig.stored("half") is None


def test_lost_reply(rig: Rig) -> None:
    """The object is there although the client saw an error, and trying again meets the object."""
    with rig.proxy.reset_after_request() as fault, pytest.raises(botocore.exceptions.EndpointConnectionError):
        rig.put("lost")
    assert fault.injected >= 1
    assert rig.stored("lost") == DATA
    with pytest.raises(OSError, match=r"\[Errno 22\]"):
        rig.put("lost", b"again")


def test_lost_reply_is_hidden_by_a_retry_below_us(rig: Rig) -> None:
    """aiohttp sends a PUT again by itself when its connection breaks: the write succeeded, the caller sees a 412."""
    with rig.proxy.reset_after_request(times=1), pytest.raises(OSError, match=r"\[Errno 22\]"):
        rig.put("lost-once")
    assert rig.stored("lost-once") == DATA


STATUSES: dict[str, tuple[Callable[[FaultProxy], Fault], type[Exception], int | None, str]] = {
    "slow_down": (lambda proxy: proxy.slow_down(None), OSError, 16, "SlowDown"),
    "unavailable": (lambda proxy: proxy.unavailable(None), OSError, 16, "ServiceUnavailable"),
    "conflict": (lambda proxy: proxy.conflict(), OSError, 5, "ConditionalRequestConflict"),
    "precondition": (lambda proxy: proxy.precondition_failed(), FileExistsError, None, "PreconditionFailed"),
    "bare_precondition": (lambda proxy: proxy.precondition_failed(condition=""), OSError, 22, "PreconditionFailed"),
    "expired_token": (lambda proxy: proxy.expired_token(), PermissionError, None, "ExpiredToken"),
    "access_denied": (lambda proxy: proxy.access_denied(), PermissionError, None, "AccessDenied"),
    "no_space": (lambda proxy: proxy.no_space(), OSError, 5, "XMinioStorageFull"),
}


@ANY_SERVER
@pytest.mark.parametrize("name", STATUSES)
def test_status(rig: Rig, name: str) -> None:
    set_up, kind, number, code = STATUSES[name]
    with set_up(rig.proxy) as fault, pytest.raises(kind) as caught:
        rig.put(f"status/{name}")
    cause: Any = caught.value.__cause__
    assert type(caught.value) is kind
    assert getattr(caught.value, "errno", None) == number
    assert cause.response["Error"]["Code"] == code
    assert fault.injected == 1
    assert rig.stored(f"status/{name}") is None


@ANY_SERVER
def test_status_ends_after_n(rig: Rig) -> None:
    patient = rig.proxy.filesystem()
    fault = rig.proxy.slow_down(2)
    patient.pipe_file(f"{rig.bucket}/burst", DATA, mode="create")
    assert fault.injected == 2
    assert rig.stored("burst") == DATA


@ANY_SERVER
def test_a_head_request_hides_why_it_was_refused(rig: Rig) -> None:
    rig.put("hidden")
    with rig.proxy.expired_token(), pytest.raises(PermissionError) as caught:
        rig.client.info(f"{rig.bucket}/hidden")
    assert caught.value.__cause__.response["Error"]["Code"] == "403"  # type: ignore[union-attr]


def test_truncated_reply(rig: Rig) -> None:
    rig.put("cut")
    with rig.proxy.truncate_reply(1000, method="GET") as fault, pytest.raises(ClientPayloadError):
        rig.client.cat_file(f"{rig.bucket}/cut")
    assert fault.injected == 1


@ANY_SERVER
def test_silent_read_times_out(rig: Rig) -> None:
    rig.put("quiet")
    with rig.proxy.silence(method="GET"), pytest.raises(botocore.exceptions.ReadTimeoutError):
        rig.client.cat_file(f"{rig.bucket}/quiet")


@ANY_SERVER
def test_silent_write_needs_a_deadline(rig: Rig) -> None:
    """The read timeout of 1 s does not end it: the client waits for `100 Continue` without a timer."""
    with rig.proxy.silence(method="PUT"), pytest.raises(FSTimeoutError):
        put_within(rig.client, f"{rig.bucket}/silent", 1.8)
    rig.proxy.clear()
    assert rig.stored("silent") is None


@ANY_SERVER
def test_silent_write_without_expect_times_out(rig: Rig) -> None:
    client = rig.proxy.filesystem(attempts=1, config_kwargs={"read_timeout": 1})
    client.s3.meta.events.unregister("before-call.s3", botocore.handlers.add_expect_header)
    with rig.proxy.silence(method="PUT"), pytest.raises(botocore.exceptions.ReadTimeoutError):
        put_within(client, f"{rig.bucket}/no-expect", 10)


def test_served_silence_is_a_lost_reply(rig: Rig) -> None:
    with rig.proxy.silence(served=True, method="PUT"), pytest.raises(botocore.exceptions.ReadTimeoutError):
        put_within(rig.client, f"{rig.bucket}/served", 10)
    assert rig.stored("served") == DATA


@ANY_SERVER
def test_refused_connections(rig: Rig) -> None:
    with rig.proxy.refuse(), pytest.raises(botocore.exceptions.EndpointConnectionError):
        rig.put("refused")
    rig.put("refused")


@ANY_SERVER
def test_faults_strike_only_what_they_match(rig: Rig) -> None:
    fault = rig.proxy.access_denied(path=r"/keep out/\d+$")
    rig.put("let in/1")
    rig.put("keep out/x")
    with pytest.raises(PermissionError):
        rig.put("keep out/1")
    assert fault.injected == 1


@ANY_SERVER
def test_probability_follows_the_seed(rig: Rig) -> None:
    def strikes(seed: int) -> list[str]:
        with FaultProxy(rig.server, seed) as proxy:
            proxy.status(404, None, error="NoSuchKey", probability=0.5)
            client = proxy.filesystem(attempts=1)
            for _ in range(12):
                client.exists(f"{rig.bucket}/maybe")
            assert 0 < proxy.injected["status"] < len(proxy.seen)
            return [seen.fault for seen in proxy.seen][:12]

    assert strikes(3) == strikes(3)


@ANY_SERVER
def test_counts_outlive_their_faults(rig: Rig) -> None:
    before = rig.proxy.injected["status"]
    with rig.proxy.conflict(), pytest.raises(OSError, match="Conflict"):
        rig.put("counted")
    rig.proxy.clear()
    assert rig.proxy.injected["status"] == before + 1


# Disks


def test_full_disk(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk", 1 << 20) as folder:
            filler = fill(folder, leave_bytes=100_000)
            (folder / "fits").write_bytes(bytes(50_000))
            with pytest.raises(OSError, match=r"\[Errno 28\]"):
                (folder / "shard").write_bytes(secrets.token_bytes(500_000))
            filler.unlink()
            (folder / "shard").write_bytes(bytes(500_000))
    except CannotMount as error:
        pytest.skip(str(error))
    assert os.listdir(tmp_path / "disk") == []


def test_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"1")
    try:
        with read_only(tmp_path):
            assert (tmp_path / "old").read_bytes() == b"1"
            with pytest.raises(OSError, match=r"\[Errno 30\]"):
                (tmp_path / "new").write_bytes(b"1")
    except CannotMount as error:
        pytest.skip(str(error))
    (tmp_path / "new").write_bytes(b"1")


def test_file_size_limit(tmp_path: Path) -> None:
    with file_size_limit(1000), pytest.raises(OSError, match=r"\[Errno 27\]"):
        (tmp_path / "big").write_bytes(bytes(2000))
    (tmp_path / "big").write_bytes(bytes(2000))
