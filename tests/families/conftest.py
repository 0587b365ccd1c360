"""One pipeline of each class, built and loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.schemas.generation import Model
from tests.families.builders import build
from tests.families.promises import Family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: Family(resolve_model(Model(path=str(build(name, root / name))), "model")))
