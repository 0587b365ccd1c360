"""Machines as they are: `uv run`, long TMPDIR, users without name or home, settings that are garbage, HTTPS stores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptmill.pipeline.execution import surroundings
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, StorageError
from tests.engine.conftest import Answer
from tests.servers.base import endpoint_env
from tests.servers.s3 import S3Server

Cli = Callable[..., Answer]
NOBODY = 4711
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def test_the_hook_of_uv_run_is_off_before_ray_is_there() -> None:
    """With it no worker started: `uv run promptmill run` ended with 5 each time."""
    script = (
        "from promptmill.jobs.run import _check_address\n_check_address('local')\n"
        "from ray._private import ray_constants\nassert not ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(UV is None, reason="needs uv")
def test_uv_run_in_a_project_with_names_like_ours_and_a_temporary_folder_too_long_for_sockets(
    job: Callable[..., Path], tmp_path: Path
) -> None:
    """A real uv project with this checkout as a path dependency, a real Ray of its own, two samples."""
    project = tmp_path / "project"
    project.mkdir()
    root = Path(__file__).parents[2]
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["promptmill"]\n'
        f'[tool.uv.sources]\npromptmill = {{path = "{root}", editable = true}}\n'
    )
    (project / "schemas").mkdir()
    for name in ("schemas/__init__.py", "pipeline.py", "jobs.py", "records.py"):  # workers import ours
        (project / name).write_text("raise SystemExit('the wrong module')\n")
    long = tmp_path / ("temporary" * 12)
    long.mkdir()
    made = job(prompts={"limit": 1}, compute={"workers": 1})
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(tmp_path), "TMPDIR": str(long), "UV_PROJECT_ENVIRONMENT": sys.prefix, "UV_OFFLINE": "1"}
    command = [str(UV), "run", "--no-sync", "promptmill", "run", str(made), "--json"]
    ended = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["kept"] == 2
    assert "Token authentication" not in ended.stderr, "Ray's word on each local run"
    assert (tmp_path / ".ray" / "auth_token").read_text().strip(), "which asks for a token all the same"


def test_a_temporary_folder_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert surroundings.socket_folder() is None
    long = tmp_path / ("x" * 60)
    long.mkdir()
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, str(long))
        folder = surroundings.socket_folder()
        assert folder is not None and len(folder) < 20 and Path(folder).parent.is_dir()
        assert [text for text in surroundings.oddities() if "RAY_TMPDIR" in text]
    monkeypatch.setattr(surroundings, "_SHORT", (str(long),))
    monkeypatch.setattr(surroundings, "_writable", lambda folder: False)
    with pytest.raises(JobError, match="RAY_TMPDIR"):
        surroundings.socket_folder()


def test_folders_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setenv("HOME", "/proc")
    told = list(surroundings.oddities())
    assert [text for text in told if "set TMPDIR" in text] and [text for text in told if "set HOME" in text]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_a_user_whom_the_machine_does_not_know(home: str | None) -> None:
    """torch and Ray ask for a name, and for a home: KeyError, RuntimeError."""
    script = (
        "import getpass, pathlib, promptmill.pipeline.execution.surroundings as s; s.settle()\n"
        "print(getpass.getuser(), pathlib.Path.home(), *s.oddities(), sep='\\n')"
    )
    powers = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    who = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "TMPDIR")}
    env |= {} if home is None else {"HOME": home}
    ended = subprocess.run(
        ["setpriv", *who, *powers, sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    name, place, *told = ended.stdout.splitlines()
    assert name == f"uid{NOBODY}"
    assert place == (home or f"/tmp/promptmill-uid{NOBODY}")
    assert [text for text in told if "set USER" in text] and [text for text in told if "set HOME" in text]
    shutil.rmtree(f"/tmp/promptmill-uid{NOBODY}", ignore_errors=True)


@pytest.mark.parametrize(
    "setting",
    [
        {"AWS_PROFILE": "nobody"},
        {"AWS_ENDPOINT_URL": "nonsense"},
        {"AWS_ENDPOINT_URL": "http://[::1"},
        {"AWS_ENDPOINT_URL": "ftp://host"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:99999"},
        {"AWS_DEFAULT_REGION": "x y"},
        {"AWS_CONFIG_FILE": __file__},
        {"AWS_CA_BUNDLE": "/nonexistent", "AWS_ENDPOINT_URL": "https://127.0.0.1:1"},
        {"AWS_RETRY_MODE": "x"},
        {"AWS_REQUEST_CHECKSUM_CALCULATION": "x"},
        {"AWS_STS_REGIONAL_ENDPOINTS": "x"},
        {"AWS_ACCOUNT_ID_ENDPOINT_MODE": "x"},
        {"AWS_METADATA_SERVICE_TIMEOUT": "x"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "nonsense", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        {"HTTP_PROXY": ":::", "NO_PROXY": "", "no_proxy": ""},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_garbage_in_the_settings_is_known_at_once(setting: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was tried for 300 seconds, or ended in a traceback."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    usual = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    for name, value in {**usual, **setting}.items():
        monkeypatch.setenv(name, value)
    waits: list[str] = []
    with pytest.raises(StorageError) as caught:
        Store("s3://bucket/out", patience_s=60, on_wait=waits.append).read("job.json")
    assert waits == []
    assert "Nothing is lost" not in str(caught.value)


def test_settings_that_change_are_met(s3_bucket: str, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first client was kept for the process: in a notebook, correcting a key or an endpoint changed nothing."""
    url = f"s3://{s3_bucket}/out"
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(StorageError, match="credentials"):
            Store(url, patience_s=1).put("a", b"1")
    Store(url).put("a", b"1")
    assert Store(url).fs is Store(url).fs, "one client for one environment"


@pytest.mark.parametrize("value", ["x", "-1", "inf", "nan", "1,5"])
def test_garbage_in_our_own_setting(cli: Cli, tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTMILL_STORAGE_PATIENCE_S", value)
    for command in (["status", tmp_path], ["doctor", tmp_path], ["verify", tmp_path]):
        answer = cli(*command)
        assert answer.code == 2 and "PROMPTMILL_STORAGE_PATIENCE_S" in answer.err, answer


@pytest.mark.slow
def test_https_without_checksums_after_the_body(
    s3_server: S3Server, s3_bucket: str, s3_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceph before 2025 and many appliances know no such trailer; patience waited 300 s for them to learn it."""
    pytest.importorskip("cryptography")
    from tests.servers.tls import https_before

    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    with https_before(s3_server.port, tmp_path) as (endpoint, certificate):
        for name, value in {**endpoint_env(endpoint), "AWS_CA_BUNDLE": str(certificate)}.items():
            monkeypatch.setenv(name, value)
        store = Store(f"s3://{s3_bucket}/out", patience_s=5)
        assert store.create("a", b"1" * 100_000) and not store.create("a", b"2")
        store.put("a", b"2")
        assert store.read("a") == b"2"
        sent: list[str] = []
        store.fs.s3.meta.events.register(
            "before-send.s3.PutObject", lambda request, **_: sent.extend(map(str.lower, request.headers))
        )
        store.put("b", b"3")
        assert sent and not [name for name in sent if "trailer" in name]
