"""Jobs for a cluster of which this machine is no node: what travels there, and a real head that makes it."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from promptmill.jobs.submit import answer_in, entrypoint
from promptmill.pipeline.execution.submit import same_version
from promptmill.pipeline.execution.submit.bundle import bundle
from promptmill.pipeline.execution.submit.dashboard import Dashboard, UnknownJobError
from promptmill.pipeline.execution.submit.follow import follow
from promptmill.pipeline.execution.submit.shipped import package_files
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.planning.plan import plan_job
from promptmill.schemas.errors import ClusterError, JobError
from tests.engine.conftest import Answer
from tests.infra.test_cluster import stop_with_descendants
from tests.servers.tls import https_before

Cli = Callable[..., Answer]


def job_text(**sections: Any) -> str:
    content: dict[str, Any] = {
        "name": "Far away",
        "prompts": {"source": "given"},
        "output": {"url": "/shared/out"},
        **sections,
    }
    return yaml.safe_dump(content)


def packed(text: str, **options: Any) -> tuple[list[str], tuple[str, ...]]:
    parcel = bundle(parse_job(text, "job.yaml"), text, **options)
    return zipfile.ZipFile(io.BytesIO(parcel.content)).namelist(), parcel.overrides


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prompts, and with much else."""
    (tmp_path / "given" / "deep").mkdir(parents=True)
    for name in ("given/a.txt", "given/deep/b.txt", "given/.hidden.txt", "photos.zip", "model.safetensors"):
        (tmp_path / name).write_text("a red circle\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "names", "there"),
    [
        ("given", ["prompts/a.txt", "prompts/deep/b.txt"], "prompts"),
        ("given/", ["prompts/a.txt", "prompts/deep/b.txt"], "prompts"),
        ("given/a.txt", ["prompts/a.txt"], "prompts/a.txt"),
        ("given/*.txt", ["prompts/a.txt"], "prompts/*.txt"),
        ("given/**/*.txt", ["prompts/a.txt", "prompts/deep/b.txt"], "prompts/**/*.txt"),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_prompts_travel_and_nothing_beside_them(
    here: Path, source: str, names: list[str], there: str, absolute: bool
) -> None:
    given = str(here / source) if absolute else source
    files, overrides = packed(job_text(prompts={"source": given}))
    assert files == ["job.yaml", "same_version.py", *names] and overrides == (f"prompts.source={there}",)


def test_ids_of_prompts_stay_those_of_this_machine(here: Path, tmp_path: Path) -> None:
    """Else the same job submitted and run here would be two."""
    from promptmill.pipeline.prompts.files import find_files

    for source in ("given", "given/a.txt", "given/**/*.txt"):
        text = job_text(prompts={"source": source})
        parcel = bundle(parse_job(text, "job.yaml"), text)
        far = tmp_path / "far"
        zipfile.ZipFile(io.BytesIO(parcel.content)).extractall(far)
        moved = parcel.overrides[0].partition("=")[2]
        names = [[entry.name for entry in find_files(place, None)[1]] for place in (source, str(far / moved))]
        assert names[0] == names[1]
        shutil.rmtree(far)


def test_classes_attributes_and_wildcards_travel_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were neither sent nor refused: the job failed on the cluster, or drew from what lay there by that name."""
    Image.new("RGB", (8, 8)).save(here / "photo.png")
    for name in ("real/ring/a.png", "real/cross/b.png"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here / "photo.png", here / name)
    (here / "classes.csv").write_text("name,wording\nring,a ring\ncross,a cross\n")
    (here / "words").mkdir()
    for name in ("places.txt", "words/time.txt"):
        (here / name).write_text("on a hill\nat sea\n")
    words = {"templates": ["a {class} {place} __time__"], "attributes": {"place": {"file": "places.txt"}}, "draws": 2}
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"classes": "classes.csv", **words, "wildcards": "words"}, ["classes/classes.csv", "wildcards/time.txt"]),
        ({"classes": "real", **words, "wildcards": "./words"}, ["classes/cross/b.png", "classes/ring/a.png"]),
        ({"classes": "real", "columns": {"image": "image"}, "templates": ["a {class}"]}, ["classes/cross/b.png"]),
        ({"source": "given/a.txt", "templates": ["__time__"], "wildcards": True}, ["prompts/a.txt"]),
    ]
    shutil.copytree(here / "words", here / "wildcards")
    for number, (prompts, names) in enumerate(cases):
        monkeypatch.chdir(here)
        text = job_text(prompts=prompts)
        parcel, own = bundle(parse_job(text, "job.yaml"), text), plan_job(parse_job(text, "job.yaml"))
        far = here.parent / f"{here.name}-far-{number}"
        zipfile.ZipFile(io.BytesIO(parcel.content)).extractall(far)
        sent = {path.relative_to(far).as_posix() for path in far.rglob("*") if path.is_file()}
        assert set(names) <= sent and parcel.files == len(sent) - 2
        monkeypatch.chdir(far)
        there = plan_job(parse_job((far / "job.yaml").read_text(), "job.yaml", parcel.overrides))
        assert (there.fingerprint, there.prompts, there.words) == (own.fingerprint, own.prompts, own.words)


def test_images_that_are_known_to_a_curation_travel(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("real/ring/a.png", "real/cross/b.png", "held/c.png"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(here / name)
    text = job_text(curate={"to": "s3://bucket/curated", "real": ["real/", "s3://bucket/more"], "test": ["held"]})
    parcel = bundle(parse_job(text, "job.yaml"), text)
    far = here.parent / f"{here.name}-far-curate"
    zipfile.ZipFile(io.BytesIO(parcel.content)).extractall(far)
    monkeypatch.chdir(far)
    there = parse_job((far / "job.yaml").read_text(), "job.yaml", parcel.overrides).curate
    assert there is not None and there.real == ("curate/real-0", "s3://bucket/more")
    assert (far / "curate/real-0/ring/a.png").exists() and (far / there.test[0] / "c.png").exists()


@pytest.mark.parametrize("place", ["file://{0}/given", "{0}/given"])
def test_an_absolute_place_may_be_a_url(here: Path, place: str) -> None:
    """`file:///shared/out` was refused as a relative path, and `file:///only/there` as one that is not here."""
    elsewhere = "file:///only/on/the/cluster/*.parquet"
    text = job_text(output={"url": place.format(here)}, prompts={"source": elsewhere})
    assert packed(text) == (["job.yaml", "same_version.py"], ())
    assert packed(job_text(prompts={"source": place.format(here)}))[1] == ("prompts.source=prompts",)


def test_what_lies_elsewhere_stays_there(here: Path) -> None:
    for source in ("s3://bucket/prompts", "/only/on/the/cluster/*.parquet"):
        assert packed(job_text(prompts={"source": source})) == (["job.yaml", "same_version.py"], ())
    assert packed(job_text(), upload=False) == (["job.yaml", "same_version.py"], ())
    one, other = (bundle(parse_job(job_text(), "j"), job_text()).name for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"output": {"url": "out/here"}}, "output.url: expected a place that the cluster's nodes share, got out/here"),
        ({"curate": {"to": "out/here"}}, "curate.to: expected a place that the cluster's nodes share, got out/here"),
        ({"model": {"path": "given"}}, "model.path: given: expected what every node has, got a path of this machine"),
        ({"score": [{"clip": "local-dir:given/deep"}]}, "score.0.clip: local-dir:given/deep: expected what every"),
        ({"prompts": {"source": "absent"}}, "nothing there"),
    ],
)
def test_what_only_this_machine_has_is_refused(here: Path, cli: Cli, sections: dict[str, Any], words: str) -> None:
    (here / "job.yaml").write_text(job_text(**sections))
    answer = cli("submit", "job.yaml", "--address", "127.0.0.1:1")
    assert answer.code == 2 and words in answer.err


def test_too_many_prompts_to_send(here: Path, cli: Cli) -> None:
    with (here / "given" / "large.parquet").open("wb") as file:
        file.truncate(300 << 20)
    (here / "job.yaml").write_text(job_text())
    answer = cli("submit", "job.yaml", "--address", "127.0.0.1:1")
    assert answer.code == 2 and "at most 200 MiB to upload, got 300 MiB" in answer.err and "--no-upload" in answer.err


def test_the_program_travels_whole(tmp_path: Path) -> None:
    """It runs from what was sent alone."""
    for name, data in package_files():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    script = (
        "import promptmill.jobs.cli as cli, sys; assert cli.__file__.startswith(sys.argv[1]);"
        "from importlib.metadata import version; from promptmill.jobs.commands import app;"
        "from promptmill.pipeline.shapes import world; print(version('promptmill'))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "promptmill/pipeline/shapes/weights/model/model_index.json").exists()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://head:10001", "Ray Client's"),
        ("ftp://head", "an address of ftp://"),
        ("http://head:port", "expected the address of a Ray dashboard"),
        ("http://", "no such address"),
        (None, "got none"),
    ],
)
def test_addresses_that_are_none(cli: Cli, address: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    answer = cli("jobs", *(() if address is None else ("--address", address)))
    assert answer.code == 2 and words in answer.err


def test_arguments_of_jobs(cli: Cli) -> None:
    for arguments in (("stop",), ("list", "x"), ("logs",), ("dance",)):
        assert cli("jobs", *arguments, "--address", "127.0.0.1:1").code == 2


class _Server(BaseHTTPRequestHandler):
    status, body, headers_too = 200, b"{}", ()
    seen: list[Any] = []  # noqa: RUF012 - of each test's own subclass

    def do_GET(self) -> None:
        self.seen.append(self.headers)
        self.send_response(self.status)
        for name, value in self.headers_too:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    servers: list[HTTPServer] = []

    def start(**answer: Any) -> int:
        handler = type("Handler", (_Server,), {"seen": [], **answer})
        server = HTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ({"body": b"<html>"}, 2, "a web server that is none"),
        ({"body": b'{"hello": 1}'}, 2, "a web server that is none"),
        ({"status": 401, "body": b"Missing"}, 5, "set RAY_AUTH_TOKEN"),
        ({"status": 302, "headers_too": (("Location", "http://elsewhere/"),)}, 2, "points to http://elsewhere/"),
        ({"status": 500, "body": b"Traceback\n  line\nKeyError: 'x'\n"}, 5, "refuses (500): KeyError: 'x'"),
    ],
)
def test_servers_that_answer_something_else(
    cli: Cli, serve: Callable[..., int], answer: dict[str, Any], code: int, words: str
) -> None:
    told = cli("jobs", "--address", f"127.0.0.1:{serve(**answer)}")
    assert told.code == code and words in told.err


def test_nobody_answers_or_no_web_server_does(cli: Cli) -> None:
    assert cli("jobs", "--address", "127.0.0.1:1").code == 5
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"\0\0\x12\4\0\0\0\0\0 HTTP/2 of the head\n")

        threading.Thread(target=answer, daemon=True).start()
        told = cli("jobs", "--address", f"127.0.0.1:{server.getsockname()[1]}")
    assert told.code == 2 and "6379 is the port of the head" in told.err


def test_a_token_goes_to_the_address_alone(
    serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of-a-file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    seen: list[Any] = []
    other = serve(seen=seen)
    first = serve(status=307, headers_too=(("Location", f"http://127.0.0.1:{other}/"),), seen=(asked := []))
    with pytest.raises(JobError, match="points to"):
        Dashboard(f"127.0.0.1:{first}").jobs()
    assert asked[0]["Authorization"] == "Bearer of-a-file" and seen == []
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(JobError, match="RAY_AUTH_TOKEN_PATH"):
        Dashboard("127.0.0.1:1")


def test_over_tls(serve: Callable[..., int], tmp_path: Path, cli: Cli) -> None:
    with https_before(serve(body=json.dumps({"ray_version": "2.60.0"}).encode()), tmp_path) as (address, certificate):
        refused = cli("jobs", "--address", address)
        assert refused.code == 5 and "--ca-cert" in refused.err
        assert Dashboard(address, str(certificate)).ray_version() == "2.60.0"
        assert cli("jobs", "--address", address, "--ca-cert", str(tmp_path / "absent")).code == 2


class _Scripted:
    """A dashboard whose answers are given; an exception is raised."""

    url = "http://head:8265"

    def __init__(self, *answers: tuple[str, str] | Exception, **details: Any) -> None:
        self._answers, self._details, self._log = list(answers), details, ""

    def job(self, job: str) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, self._log = answer
        return {"status": status, **self._details}

    def log(self, job: str) -> str:
        return self._log


def followed(dashboard: Any, patience_s: float = 60.0) -> tuple[Any, list[str], list[str]]:
    lines: list[str] = []
    told: list[str] = []
    return follow(dashboard, "x-1", lines.append, told.append, patience_s, lambda _: None), lines, told


def test_each_line_of_a_log_comes_once() -> None:
    ended, lines, _ = followed(
        _Scripted(
            ("PENDING", ""),
            ("RUNNING", "a\nhal"),
            ("RUNNING", "a\nhalf\n"),
            ("FAILED", "a\nhalf\nend"),
            driver_exit_code=4,
        )
    )
    assert (lines, ended.exit_code) == (["a", "half", "end"], 4)


@pytest.mark.parametrize(
    ("status", "details", "code"),
    [
        ("SUCCEEDED", {"driver_exit_code": 0}, 0),
        ("FAILED", {"driver_exit_code": 3}, 3),
        ("FAILED", {"driver_exit_code": -9}, 137),
        ("STOPPED", {}, 130),
        ("FAILED", {"error_type": "RUNTIME_ENV_SETUP_FAILURE", "message": "Traceback\nno disk"}, 5),
    ],
)
def test_exit_codes(status: str, details: dict[str, Any], code: int) -> None:
    ended, _, _ = followed(_Scripted((status, ""), **details))
    assert ended.exit_code == code
    assert ("no disk" in ended.message) == ("message" in details)


def test_a_dashboard_that_is_away_for_a_while() -> None:
    ended, _, told = followed(_Scripted(ClusterError("away"), ClusterError("away"), ("STOPPED", "")))
    assert ended.status == "STOPPED" and told == ["away; looking again"]
    with pytest.raises(ClusterError, match="may go on"):
        followed(_Scripted(*[ClusterError("away")] * 3), patience_s=-1)


def test_a_head_that_was_started_anew_has_forgotten_the_job() -> None:
    """That was exit 2, after which no scheduler tries again."""
    gone = UnknownJobError("nothing of that name")
    with pytest.raises(ClusterError, match="started anew. Submit the job again"):
        followed(_Scripted(("RUNNING", "a\n"), ClusterError("away"), gone))
    with pytest.raises(UnknownJobError):
        followed(_Scripted(gone))


def test_the_answer_is_found_in_a_log() -> None:
    assert answer_in('x\n{"shards": 2}\n{broken\nend') == {"shards": 2}
    assert answer_in("nothing") is None


def test_versions_are_held_against_each_other_on_the_cluster(tmp_path: Path) -> None:
    """By the shell command itself, here with a Python that lacks the package or has another version."""
    (tmp_path / "promptmill-9.9.dist-info").mkdir()
    (tmp_path / "promptmill-9.9.dist-info" / "METADATA").write_text("Name: promptmill\nVersion: 9.9\n")
    (empty := tmp_path / "empty").mkdir()
    (empty / "same_version.py").write_bytes(Path(same_version.__file__).read_bytes())
    command = entrypoint(["job.yaml"])
    for path, words in ((str(tmp_path), "has promptmill 9.9"), ("", "does not have promptmill")):
        (tmp_path / "python").write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec {sys.base_prefix}/bin/python3 -S "$@"\n')
        (tmp_path / "python").chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        answer = subprocess.run(["sh", "-c", command], env=env, cwd=empty, capture_output=True, text=True, check=False)
        assert answer.returncode == 2 and words in answer.stdout and "--ship" in answer.stdout, answer


def test_what_ship_does_not_send_is_told(tmp_path: Path) -> None:
    """That was a ModuleNotFoundError, and exit 1."""
    for name, content in package_files():
        if "/" not in name.removeprefix("promptmill-") or name.endswith("METADATA"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    (tmp_path / "same_version.py").write_bytes(Path(same_version.__file__).read_bytes())
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", "-c", entrypoint(["job.yaml"])]
    answer = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2 and "lacks what promptmill imports" in answer.stdout, answer
    assert "'pydantic>=" in answer.stdout and "torchmetrics" not in answer.stdout


# ---- a real head -----------------------------------------------------------------------------------------------------

slow = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


@contextmanager
def a_head(bin_folder: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """The dashboard's address, what the client needs to know, and a folder that it shares with the cluster."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for probe in (one, two, three):
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in (one, two, three)]
    folder = Path(tempfile.mkdtemp(prefix="pm"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = secrets.token_hex(32)
    environment = {
        **kept,
        "PATH": f"{bin_folder}{os.pathsep}{kept['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    command = [
        str(bin_folder / "ray"),
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={ports[0]}",
        "--num-cpus=2",
    ]
    command += ["--object-store-memory=100000000", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}"]
    # The agent that takes jobs has one fixed port, and a head without it takes none: another test's Ray may hold it.
    command += [f"--dashboard-agent-listen-port={ports[2]}"]
    process = subprocess.Popen(
        [*command, f"--temp-dir={folder}/s"],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                os.environ["RAY_AUTH_TOKEN"] = token
                Dashboard(address).jobs()
                break
            except ClusterError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield address, {"RAY_AUTH_TOKEN": token}, folder
    finally:
        os.environ.pop("RAY_AUTH_TOKEN", None)
        stop_with_descendants(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, dict[str, str], Path]]:
    with a_head(Path(sys.executable).parent) as started:
        yield started


@pytest.fixture
def bare_head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """Of a Python that has what this program imports, and not the program."""
    python = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python], check=True)
    (site,) = python.glob("lib/python*/site-packages")
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if "promptmill" not in each.name.lower():
            (site / each.name).symlink_to(each)
    script = f"#!{python}/bin/python\nfrom ray.scripts.scripts import main\nmain()\n"
    (python / "bin" / "ray").write_text(script)
    (python / "bin" / "ray").chmod(0o755)
    with a_head(python / "bin") as started:
        yield started


def write_job(here: Path, models: Path, shared: Path, name: str, **sections: Any) -> Path:
    content = {
        "name": name,
        "prompts": {"source": "given"},
        "model": {"path": str(models / "sd")},
        "generation": {"num_inference_steps": 2, "batch_size": 2},
        "output": {"url": str(shared / name), "images_per_shard": 1},
        "compute": {"workers": 1},
        **sections,
    }
    (here / "job.yaml").write_text(yaml.safe_dump(content))
    return here / "job.yaml"


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(600)
def test_a_cluster_without_this_program_gets_it(bare_head: Any, here: Path, models: Path, cli: Cli) -> None:
    path = write_job(here, models, bare_head[2], "bare")
    without = cli("submit", path, "--address", bare_head[0])
    assert without.code == 2 and "does not have promptmill" in without.out and "--ship" in without.out, without
    shipped = cli("submit", path, "--address", bare_head[0], "--ship", "--json")
    assert shipped.code == 0 and shipped.json["run"]["kept"] == 2, shipped
    assert cli("verify", bare_head[2] / "bare", "--json").json["ok"]


class TestARealHead:
    pytestmark = slow

    @pytest.fixture
    def job(self, head: Any, here: Path, models: Path) -> Callable[..., Path]:
        return partial(write_job, here, models, head[2])

    def test_a_job_is_made_and_its_answer_comes_back(self, head: Any, job: Callable[..., Path], cli: Cli) -> None:
        path, address = job("made"), head[0]
        (path.parent / "given" / "c.jsonl").write_text('{"prompt": ""}\n')
        answer = cli("submit", path, "--address", address, "--ship", "--json")
        told = answer.json
        assert answer.code == 3 == told["exit_code"], answer.err  # one prompt is empty: Ray's own client says 1
        assert told["run"]["samples"] == 3 and told["run"]["failed"] == 1 and told["job"]["state"] == "FAILED"
        assert "images" in answer.err and "shards 3/3" in answer.err
        assert cli("verify", head[2] / "made", "--json").json["samples"] == 3
        rows = cli("jobs", "--address", address, "--json").json["jobs"]
        assert rows[-1]["name"] == "made" and rows[-1]["exit_code"] == 3
        assert told["job"]["id"] in cli("jobs", "--address", address).out

    def test_what_is_wrong_is_told_with_its_own_code(self, head: Any, job: Callable[..., Path], cli: Cli) -> None:
        answer = cli("submit", job("wrong", model={"path": "/absent/model"}), "--address", head[0])
        assert answer.code == 2 and "/absent/model" in answer.out

    def test_a_job_is_stopped_gently(self, head: Any, job: Callable[..., Path], cli: Cli) -> None:
        path = job("stopped", generation={"num_inference_steps": 20, "batch_size": 1})
        (path.parent / "given" / "a.txt").write_text("".join(f"circle {n}\n" for n in range(400)))
        name = cli("submit", path, "--address", head[0], "--detach").out.strip()
        deadline = time.monotonic() + 120
        while not list((head[2] / "stopped").glob("data/*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        answer = cli("jobs", "stop", name, "--address", head[0])
        assert answer.code == 0 and "STOPPED" in answer.out, answer
        assert "finishing what is in hand" in cli("jobs", "logs", name, "--address", head[0]).out
        status = cli("status", head[2] / "stopped", "--json").json
        assert status["run"]["state"] == "stopped" and 0 < status["shards_done"] < status["shards"]
        assert cli("jobs", "logs", name, "--follow", "--address", head[0]).code == 130

    def test_who_asks_without_the_token_and_for_nothing(
        self, head: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert cli("jobs", "stop", "nobody-1", "--address", head[0]).code == 2
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        assert cli("jobs", "--address", head[0]).code == 5
