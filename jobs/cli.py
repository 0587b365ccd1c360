"""How a command begins and ends: signals are answered before the imports, which take a second; errors are told."""

from __future__ import annotations

import atexit
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from promptmill.jobs.signals import INTERRUPTED, leave, on_signals
from promptmill.schemas.errors import JobError, PromptmillError, WorkerHungError


def main() -> None:
    as_json = "--json" in sys.argv
    on_signals(lambda: leave(as_json))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "×" on a terminal of ASCII is no reason to fail
    atexit.register(on_signals, None)  # called last: the interpreter then drops all handlers and closes for a second
    code = guarded(_command, as_json)
    on_signals(lambda: os._exit(code))  # the answer is out
    sys.exit(code)


def _command() -> Any:
    from promptmill.jobs.commands import app

    return app(standalone_mode=False)


def guarded(command: Callable[[], Any], as_json: bool) -> int:
    """Exit code of the command, with every error turned into a message."""
    import typer
    from typer.exceptions import TyperException

    from promptmill.jobs.console import err, report_error, say_error

    try:
        code = command()
        return code if isinstance(code, int) else 0
    except WorkerHungError as error:
        code = report_error(error, as_json)
        sys.stdout.flush()
        os._exit(code)  # the hung thread would be waited for
    except PromptmillError as error:
        return report_error(error, as_json)
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # which typer takes for Ctrl-D at a question
            return _unexpected(error.__cause__, as_json)
        err.print("interrupted. Run the same command again to continue.")
        return INTERRUPTED
    except typer.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except TyperException as error:
        wrong_usage: Any = error  # of an option or argument; the class with its methods is private
        wrong_usage.show()
        if as_json:
            say_error(error, wrong_usage.format_message(), JobError.exit_code)
        return JobError.exit_code
    except Exception as error:
        return _unexpected(error, as_json)


def _unexpected(error: BaseException, as_json: bool) -> int:
    from promptmill.jobs.console import err, say_error
    from promptmill.pipeline.display import redact

    err.print(redact("".join(traceback.format_exception(error))), end="")
    err.print("This is a defect of Promptmill, or of a library under it. Finished shards stay; run again to continue.")
    if as_json:
        say_error(error, str(error), PromptmillError.exit_code)
    return PromptmillError.exit_code


if __name__ == "__main__":
    main()
