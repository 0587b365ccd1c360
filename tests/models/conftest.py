"""Tiny models, built once a session and loaded once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from promptmill.pipeline.models.catalog.clips import ResolvedClip, resolve_clip
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.load import load_generator
from promptmill.schemas.generation import Model
from tests.models import tiny

Family = Callable[[str], DiffusersGenerator]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family: sd15, sdxl, sd3, flux, pixart, clip."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda family: getattr(tiny, f"build_{family}")(root / family))


@pytest.fixture(scope="session")
def generator(folder: Callable[[str], Path]) -> Family:
    @cache
    def load(family: str) -> DiffusersGenerator:
        loaded = load_generator(resolve_model(Model(path=str(folder(family))), "model"), threads=1)
        assert isinstance(loaded, DiffusersGenerator)
        return loaded

    return load


@pytest.fixture(scope="session")
def clip(folder: Callable[[str], Path]) -> ResolvedClip:
    return resolve_clip(f"local-dir:{folder('clip')}", "score.0.clip")
