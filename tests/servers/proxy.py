"""A proxy on loopback that breaks chosen requests on the way to an S3 server, and counts what it broke.

It serves one request a connection and leaves the Host header alone, so that signatures stay valid.
"""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter, deque
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

import s3fs

from tests.servers.base import S3Server, endpoint_env, make_filesystem
from tests.servers.fault import DELAYS, WRITES, Fault, Filter, Matching
from tests.servers.process import free_ports
from tests.servers.wire import (
    CHUNK_BYTES,
    HEAD_BYTES,
    HEAD_END,
    Request,
    answer,
    closing,
    pass_continue,
    read_request,
    relay,
    reset,
)


class Seen(NamedTuple):
    """A request that came by; `fault` is the kind that ended it, empty if none did."""

    method: str
    path: str
    fault: str


class FaultProxy:
    """A context manager; the faults are methods, each returning the `Fault` it set up, which also works as a context.

    Filters are the same everywhere: `method`, `path`, `times`, `probability` (see `Fault`). Times are in seconds.
    """

    def __init__(self, server: S3Server, seed: int = 0) -> None:
        self.server = server
        self.seen: deque[Seen] = deque(maxlen=100_000)
        self._faults: list[Fault] = []
        self._counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._listener: asyncio.Server | None = None
        # The loop refers to tasks weakly: one that waits for a paused server would be collected.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held: set[asyncio.Task[Any]] = set()
        (self.port,) = free_ports(1)

    # Faults

    def latency(self, seconds: float, **matching: Unpack[Matching]) -> Fault:
        """Each matching request waits before it goes on to the server."""
        return self._add(Fault("latency", amount=seconds, **matching))

    def bandwidth(self, bytes_per_s: float, **matching: Unpack[Matching]) -> Fault:
        """Bodies, up and down, pass no faster than this."""
        return self._add(Fault("bandwidth", amount=bytes_per_s, **matching))

    def reset(self, **matching: Unpack[Matching]) -> Fault:
        """RST as soon as the head of the request is read; nothing reaches the server."""
        return self._add(Fault("reset", **matching))

    def reset_mid_upload(self, after_bytes: int, **matching: Unpack[Matching]) -> Fault:
        """RST to both sides when the server has got this much of the body, always less than all of it."""
        return self._add(Fault("reset_mid_upload", amount=after_bytes, needs_body=True, **matching))

    def reset_after_request(self, **matching: Unpack[Matching]) -> Fault:
        """The server does what was asked and answers; the client gets an RST instead: a lost reply."""
        return self._add(Fault("reset_after_request", **matching))

    def truncate_reply(self, after_bytes: int, **matching: Unpack[Matching]) -> Fault:
        """The reply's head and this much of its body arrive, then the connection is closed in good order."""
        return self._add(Fault("truncate_reply", amount=after_bytes, **matching))

    def silence(self, *, served: bool = False, **matching: Unpack[Matching]) -> Fault:
        """The connection stays open and nothing comes, not even `100 Continue`, until `clear` or the client's end.

        With `served` the request is done by the server first, and only its reply is withheld.
        """
        return self._add(Fault("silence", served=served, **matching))

    def status(
        self,
        code: int,
        n: int | None = 1,
        *,
        error: str = "",
        message: str = "",
        condition: str = "",
        **matching: Unpack[Filter],
    ) -> Fault:
        """Answer `n` requests (None: all) with this HTTP status and S3 error, without asking the server."""
        parts = {"Code": error or f"Status{code}", "Message": message or f"injected {code}", "Condition": condition}
        body = "".join(f"<{name}>{text}</{name}>" for name, text in parts.items() if text)
        document = f'<?xml version="1.0" encoding="UTF-8"?><Error>{body}</Error>'.encode()
        lines = f"HTTP/1.1 {code} Injected\r\nContent-Type: application/xml\r\nContent-Length: {len(document)}\r\n"
        head = f"{lines}x-amz-request-id: injected\r\nConnection: close\r\n\r\n".encode()
        return self._add(Fault("status", times=n, reply=head + document, **matching))

    def slow_down(self, n: int | None = 1, **matching: Unpack[Filter]) -> Fault:
        return self.status(503, n, error="SlowDown", message="Please reduce your request rate.", **matching)

    def unavailable(self, n: int | None = 1, **matching: Unpack[Filter]) -> Fault:
        return self.status(503, n, error="ServiceUnavailable", message="Service is unable to handle it.", **matching)

    def conflict(self, n: int | None = 1, **matching: Unpack[Filter]) -> Fault:
        """What AWS answers when two conditional writes of one key cross: nothing is stored, trying again is right."""
        return self.status(409, n, error="ConditionalRequestConflict", **WRITES | matching)

    def precondition_failed(
        self, n: int | None = 1, *, condition: str = "If-None-Match", **matching: Unpack[Filter]
    ) -> Fault:
        """As AWS says it, with `Condition`; without, as Ceph and Swift say it, s3fs raises another exception."""
        return self.status(412, n, error="PreconditionFailed", condition=condition, **WRITES | matching)

    def expired_token(self, n: int | None = None, **matching: Unpack[Filter]) -> Fault:
        return self.status(403, n, error="ExpiredToken", message="The provided token has expired.", **matching)

    def access_denied(self, n: int | None = None, **matching: Unpack[Filter]) -> Fault:
        return self.status(403, n, error="AccessDenied", message="Access Denied", **WRITES | matching)

    def no_space(self, n: int | None = None, **matching: Unpack[Filter]) -> Fault:
        """507 to writes, with the error code that MinIO uses for a full disk."""
        message = "Storage backend has reached its minimum free drive threshold."
        return self.status(507, n, error="XMinioStorageFull", message=message, **WRITES | matching)

    def refuse(self) -> Fault:
        """Connections are refused by the kernel until `remove` or `accept`; counted once, nobody sees the attempts."""
        fault = Fault("refuse", injected=1)
        fault.remove = self.accept  # type: ignore[method-assign]
        self._call(self._stop_listening())
        return self._add(fault)

    def accept(self) -> None:
        """End `refuse`; silent if nothing was refused."""
        if self._listener is None:
            self._call(self._listen())
        for fault in self._faults:
            fault._over = fault._over or fault.kind == "refuse"

    def clear(self) -> None:
        """End every fault: refused connections are accepted again, silent ones are closed; the counts stay."""
        with self._lock:
            for fault in self._faults:
                fault._over = True
                self._counts[fault.kind] += fault.injected
            self._faults.clear()
        self.accept()
        self._call(self._end(self._held))

    @property
    def injected(self) -> Counter[str]:
        """How often each kind struck since the proxy's start."""
        with self._lock:
            counts = Counter(self._counts)
            for fault in self._faults:
                counts[fault.kind] += fault.injected
        return +counts

    # Use

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        """Like the server's, by way of this proxy."""
        return self.server.env() | endpoint_env(self.endpoint)

    def filesystem(self, **options: Any) -> s3fs.S3FileSystem:
        """Like the server's, by way of this proxy."""
        return make_filesystem(self.endpoint, self.server.access_key, self.server.secret_key, **options)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop_listening())
        self._call(self._end(self._tasks))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    # Inside, on the loop's thread

    def _add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def _call(self, work: Any) -> None:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.result(timeout=10)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=HEAD_BYTES, reuse_address=True, backlog=256
        )

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _end(self, tasks: set[asyncio.Task[Any]]) -> None:
        ending = list(tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            request = await read_request(reader)
            if request is not None:
                await self._handle(request, reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            reset(writer)  # the server or the client went away in the middle
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _handle(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault, wait_s, bytes_per_s = self._choose(request)
        kind = fault.kind if fault else ""
        self.seen.append(Seen(request.method, request.path, kind))
        await asyncio.sleep(wait_s)
        if kind == "reset":
            reset(writer)
        elif kind == "silence" and fault and not fault.served:
            await self._hold(reader)
        elif kind == "status" and fault:
            await answer(fault.reply, request, reader, writer)
        else:
            await self._pass_on(request, fault, bytes_per_s, reader, writer)

    def _choose(self, request: Request) -> tuple[Fault | None, float, float]:
        """The fault that ends the request, the seconds to wait, and the bytes per second to pass (0: no limit)."""
        ends: Fault | None = None
        wait_s, bytes_per_s = 0.0, 0.0
        with self._lock:
            for fault in self._faults:
                if fault.kind in DELAYS:
                    if fault.hits(request, self._chance):
                        wait_s += fault.amount if fault.kind == "latency" else 0.0
                        bytes_per_s = fault.amount if fault.kind == "bandwidth" else bytes_per_s
                elif fault.kind != "refuse" and ends is None and fault.hits(request, self._chance):
                    ends = fault
        return ends, wait_s, bytes_per_s

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        """Say nothing until the client gives up or `clear` is called."""
        task = asyncio.current_task()
        assert task is not None
        self._held.add(task)
        try:
            while await reader.read(CHUNK_BYTES):
                pass
        finally:
            self._held.discard(task)

    async def _pass_on(
        self,
        request: Request,
        fault: Fault | None,
        bytes_per_s: float,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        kind = fault.kind if fault else ""
        amount = int(fault.amount) if fault else 0
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=HEAD_BYTES)
        try:
            up_writer.write(request.head)
            early = await pass_continue(up_reader, writer) if request.expects_continue else b""
            if not early:
                length = min(amount, request.length - 1) if kind == "reset_mid_upload" else request.length
                await relay(reader, up_writer, length, bytes_per_s)
            if kind == "reset_mid_upload":
                reset(up_writer)
                reset(writer)
                return
            head = early or await up_reader.readuntil(HEAD_END)
            if kind in ("reset_after_request", "silence"):
                await up_reader.read()
                await self._hold(reader) if kind == "silence" else reset(writer)
                return
            writer.write(closing(head))
            await relay(up_reader, writer, amount if kind == "truncate_reply" else None, bytes_per_s)
        finally:
            up_writer.close()
