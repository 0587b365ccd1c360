"""Azure, Google and SFTP for real: a job, a wrong key, a place that is not there, an outage, and what `doctor` says."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec.config
import pytest

from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError
from tests.engine.conftest import Answer
from tests.servers.process import ServerError

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]


@dataclass(frozen=True)
class Neighbour:
    """`missing` is in a container that is not there; `wrong_env` holds a key that the server refuses."""

    server: Any
    url: str
    missing: str
    env: Mapping[str, str]
    wrong_env: Mapping[str, str] | None
    weakness: str = ""


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbour]:
    pytest.importorskip("adlfs")
    from tests.servers.azure import ACCOUNT, AzureServer

    try:
        server = AzureServer(tmp_path_factory.mktemp("azure"))
    except ServerError as error:
        pytest.skip(str(error))
    with server:
        server.make_container("images")
        wrong = server.env(base64.b64encode(secrets.token_bytes(64)).decode())
        url = f"abfss://images@{ACCOUNT}.dfs.core.windows.net"
        yield Neighbour(server, url, "az://nowhere/out", server.env(), wrong)


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbour]:
    pytest.importorskip("gcsfs")
    from tests.servers.gcs import GcsServer

    try:
        server = GcsServer(tmp_path_factory.mktemp("google"))
    except ServerError as error:
        pytest.skip(str(error))
    with server:
        server.make_bucket("images")
        yield Neighbour(server, "gs://images", "gs://nowhere/out", server.env(), None)


@pytest.fixture(scope="module")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbour]:
    pytest.importorskip("paramiko")
    from tests.servers.sftp import SftpServer

    with SftpServer(tmp_path_factory.mktemp("sftp")) as server:
        wrong = {**server.env(), "FSSPEC_SFTP_PASSWORD": "chaff"}
        yield Neighbour(server, server.url("images"), "", server.env(), wrong, "it has no conditional writes")


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Set the variables as a process would find them that starts with them."""

    def set_all(env: Mapping[str, str]) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        config: dict[str, dict[str, str]] = {}
        fsspec.config.set_conf_env(config)
        monkeypatch.setattr(fsspec.config, "conf", config)
        for protocol in ("az", "gs", "sftp"):
            if protocol in fsspec.registry:
                fsspec.get_filesystem_class(protocol).clear_instance_cache()

    return set_all


@pytest.fixture(params=["azure", "google", "sftp"])
def neighbour(request: pytest.FixtureRequest, enter: Callable[[Mapping[str, str]], None]) -> Neighbour:
    found: Neighbour = request.getfixturevalue(request.param)
    enter(found.env)
    return found


@pytest.mark.slow
def test_a_job(cli: Cli, job: MakeJob, neighbour: Neighbour, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{neighbour.url}/a job"
    made = job(output={"url": url})
    answer = cli("run", made, "--in-process", "--json")
    assert answer.code == 0 and answer.json["kept"] == 8, answer
    warned = [text for text in caplog.messages if "two writers" in text]
    assert [f"{url}: {neighbour.weakness}" in text for text in warned] == ([True] if neighbour.weakness else [])
    Store(url).delete("data/part-000001.parquet")
    assert cli("verify", url).code == 1
    assert cli("run", made, "--in-process", "--json").json["made"]["kept"] == 4
    assert cli("verify", url, "--deep").code == 0
    assert cli("status", url, "--json").json["kept"] == 8


def test_what_doctor_says(cli: Cli, neighbour: Neighbour) -> None:
    answer = cli("doctor", f"{neighbour.url}/doctored", "--json")
    told = [problem for problem in answer.json["problems"] if neighbour.url in problem]
    if neighbour.weakness:
        assert answer.json["storage"] == f"writes, reads; {neighbour.weakness}"
        assert len(told) == 1 and neighbour.weakness in told[0]
    else:
        assert (answer.json["storage"], told) == ("writes, reads, refuses to overwrite", [])
    assert Store(f"{neighbour.url}/doctored").find() == []


def test_a_wrong_key_and_a_missing_container(
    cli: Cli, job: MakeJob, neighbour: Neighbour, enter: Callable[[Mapping[str, str]], None]
) -> None:
    if neighbour.missing:
        answer = cli("run", job(output={"url": neighbour.missing}), "--in-process")
        assert answer.code == 4 and "bucket or folder exists" in answer.err, answer
        assert cli("status", neighbour.missing).code in (2, 4)
    if neighbour.wrong_env is None:
        return
    enter(neighbour.wrong_env)
    url = f"{neighbour.url}/refused"
    for command in (["run", job(output={"url": url}), "--in-process"], ["status", url], ["verify", url]):
        began = time.monotonic()
        answer = cli(*command)
        assert answer.code == 4 and "Check that these credentials" in answer.err, answer
        assert "Traceback" not in answer.err
        assert time.monotonic() - began < 10, "a wrong key gets no better by waiting"


def test_an_outage_of_seconds_is_waited_for(neighbour: Neighbour) -> None:
    waits: list[str] = []
    store = Store(f"{neighbour.url}/outage", on_wait=waits.append)
    assert store.create("before", b"1")
    for call in (lambda: store.create("during", b"2"), lambda: store.read("before"), lambda: store.list("data")):
        neighbour.server.stop()
        back = threading.Timer(1.0, neighbour.server.start)
        back.start()
        call()
        back.join()
        assert waits
        waits.clear()
    assert (store.read("before"), store.read("during")) == (b"1", b"2")


@pytest.mark.parametrize(
    ("url", "misread"),
    [
        ("s3://bucket/a?versionId=b", "?versionId="),
        ("s3://bucket//out", "begin with `/`"),
        ("s3a://bucket/a\x01b", "control characters"),
        ("gs://bucket/a//b", "//"),
        ("az://images/brackets[1]", "["),
        ("abfss://images@account.dfs.core.windows.net/a:b", ":"),
        ("az://images/back\\slash", "\\"),
        ("sftp://host/what?", "?"),
        ("sftp://me@host:22/hash#1", "#"),
    ],
)
def test_places_that_a_client_misreads_are_refused_by_name(cli: Cli, job: MakeJob, url: str, misread: str) -> None:
    """Some raised ValueError; of others no listing showed what had been written."""
    for command in (["validate", job(output={"url": url})], ["status", url], ["doctor", url]):
        answer = cli(*command)
        assert answer.code == 2 and misread in answer.err, answer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brackets[1]", "what?", "hash#1", "per%20cent", "pl us+", "a:b@c", "x[!a]"])
def test_odd_places_in_s3(s3_bucket: str, s3_env: dict[str, str], name: str) -> None:
    store = Store(f"s3://{s3_bucket}/{name}/out")
    assert store.create("data/a.txt", b"1") and not store.create("data/a.txt", b"2")
    assert [entry.name for entry in (*store.list("data"), *store.find("data/*"), *store.find())] == ["data/a.txt"] * 3
    for source in ("data", "data/*.txt", "data/a.txt"):
        found, (entry,) = find_objects(f"{store.url}/{source}")
        assert found.read(entry.name) == b"1"
    store.delete("data/a.txt")
    assert store.list("data") == []


@pytest.mark.slow
def test_an_object_that_no_client_can_ask_for(s3_bucket: str, s3_env: dict[str, str]) -> None:
    store = Store(f"s3://{s3_bucket}/prompts")
    store.fs.call_s3("put_object", Bucket=s3_bucket, Key="prompts/a?versionId=1.txt", Body=b"a red circle")
    for source in (store.url, f"{store.url}/*.txt"):
        with pytest.raises(InputError, match=r"\?versionId="):
            find_objects(source)
