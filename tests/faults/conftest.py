"""One warm process and one set of tiny models for all fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bench import Bench
from tests.faults.forks import Forks
from tests.servers.s3 import S3Server

TIMEOUT_S = 900
"""The warm process takes 20 s of CPU to start, which is minutes where others are at work."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One warm process serves all but those that start Ray, which has a process of tests to itself."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group("faults"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    with Forks(folder) as forks:
        yield Bench(folder, forks, s3_server)


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen
