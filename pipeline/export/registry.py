"""The way to the layouts of `layouts/`, a module each: its name is the layout's.

A module of a suite has `fill(samples, places, folders) -> Tree`, and may name in COLUMNS and OPTIONAL the source's
columns that it reads; one for training has `write` (see `training.py`). Nothing else has to know of it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from promptmill.pipeline.export import layouts

if TYPE_CHECKING:  # the command line asks for the names alone
    from promptmill.pipeline.dataset.samples import Samples
    from promptmill.pipeline.export.trees import Folders, Places, Tree

LAYOUTS = tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(layouts.__path__)))


class Layout(Protocol):
    def fill(self, samples: Samples, places: Places, folders: Folders) -> Tree:
        """Raises JobError where the dataset lacks what the layout holds."""


def layout_of(name: str) -> Layout:
    return cast(Layout, import_module(f"{layouts.__name__}.{name.replace('-', '_')}"))


def columns_of(layout: Layout) -> Sequence[str]:
    """Names of the source's columns that it reads."""
    return (*getattr(layout, "COLUMNS", ()), *getattr(layout, "OPTIONAL", ()))
