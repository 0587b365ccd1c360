"""What a signal does: it ends the command at once, but for a run, which first finishes what it has in hand."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from promptmill.pipeline.execution.events import Listener, Stop

INTERRUPTED: Final = 130
GO_ON: Final = "interrupted. Run the same command again to continue."
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def on_signals(action: Callable[[], object] | None) -> None:
    """None ignores them."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN if action is None else lambda *_: action())


def leave(as_json: bool, message: str = GO_ON) -> NoReturn:
    """Ends the process past buffers, locks and threads: a signal may find any of them in use."""
    content = {"error": "Interrupted", "message": message, "problems": [], "exit_code": INTERRUPTED}
    line = getattr(sys.stderr, "line", None)  # of a JsonStream
    told = message if line is None else line("error", "message", message=message)
    with contextlib.suppress(OSError):
        os.write(2, f"{told}\n".encode())
        if as_json:
            os.write(1, f"{json.dumps(content)}\n".encode())
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def answering(answer: Callable[[], object]) -> Iterator[None]:
    """A signal calls `answer`, and where that returns nothing true does what it did outside."""

    def handle(number: int, _: object) -> None:
        if not answer():
            signal.signal(number, before[number])
            signal.raise_signal(number)

    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody set handlers
        yield
        return
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish_first(stop: Stop, listener: Listener) -> contextlib.AbstractContextManager[None]:
    """The first signal requests the stop, the next one ends."""

    asked = False  # apart from `stop`, which a spent budget requests too

    def answer() -> bool:
        nonlocal asked
        if asked:
            return False
        asked = True
        stop.request()
        listener.notice("finishing what is in hand; once more to stop now")
        return True

    return answering(answer)
