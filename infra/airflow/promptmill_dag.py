"""Promptmill as an Airflow DAG, every night: a file for the DAGs folder. Airflow 3."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

from airflow.exceptions import AirflowFailException
from airflow.sdk import dag, task

COMMAND = [
    "/opt/promptmill/infra/entrypoint.sh",
    "/etc/promptmill/job.yaml",
    "--extend",
    "--if-running",
    "exit",
]  # CHANGE
THE_JOB_IS_WRONG = 2


@dag(schedule="0 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def promptmill() -> None:
    @task(retries=5, retry_delay=timedelta(minutes=5))
    def run() -> None:
        code = subprocess.run(COMMAND, check=False).returncode
        if code == THE_JOB_IS_WRONG:
            raise AirflowFailException("the job or its input is wrong: the log says what; no other try can help")
        if code:
            raise RuntimeError(f"ended with {code}: the same command continues")

    run()


promptmill()
