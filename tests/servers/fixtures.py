"""Fixtures for every test: `pytest_plugins = ["tests.servers.fixtures"]` in the outermost conftest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.disk import CannotMount, read_only, small_disk
from tests.servers.proxy import FaultProxy
from tests.servers.s3 import S3Server, ServerError, start_s3

SMALL_DISK_BYTES = 1 << 20


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session; `PROMPTMILL_TEST_S3=swift` chooses. Skips where none is installed."""
    try:
        server = start_s3(folder=tmp_path_factory.mktemp("s3"))
    except ServerError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """The name of an empty bucket of the test's own."""
    return s3_server.make_bucket()


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The server's variables, set in this process too, so that a bare `s3://` URL reaches it."""
    env = s3_server.env()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return env


@pytest.fixture
def fault_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A proxy without faults before the server."""
    with FaultProxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 1 MiB of its own. Skips where mounting is not allowed."""
    try:
        with small_disk(tmp_path / "disk", SMALL_DISK_BYTES) as folder:
            yield folder
    except CannotMount as error:
        pytest.skip(f"cannot mount: {error}")


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder that nobody can write to. Skips where mounting is not allowed."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    try:
        with read_only(folder):
            yield folder
    except CannotMount as error:
        pytest.skip(f"cannot mount: {error}")
