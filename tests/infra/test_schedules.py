"""Files that start the nightly job, each against the real thing that reads it, where that is here."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import typer
import yaml

from promptmill.jobs.commands import app
from tests.infra.places import INFRA, ROOT, manifests
from tests.infra.test_rayjob import unknown_fields

SCHEMAS = ROOT.parent / "shared" / "kuberay"
CRON = INFRA / "kuberay" / "raycronjob.yaml"
UNITS = INFRA / "systemd"
NIGHTLY = "--extend --if-running exit"


def schema(name: str) -> dict[str, Any]:
    path = SCHEMAS / f"{name}.schema.json"
    if not path.is_file():
        pytest.skip("KubeRay's schemas are not here")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def raycronjob() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CRON.read_text())
    return loaded


def check_manifest(manifest: dict[str, Any], against: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(against).validate(manifest)
    properties = against["properties"] | {"metadata": {"additionalProperties": True}}
    assert list(unknown_fields(manifest, {"properties": properties})) == []


def test_raycronjob_follows_the_schema() -> None:
    check_manifest(raycronjob(), schema("raycronjobs"))


def test_raycronjob_runs_what_rayjob_runs() -> None:
    template, spec = raycronjob()["spec"]["jobTemplate"], manifests()["RayJob"]["spec"]
    assert template["entrypoint"] == f"{spec['entrypoint']} {NIGHTLY}"
    assert {**template, "entrypoint": ""} == {**spec, "entrypoint": ""}


def patched(document: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """JSON Patch (RFC 6902), as far as `rayjob-patch.yaml` goes."""
    whole = copy.deepcopy(document)
    for operation in operations:
        *path, last = (part.replace("~1", "/") for part in operation["path"].split("/")[1:])
        place: Any = whole
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        assert operation["op"] == "add" or last in place, operation["path"]
        if operation["op"] == "remove":
            del place[last]
        else:
            place[last] = operation["value"]
    return whole


def test_a_queue_and_priorities_on_a_shared_cluster() -> None:
    folder = INFRA / "kuberay" / "shared"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    named = [*kustomization["resources"], *(patch["path"] for patch in kustomization["patches"])]
    assert all((folder / name).is_file() for name in named)
    rayjob = patched(manifests()["RayJob"], yaml.safe_load((folder / "rayjob-patch.yaml").read_text()))
    check_manifest(rayjob, schema("rayjobs"))
    assert rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    cluster = rayjob["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    classes = {each["metadata"]["name"]: each for each in yaml.safe_load_all((folder / "priorities.yaml").read_text())}
    worker = classes[workers["template"]["spec"]["priorityClassName"]]
    assert worker["value"] < 0 < classes[cluster["headGroupSpec"]["template"]["spec"]["priorityClassName"]]["value"]
    validate = pytest.importorskip("kubernetes_validate")
    for each in classes.values():
        validate.validate(each, "1.31", strict=True)


def here(text: str) -> str:
    """The unit or table with the paths of this checkout."""
    return text.replace("/opt/promptmill", str(ROOT)).replace("/etc/promptmill/job.yaml", f"{ROOT}/README.md")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(here(unit.read_text()).replace("User=promptmill", "User=root"))
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in (ended.stdout + ended.stderr).splitlines() if "promptmill" in line]
    assert (ended.returncode, told) == (0, []), ended.stderr
    service = tmp_path / "promptmill.service"
    service.write_text(service.read_text().replace("RestartSec=5min", "RestartSecs=5min"))
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "RestartSecs" in ended.stderr  # a misspelt field is found
    when = re.search(r"^OnCalendar=(.*)$", (UNITS / "promptmill.timer").read_text(), re.M)
    assert when is not None
    subprocess.run(["systemd-analyze", "calendar", when[1]], check=True, capture_output=True)


def test_systemd_tries_again_what_is_worth_it() -> None:
    text = (UNITS / "promptmill.service").read_text()
    assert "Restart=on-failure" in text and "RestartPreventExitStatus=2\n" in text
    assert f"infra/entrypoint.sh /etc/promptmill/job.yaml {NIGHTLY}\n" in text


def test_systemd_lets_the_run_write_its_metrics() -> None:
    """`ProtectSystem=strict` made the file of the README's own example read-only: exit code 2 every night."""
    example = re.search(r"--metrics-file (\S+)", (INFRA / "README.md").read_text())
    assert example is not None
    paths = re.findall(r"^ReadWritePaths=(.*)$", (UNITS / "promptmill.service").read_text(), re.M)
    assert str(Path(example[1]).parent) in {path.lstrip("-") for line in paths for path in line.split()}


@pytest.mark.skipif(shutil.which("crontab") is None, reason="needs cron")
@pytest.mark.parametrize("name", ["cron/promptmill.crontab", "slurm/promptmill.scrontab"])
def test_cron_takes_the_table(name: str, tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_text((INFRA / name).read_text())
    assert dry_run(table).returncode == 0, dry_run(table).stderr
    table.write_text(table.read_text().replace("0 2 * * *", "0 25 * * *"))
    assert dry_run(table).returncode != 0


def dry_run(table: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["crontab", "-n", str(table)], capture_output=True, text=True, check=False)


def cron_line(name: str) -> str:
    return [line for line in (INFRA / name).read_text().splitlines() if line.startswith("0 2")][-1]


@pytest.mark.parametrize(("code", "mail"), [(0, ""), (75, "said\n"), (2, "said\n")])
def test_cron_mails_what_goes_wrong_alone(tmp_path: Path, code: int, mail: str) -> None:
    """The line as cron runs it: by sh, with what it prints as the mail."""
    entry = tmp_path / "infra" / "entrypoint.sh"
    entry.parent.mkdir()
    entry.write_text(f"#!/bin/sh\necho said >&2\nexit {code}\n")
    entry.chmod(0o755)
    command = cron_line("cron/promptmill.crontab").split(" ", 5)[5].replace("/opt/promptmill", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == mail
    assert [path.name for path in tmp_path.iterdir()] == ["infra"]


def test_scrontab_asks_for_what_the_batch_script_asks_for() -> None:
    def options(text: str, mark: str) -> dict[str, str]:
        return dict(re.findall(rf"^{mark} --([\w-]+)=?(.*)$", text, re.M))

    ours = options((INFRA / "slurm" / "promptmill.scrontab").read_text(), "#SCRON")
    batch = options((INFRA / "slurm" / "promptmill.sbatch").read_text(), "#SBATCH")
    assert batch.keys() <= ours.keys()
    assert {name: value for name, value in batch.items() if name not in ("time", "output")}.items() <= ours.items()


def unknown_options(text: str) -> set[str]:
    """What is given to the entry command, on its line or as a list over several, and is no option of `run`."""
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    known = {option for parameter in run.params for option in (*parameter.opts, *parameter.secondary_opts)}
    plain = re.sub(r"(?m)(^|\s)#.*$", "", text)
    commands = re.findall(r'(?:entrypoint(?:\.sh)?|promptmill\.sbatch)"?(,[^\]]*\]| [^\n]*)', plain)
    given = {word for command in commands for word in re.findall(r"(?<![\w-])--[\w-]+", command)}
    assert "--ext" in "".join(given), text
    return given - known


def test_commands_have_the_options_that_schedules_give() -> None:
    files = [*UNITS.iterdir(), CRON, *(INFRA / "airflow").iterdir(), *(INFRA / "prefect").iterdir()]
    texts = [*(path.read_text() for path in files), cron_line("cron/promptmill.crontab")]
    texts += [cron_line("slurm/promptmill.scrontab"), (INFRA / "skypilot" / "promptmill.yaml").read_text()]
    starting = [text for text in texts if "extend" in text]
    assert len(starting) == len(texts) - 1  # the timer starts the service
    for text in starting:
        assert unknown_options(text) == set()
        assert unknown_options(text.replace("--extend", "--extent")) == {"--extent"}


def in_scratch(tmp_path: Path, script: str) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)}
    environment |= {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_airflow_imports_the_dag(tmp_path: Path) -> None:
    pytest.importorskip("airflow")
    script = (
        "import importlib.util, pytest\n"
        f"spec = importlib.util.spec_from_file_location('dag', {str(INFRA / 'airflow' / 'promptmill_dag.py')!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "dag = module.promptmill()\n"
        "assert dag.max_active_runs == 1 and not dag.catchup and dag.schedule == '0 2 * * *'\n"
        "(task,) = dag.tasks\n"
        "assert task.retries == 5\n"
        "from airflow.exceptions import AirflowFailException\n"
        "for code, error in ((2, AirflowFailException), (75, RuntimeError)):\n"
        "    module.COMMAND[:] = ['sh', '-c', f'exit {code}']\n"
        "    with pytest.raises(error): task.python_callable()\n"
        "module.COMMAND[:] = ['true']; task.python_callable()\n"
    )
    in_scratch(tmp_path, script)


@pytest.mark.slow
def test_prefect_imports_the_flow(tmp_path: Path) -> None:
    pytest.importorskip("prefect")
    script = (
        f"import subprocess, sys; sys.dont_write_bytecode = True; sys.path.insert(0, {str(INFRA / 'prefect')!r})\n"
        "import promptmill_flow as module\n"
        "class Ended:\n"
        "    def __init__(self, code): self.error = subprocess.CalledProcessError(code, [])\n"
        "    def result(self, raise_on_failure): return self.error\n"
        "assert not module.is_worth_another_try(None, None, Ended(2))\n"
        "assert module.is_worth_another_try(None, None, Ended(75))\n"
        "assert module.run.retries == 5 and module.run.retry_condition_fn is module.is_worth_another_try\n"
        "assert module.promptmill.to_deployment(name='nightly', cron='0 2 * * *').name == 'nightly'\n"
    )
    in_scratch(tmp_path, script)


@pytest.mark.slow
def test_skypilot_parses_the_task(tmp_path: Path) -> None:
    pytest.importorskip("sky")
    script = (
        "import sky\n"
        f"task = sky.Task.from_yaml({str(INFRA / 'skypilot' / 'promptmill.yaml')!r})\n"
        "(resources,) = task.resources\n"
        "assert resources.use_spot and task.envs['JOB'] == 'job.yaml'\n"
        "codes = resources.job_recovery['recover_on_exit_codes']\n"
        "assert 75 in codes and 2 not in codes\n"
    )
    in_scratch(tmp_path, script)
