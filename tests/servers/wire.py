"""HTTP/1.1 as far as a proxy needs it: heads, bodies of a known length, one request a connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import NamedTuple
from urllib.parse import unquote

CHUNK_BYTES = 65_536
HEAD_BYTES = 1 << 20
HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # linger for 0 s: closing sends RST


class Request(NamedTuple):
    """`path` is decoded, with the query; `length` is the size of the body in bytes."""

    method: str
    path: str
    length: int
    expects_continue: bool
    head: bytes


async def pass_continue(up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Hand the server's `100 Continue` to the client; if it answers at once instead, the head of that answer."""
    head = await up_reader.readuntil(HEAD_END)
    if head.split(b" ", 2)[1] != b"100":
        return head
    writer.write(CONTINUE)
    return b""


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The head of a request, or None if the client closed before sending one."""
    try:
        head = await reader.readuntil(HEAD_END)
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if "transfer-encoding" in headers:
        raise EOFError("a body without Content-Length, which no S3 client sends")
    expects = headers.get("expect", "").lower() == "100-continue"
    return Request(method, unquote(target), int(headers.get("content-length", 0)), expects, closing(head))


def closing(head: bytes) -> bytes:
    """The same head with `Connection: close`, which no signature covers: one request a connection."""
    kept = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join([*kept, b"Connection: close", b"", b""])


async def relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int | None, bytes_per_s: float
) -> None:
    """Pass on `length` bytes, or everything up to the end; raises `EOFError` if fewer than `length` come."""
    left = length
    size = min(CHUNK_BYTES, max(1, int(bytes_per_s / 20))) if bytes_per_s else CHUNK_BYTES
    while left is None or left > 0:
        chunk = await reader.read(size if left is None else min(size, left))
        if not chunk:
            if left is None:
                return
            raise EOFError("the sender closed before the end of the body")
        if left is not None:
            left -= len(chunk)
        writer.write(chunk)
        await writer.drain()
        if bytes_per_s:
            await asyncio.sleep(len(chunk) / bytes_per_s)


async def answer(reply: bytes, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take the whole body as a server would, so that the reply is not lost behind an RST, then reply."""
    if request.expects_continue:
        writer.write(CONTINUE)
    left = request.length
    while left > 0:
        chunk = await reader.read(min(CHUNK_BYTES, left))
        if not chunk:
            return
        left -= len(chunk)
    writer.write(reply.partition(HEAD_END)[0] + HEAD_END if request.method == "HEAD" else reply)
    await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
