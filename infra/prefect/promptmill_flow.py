"""Promptmill as a Prefect flow, every night: `python promptmill_flow.py` serves it. Prefect 3."""

from __future__ import annotations

import subprocess
from typing import Any

from prefect import flow, task

COMMAND = [
    "/opt/promptmill/infra/entrypoint.sh",
    "/etc/promptmill/job.yaml",
    "--extend",
    "--if-running",
    "exit",
]  # CHANGE
THE_JOB_IS_WRONG = 2


def is_worth_another_try(task: Any, run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return getattr(error, "returncode", None) != THE_JOB_IS_WRONG


@task(retries=5, retry_delay_seconds=300, retry_condition_fn=is_worth_another_try)
def run() -> None:
    subprocess.run(COMMAND, check=True)


@flow
def promptmill() -> None:
    run()


if __name__ == "__main__":
    promptmill.serve(name="nightly", cron="0 2 * * *", limit=1)
