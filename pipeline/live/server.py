"""The server of `promptmill watch`: one page, its events, and the report below it. It reads, and does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from promptmill.pipeline.live.viewer import REPORT, Viewer
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import PromptmillError, StorageError

EVERY_S: Final = 2.0
_COSTS_AT_MOST: Final = 0.2  # of the time is spent looking: a dataset of a million shards is looked at less often
_QUIET_S: Final = 15.0
_MOST_CLIENTS: Final = 32
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_FILES: Final = {"": ("index.html", "text/html"), "live.js": ("live.js", "text/javascript")} | {
    "live.css": ("live.css", "text/css")
}
_TYPES: Final = {"html": "text/html", "js": "text/javascript", "json": "application/json", "csv": "text/csv"}
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report is whoever made the dataset's: it runs apart from our page, and may ask for nothing but its own pieces.
_REPORT_POLICY: Final = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'self' 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_ALWAYS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Feed:
    """Looks at the dataset while somebody watches, once for all of them."""

    def __init__(self, viewer: Viewer, every_s: float = EVERY_S) -> None:
        self._viewer, self._every_s = viewer, every_s
        self._events: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self.clients = 0

    async def look_on(self) -> None:
        while True:
            began = time.monotonic()
            if self.clients:
                await self.look()
            spent = time.monotonic() - began
            await asyncio.sleep(max(self._every_s, spent / _COSTS_AT_MOST) if self.clients else 0.1)

    async def look(self) -> None:
        try:
            view = asdict(await asyncio.to_thread(self._viewer.look))
        except PromptmillError as error:  # of the first look; later ones say it themselves
            view = {"problem": f"{error}"}
        now = {"view": json.dumps(view), "pictures": json.dumps(asdict(self._viewer.pictures))}
        async with self._changed:
            self._events = now
            self._changed.notify_all()

    async def events(self) -> AsyncIterator[str]:
        """What is new, as server-sent events; a comment where nothing is for long."""
        told: dict[str, str] = {}
        while True:
            now = self._events  # others may come while a slow client takes these
            for name, text in now.items():
                if told.get(name) != text:
                    yield f"event: {name}\ndata: {text}\n\n"
            told = now
            try:
                await asyncio.wait_for(self._other_than(told), _QUIET_S)
            except TimeoutError:
                yield ": nothing new\n\n"

    async def _other_than(self, told: dict[str, str]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._events is not told)


class Pages:
    def __init__(self, feed: Feed, store: Store) -> None:
        self._feed, self._store = feed, store

    async def page(self, request: web.Request) -> web.StreamResponse:
        name, kind = _FILES[request.match_info.get("name", "")]
        text = (files("promptmill.pipeline.live") / "page" / name).read_text(encoding="utf-8")
        headers = {**_ALWAYS, "Content-Security-Policy": _PAGE_POLICY}
        return web.Response(text=text, content_type=kind, charset="utf-8", headers=headers)

    async def events(self, request: web.Request) -> web.StreamResponse:
        if self._feed.clients >= _MOST_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_CLIENTS} pages watch already")
        answer = web.StreamResponse(headers={**_ALWAYS, "Content-Type": "text/event-stream; charset=utf-8"})
        self._feed.clients += 1
        try:
            await answer.prepare(request)
            await answer.write(b"retry: 3000\n\n")
            async for event in self._feed.events():
                await answer.write(event.encode())
        except ConnectionResetError:
            pass
        finally:
            self._feed.clients -= 1
        return answer

    async def report(self, request: web.Request) -> web.StreamResponse:
        """Objects below `report/`, of the kinds that a report is made of."""
        key = f"report/{request.match_info['path'] or REPORT.partition('/')[2]}"
        kind = _TYPES.get(key.rpartition(".")[2])
        parts = key.split("/")
        if kind is None or any(part in ("", ".", "..") or "\\" in part for part in parts):
            raise web.HTTPNotFound
        try:
            content = await asyncio.to_thread(self._store.read_if_exists, key)
        except (StorageError, ValueError):
            content = None
        if content is None:
            raise web.HTTPNotFound
        headers = {**_ALWAYS, "Content-Security-Policy": _REPORT_POLICY}
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=headers)


def guard(token: str | None, is_local: bool) -> Any:
    """With a token everything lies below it. Without one only this machine is served, and by its own names: a page of
    the web that points a name of its own here (DNS rebinding) is refused."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.url.host or ""
        if is_local and token is None and host not in LOOPBACK:
            raise web.HTTPForbidden(text="this is served to this machine alone, as 127.0.0.1")
        given = request.match_info.get("token", "")
        if token is not None and not secrets.compare_digest(given.encode(), token.encode()):
            raise web.HTTPForbidden(text="open the address that `promptmill watch` printed: it ends in a token")
        return await handler(request)

    return middleware


def application(viewer: Viewer, store: Store, token: str | None, is_local: bool, every_s: float) -> web.Application:
    app = web.Application(middlewares=[guard(token, is_local)])
    feed = Feed(viewer, every_s)
    pages, base = Pages(feed, store), "" if token is None else "/{token}"
    app.add_routes(
        [
            web.get(f"{base}/", pages.page),
            web.get(f"{base}/{{name:live\\.(?:js|css)}}", pages.page),
            web.get(f"{base}/events", pages.events),
            web.get(f"{base}/report/{{path:.*}}", pages.report),
        ]
    )

    async def looking(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(feed.look_on())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    app.cleanup_ctx.append(looking)
    return app


def serve(
    viewer: Viewer,
    store: Store,
    host: str,
    port: int,
    token: str | None,
    on_ready: Callable[[int], object],
    stop: threading.Event | None = None,
    every_s: float = EVERY_S,
) -> None:
    """Until a signal comes, or `stop` is set by another thread. `on_ready` is told the port, which 0 leaves open.

    Raises OSError where the port is taken.
    """
    asyncio.run(_serve(application(viewer, store, token, host in LOOPBACK, every_s), host, port, on_ready, stop))


async def _serve(
    app: web.Application, host: str, port: int, on_ready: Callable[[int], object], stop: threading.Event | None
) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        ended = asyncio.Event()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, ended.set)
        on_ready(runner.addresses[0][1])
        while not ended.is_set() and not (stop is not None and stop.is_set()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.2)
    finally:
        await runner.cleanup()
