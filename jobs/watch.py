"""`promptmill watch`: a page over a dataset while it is made, from wherever the dataset can be read."""

from __future__ import annotations

import os
import secrets
from typing import Annotated

import typer

from promptmill.jobs.console import say, say_json
from promptmill.jobs.options import AsJson, PricePerHour, Url
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.storage.patience import default_patience_s
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.operations import WatchResult

_TOKEN = "PROMPTMILL_WATCH_TOKEN"  # noqa: S105 - its name
_PATIENCE_S = 10.0
_LEAST_TOKEN = 16


def command(
    url: Url,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 8700,
    host: Annotated[
        str, typer.Option(help="Address to serve at. One that others reach asks for the token in the printed address.")
    ] = "127.0.0.1",
    price_per_hour: PricePerHour = None,
    as_json: AsJson = False,
) -> None:
    """Serve a live page over a dataset that is being made; reads it, and needs no way into the cluster."""
    from promptmill.pipeline.live.server import LOOPBACK, serve  # a second to import
    from promptmill.pipeline.live.viewer import Viewer

    plan, store = open_dataset(url, patience_s=min(_PATIENCE_S, default_patience_s()))
    token = watch_token(host in LOOPBACK)

    def ready(number: int) -> None:
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{number}/" + (f"{token}/" if token else "")
        if as_json:
            say_json(WatchResult(output=url, address=address).as_json())
        else:
            say(f"Watching {url} at {address} (Ctrl-C ends)")

    try:
        serve(Viewer(plan, store, price_per_hour), store, host, port, token, ready)
    except OSError as error:
        hint = "Give another one with --port, or 0 for any"
        raise JobError(Problem(f"--host {host} --port {port}", "an address that is free", str(error), hint)) from None


def watch_token(is_local: bool) -> str | None:
    """That of the environment; else a new one where others reach the page, and none on this machine alone."""
    given = os.environ.get(_TOKEN, "")
    if given and (
        len(given) < _LEAST_TOKEN or not given.isascii() or not given.replace("-", "").replace("_", "").isalnum()
    ):
        expected = f"at least {_LEAST_TOKEN} letters, digits, - and _"
        raise JobError(
            Problem(f"the variable {_TOKEN}", expected, f"{len(given)} characters", "Unset it for a new one")
        )
    return given or (None if is_local else secrets.token_urlsafe(24))
