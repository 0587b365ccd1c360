"""One pipeline of each class, built and loaded once."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.schemas.generation import Model
from promptmill.schemas.resolved import ResolvedModel
from tests.families.builders import build
from tests.families.promises import Family
from tests.models import tiny

Posing = Callable[..., ResolvedModel]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    root = tmp_path_factory.mktemp("families")
    return cache(
        lambda name: Family(resolve_model(Model(path=str(build(name, root / name.replace(" ", "-")))), "model"))
    )


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_flux_undistilled(tmp_path_factory.mktemp("flux"))


@pytest.fixture
def posing(flux: Path) -> Posing:
    """Its folder, whose index says that it is of another class; what is asked is read from that class's source."""

    own = json.loads((flux / "model_index.json").read_text()) | {"sample_sigmas": None, "is_distilled": False}

    def pose(class_name: str, **more: object) -> ResolvedModel:
        index = own | {"_class_name": class_name, **more}
        (flux / "model_index.json").write_text(json.dumps(index))
        return resolve_model(Model(path=str(flux)), "model")

    return pose
