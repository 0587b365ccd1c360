"""Standard streams that may be full or closed: the dataset is made all the same, and what could not be said is told."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

from promptmill.pipeline.display import shown


class Outlet:
    """A stream that never raises: after its first failure, which is kept in `failure`, it swallows."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.errors = "replace"
        self.closed = False

    def write(self, text: str) -> int:
        if self._stream is None and self.failure is None:
            self.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._attempt("write", text)
        return len(text)

    def flush(self) -> None:
        self._attempt("flush")

    def _attempt(self, method: str, *arguments: Any) -> None:
        if self.failure is not None or self._stream is None:
            return
        try:
            getattr(self._stream, method)(*arguments)
        except (OSError, ValueError) as error:
            self.failure = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
            # What lies in its buffer would be tried again when the interpreter ends, with a traceback of its own.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def isatty(self) -> bool:
        return self._stream is not None and self.failure is None and bool(self._stream.isatty())

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("closed")
        return int(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_outlets() -> None:
    """Put outlets in place of stdout and stderr. A descriptor that is closed would else go to the next file opened."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            # "×" on a terminal of ASCII is no reason to fail.
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")
        if not isinstance(stream, Outlet):
            setattr(sys, name, Outlet(stream))


def unsaid() -> OSError | None:
    """Why standard output did not take an answer; None where it did, or where the reader had enough (`| head`)."""
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    return None if isinstance(failure, BrokenPipeError) else failure


class _Lines(logging.Handler):
    """Log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            print(shown(record.getMessage()), file=sys.stderr, flush=True)


def catch_all_words() -> None:
    """Logs, warnings and tracebacks of threads, ours and of libraries, as one line each."""
    if not any(isinstance(handler, _Lines) for handler in logging.root.handlers):
        logging.root.addHandler(_Lines(logging.WARNING))
    logging.captureWarnings(True)
    threading.excepthook = lambda hook: _say_traceback(hook.exc_value, hook.exc_traceback)


def _say_traceback(error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None:
        print(*traceback_lines(error.with_traceback(trace)), sep="\n", file=sys.stderr, flush=True)


def traceback_lines(error: BaseException) -> list[str]:
    """Where an error came from and what it says, line by line: its message makes no lines of its own."""
    lines: list[str] = []
    seen: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in seen:
        seen.append(now)
        frames = [line for frame in traceback.format_tb(now.__traceback__) for line in frame.splitlines()]
        lines[:0] = ["Traceback (most recent call last):", *map(shown, frames), shown(f"{type(now).__name__}: {now}")]
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return lines
