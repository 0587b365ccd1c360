"""One tiny pipeline against every promise; in a module that a spawned process can import, which `__main__` is not."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.schemas.generation import Model
from tests.families.builders import build
from tests.families.promises import PROMISES, Family


def try_family(name: str, root: Path) -> dict[str, str]:
    """Promise → `kept`, or what was found."""
    try:
        family = Family(resolve_model(Model(path=str(build(name, root / name.replace(" ", "-")))), "model"))
        _ = family.generator
    except Exception as error:
        return {"loads": (str(error).splitlines() or [type(error).__name__])[0][:200]}
    found, started = {}, monotonic()
    for promise in PROMISES:
        try:
            promise(family)
            found[promise.__name__] = "kept"
        except Exception as error:
            found[promise.__name__] = (str(error).splitlines() or [type(error).__name__])[0][:200]
        print(f"{name}: {promise.__name__}: {found[promise.__name__]}", flush=True)
    print(f"{name}: {monotonic() - started:.0f} s", flush=True)
    return found
