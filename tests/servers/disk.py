"""A disk that fills and an output that cannot be written, made by the kernel.

Mounting needs root; the limit on file sizes does not.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

BLOCK = bytes(4096)


class CannotMount(RuntimeError):
    """This process may not mount: it is not root, or it is in a container that forbids it."""


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """An empty disk of this size over `folder`; full, it raises `OSError` 28 (ENOSPC). Raises `CannotMount`."""
    folder.mkdir(parents=True, exist_ok=True)
    with _mounted(folder, ["-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]):
        yield folder


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """`folder` with what it holds, not writable meanwhile: `OSError` 30 (EROFS). Raises `CannotMount`.

    Removing the write permission would not stop root.
    """
    with _mounted(folder, ["--bind", str(folder), str(folder)]):
        _mount(["-o", "remount,ro,bind", str(folder)])
        yield folder


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Write one file until the disk is full, then free about `leave_bytes` of it again; removing it frees the rest."""
    filler = folder / ".filler"
    try:
        with filler.open("ab", buffering=0) as file:
            while True:
                file.write(BLOCK)
    except OSError:
        os.truncate(filler, max(0, filler.stat().st_size - leave_bytes))
    return filler


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process, or of children started meanwhile, grows beyond this: `OSError` 27 (EFBIG).

    Needs no root. Python ignores the signal that goes with it; other programs are ended by SIGXFSZ.
    """
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


_CLONE_NEWNS = 0x00020000


def where_it_is_read_only(folder: Path, work: Callable[[], T]) -> T:
    """What `work` starts, and nobody else, cannot write to the folder. Raises `CannotMount`."""
    return _with_mounts(work, ["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)])


def where_it_is_full(folder: Path, work: Callable[[], T]) -> T:
    """What `work` starts sees all that is in the folder, and finds no room there. Raises `CannotMount`."""
    room = folder.with_name(f"{folder.name}-room")
    room.mkdir()

    def crowded() -> T:
        for name in ("upper", "work"):
            (room / name).mkdir()
        layers = f"lowerdir={folder},upperdir={room}/upper,workdir={room}/work"
        _mount(["-t", "overlay", "-o", layers, "overlay", str(folder)])
        fill(room)
        return work()

    return _with_mounts(crowded, ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(room)])


def _with_mounts(work: Callable[[], T], *mounts: Sequence[str]) -> T:
    """In a thread with mounts of its own, which the processes it starts have too, as long as they live."""

    def apart() -> T:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
            raise CannotMount(os.strerror(ctypes.get_errno()))
        for each in (["--make-rprivate", "/"], *mounts):
            _mount(each)
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(apart).result()


_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_CALLS = {"x86_64": {"link": (86, 265), "fsync": (74,)}, "aarch64": {"link": (37,), "fsync": (82,)}}


@contextmanager
def refusing(call: str, number: int) -> Iterator[Callable[[Callable[[], T]], T]]:
    """What is given to it runs in a thread to which the kernel refuses `link` or `fsync` with this errno.

    A filter of system calls (seccomp); needs no root.
    """
    calls = _CALLS.get(platform.machine())
    if calls is None:
        pytest.skip(f"no numbers of system calls for {platform.machine()}")
    with ThreadPoolExecutor(1, initializer=_refuse, initargs=(calls[call], number)) as thread:
        yield lambda work: thread.submit(work).result()


def _refuse(calls: Sequence[int], number: int) -> None:
    lines = [struct.pack("HBBI", _LOAD, 0, 0, 0)]  # the number of the call
    for call in calls:
        lines.append(struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, call))
        lines.append(struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | number))
    lines.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(lines))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")


@contextmanager
def _mounted(folder: Path, arguments: Sequence[str]) -> Iterator[None]:
    _mount(arguments)
    try:
        yield
    finally:
        # Lazily, since a file may still be open there.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True, timeout=30)


def _mount(arguments: Sequence[str]) -> None:
    try:
        done = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        raise CannotMount("there is no mount command") from error
    if done.returncode != 0:
        raise CannotMount(done.stderr.strip())
