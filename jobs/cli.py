"""How a command begins and ends: signals are answered before the imports, which take a second; errors are told."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from jobs.signals import INTERRUPTED, leave, on_signals
from schemas.errors import PromptmillError, WorkerHungError


def main() -> None:
    as_json = "--json" in sys.argv
    on_signals(lambda: leave(as_json))
    atexit.register(on_signals, None)  # called last: the interpreter then drops all handlers and closes for a second
    code = guarded(_command, as_json)
    on_signals(lambda: os._exit(code))  # the answer is out
    sys.exit(code)


def _command() -> Any:
    from jobs.commands import app

    return app(standalone_mode=False)


def guarded(command: Callable[[], Any], as_json: bool) -> int:
    """Exit code of the command, with every error turned into a message."""
    import typer
    from typer.exceptions import TyperException

    from jobs.console import err, report_error

    try:
        code = command()
        return code if isinstance(code, int) else 0
    except WorkerHungError as error:
        code = report_error(error, as_json)
        sys.stdout.flush()
        os._exit(code)  # the hung thread would be waited for
    except PromptmillError as error:
        return report_error(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted. Run the same command again to continue.")
        return INTERRUPTED
    except typer.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, TyperException) and hasattr(error, "show"):  # a wrong option or argument
            error.show()
            return 2
        from pipeline.redact import redact

        err.print(redact(traceback.format_exc()), end="")
        err.print(
            "This is a defect of Promptmill, or of a library under it. Finished shards stay; run again to continue."
        )
        return 1


if __name__ == "__main__":
    main()
