"""How a command begins and ends: signals are answered before the imports, which take a second; errors are told."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from promptmill.jobs.outlets import catch_all_words, open_outlets, traceback_lines, unsaid
from promptmill.jobs.signals import GO_ON, INTERRUPTED, leave, on_signals
from promptmill.pipeline.execution.json_stream import json_stderr
from promptmill.pipeline.execution.surroundings import settle
from promptmill.schemas.errors import HeadLostError, JobError, Problem, PromptmillError, StorageError, WorkerHungError


def main() -> None:
    as_json = "--json" in sys.argv
    on_signals(lambda: leave(as_json))
    open_outlets()
    if logs_as_json(sys.argv[1:], os.environ):
        json_stderr()
    settle()
    catch_all_words()
    atexit.register(on_signals, None)  # called last: the interpreter then drops all handlers and closes for a second
    code = _told(guarded(_command, as_json))
    on_signals(lambda: os._exit(code))  # the answer is out
    sys.exit(code)


def logs_as_json(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """`--log-format` before options are read: what is said until then, and of a wrong option, is an object too."""
    if words[:1] not in (["run"], ["retry"]):
        return False
    given = environment.get("PROMPTMILL_LOG_FORMAT", "")
    for word, after in pairwise([*words, ""]):
        name, has_value, value = word.partition("=")
        if name == "--log-format":
            given = value if has_value else after
    return given == "json"


def _told(code: int) -> int:
    """The exit code, or that of storage where all went well and standard output did not take the answer."""
    if (failure := unsaid()) is None or code:
        return code
    print(f"error: standard output does not take the answer: {failure.strerror}. All else is done", file=sys.stderr)
    return StorageError.exit_code


def _command() -> Any:
    check_folder()
    from promptmill.jobs.commands import app

    return app(standalone_mode=False)


def check_folder() -> None:
    """Raises JobError where the current folder was deleted: no library under us bears that."""
    try:
        Path.cwd()
    except OSError as error:
        hint = "Change to a folder that exists (`cd`), and run the same command there"
        raise JobError(Problem("the current folder", "one that exists", f"a deleted one ({error})", hint)) from None


def guarded(command: Callable[[], Any], as_json: bool) -> int:
    """Exit code of the command, with every error turned into a message."""
    import typer
    from typer.exceptions import TyperException

    from promptmill.jobs.console import report_error, say_on_stderr

    try:
        code = command()
        return code if isinstance(code, int) else 0
    except (WorkerHungError, HeadLostError) as error:
        code = report_error(error, as_json)
        sys.stdout.flush()
        os._exit(code)  # the hung thread would be waited for, or a head that is gone
    except PromptmillError as error:
        return report_error(error, as_json)
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # which typer takes for Ctrl-D at a question
            return _unexpected(error.__cause__, as_json)
        say_on_stderr(GO_ON)
        return INTERRUPTED
    except typer.Exit as error:
        return error.exit_code
    except TyperException as error:
        return _wrong_usage(error, as_json)
    except Exception as error:
        return _unexpected(error, as_json)


def _wrong_usage(error: Any, as_json: bool) -> int:
    """Of an option or argument: what typer says, and how the command is called."""
    from promptmill.jobs.console import say_error, say_on_stderr

    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return JobError.exit_code
    message, context = error.format_message(), getattr(error, "ctx", None)
    say_on_stderr(f"error: {message}")
    if context is not None:
        say_on_stderr(f"{context.get_usage()}. `{context.command_path} -h` says more")
    if as_json:
        say_error(error, message, JobError.exit_code)
    return JobError.exit_code


def _unexpected(error: BaseException, as_json: bool) -> int:
    from promptmill.jobs.console import say_error, say_on_stderr

    say_on_stderr(*traceback_lines(error))
    say_on_stderr(
        "This is a defect of Promptmill, or of a library under it. Finished shards stay; run again to continue."
    )
    if as_json:
        say_error(error, str(error), PromptmillError.exit_code)
    return PromptmillError.exit_code


if __name__ == "__main__":
    main()
