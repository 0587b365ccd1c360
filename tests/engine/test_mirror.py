"""A hub model out of a mirror on a real S3 server: fetched once a machine, resumed, checked, and the same job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from promptmill.pipeline.crashpoints import EXIT_CODE
from promptmill.pipeline.models.catalog.resolve import fetch_model, resolve_model
from promptmill.pipeline.models.catalog.trust import remember, strangers
from promptmill.schemas.errors import JobError, StorageError
from promptmill.schemas.generation import Model
from tests.engine.conftest import Answer
from tests.servers.proxy import FaultProxy
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef" * 2 + "01234567"
PLACE = f"models/org/tiny/{COMMIT}"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FETCH = f"""
import sys
from promptmill.pipeline.models.catalog import mirror
from promptmill.pipeline.models.catalog.resolve import fetch_model, resolve_model
from promptmill.schemas.generation import Model
mirror._PIECE_BYTES = 1 << 16
model = resolve_model(Model(path="org/tiny", revision="{COMMIT}", mirror=sys.argv[1]), "model")
print(fetch_model(model, lambda text: print(text, file=sys.stderr)))
"""


@pytest.fixture
def mirror(s3_server: S3Server, s3_bucket: str, s3_env: dict[str, str], models: Path, tmp_path: Path) -> str:
    """Filled as infra/README.md says, by `sha256sum`; a pickle lies beside the rest."""
    folder = Path(shutil.copytree(models / "sd", tmp_path / "repository"))
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    subprocess.run(
        "find . -type f | xargs sha256sum > ../sums && mv ../sums SHA256SUMS", shell=True, cwd=folder, check=True
    )
    s3_server.filesystem().put(f"{folder}/", f"{s3_bucket}/{PLACE}/", recursive=True)
    return f"s3://{s3_bucket}/models"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    return tmp_path / "cache" / "promptmill-mirrors"


def fetching(mirror: str, proxy: FaultProxy, **changes: str) -> subprocess.Popen[str]:
    own = {"AWS_ENDPOINT_URL": proxy.endpoint, "AWS_ENDPOINT_URL_S3": proxy.endpoint, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", FETCH, mirror]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | own | changes
    )


def downloads(proxy: FaultProxy) -> Counter[str]:
    """Requests for parts of each file."""
    return Counter(
        seen.path.partition(COMMIT)[2][1:] for seen in proxy.seen if seen.method == "GET" and COMMIT in seen.path
    )


@pytest.mark.xdist_group("ray")
def test_a_run_from_a_mirror_is_the_same_job(
    mirror: str, cli: Callable[..., Answer], job: Callable[..., Path], tmp_path: Path, models: Path, cache: Path
) -> None:
    named = {"path": "org/tiny", "revision": COMMIT}
    path = job(model={**named, "mirror": mirror})
    answer = cli("run", path, "--json")
    assert answer.code == 0 and answer.json["kept"] == 8, answer.err
    assert "fetched org/tiny at 0123456789ab" in answer.err
    receipts = [json.loads(path.read_bytes()) for path in (tmp_path / "out" / "receipts").glob("*.json")]
    assert sum(each["seconds"]["load"] for each in receipts) > 0
    assert not list(cache.rglob("*.bin"))

    shutil.rmtree(cache)  # and now as the hub's own client leaves it
    shutil.copytree(models / "sd", cache.parent / "hub" / "models--org--tiny" / "snapshots" / COMMIT)
    again = cli("run", job(model=named), "--json")
    assert again.code == 0 and again.json["made"]["samples"] == 0, again.err


def test_two_workers_of_a_machine_download_once(mirror: str, fault_proxy: FaultProxy) -> None:
    with fault_proxy.latency(0.2, method="GET", path=PLACE):
        both = [fetching(mirror, fault_proxy) for _ in range(2)]
        ends = [each.communicate(timeout=120) for each in both]
    assert [each.returncode for each in both] == [0, 0], ends
    assert ends[0][0] == ends[1][0]
    assert sum("fetched org/tiny" in err for _, err in ends) >= 1
    root = Path(ends[0][0].strip())
    pieces = -(-(root / WEIGHTS).stat().st_size // (1 << 16))
    assert downloads(fault_proxy)[WEIGHTS] == pieces > 8


def test_a_download_that_was_killed_is_gone_on_with(mirror: str, fault_proxy: FaultProxy, cache: Path) -> None:
    killed = fetching(mirror, fault_proxy, PROMPTMILL_TEST_CRASH=f"after pieces of {WEIGHTS}:1")
    assert killed.wait(120) == EXIT_CODE, killed.communicate()
    (part,) = cache.glob("*.part")
    had = (part / WEIGHTS).stat().st_size
    before = downloads(fault_proxy)
    second = fetching(mirror, fault_proxy)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    whole = (Path(out.strip()) / WEIGHTS).stat().st_size
    assert 0 < had < whole
    assert (downloads(fault_proxy) - before)[WEIGHTS] == -(-(whole - had) // (1 << 16))
    assert not part.exists()


def test_a_damaged_file_is_refused_by_name_and_never_used(
    mirror: str, s3_server: S3Server, s3_bucket: str, cache: Path
) -> None:
    model = resolve_model(Model(path="org/tiny", revision=COMMIT, mirror=mirror), "model")
    fs, key = s3_server.filesystem(), f"{s3_bucket}/{PLACE}/{WEIGHTS}"
    whole = fs.cat_file(key)
    fs.pipe_file(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(JobError, match=rf"model\.mirror: expected the SHA-256 .* for {WEIGHTS}"):
        fetch_model(model)
    assert not list(cache.glob(f"*/{WEIGHTS}"))
    fs.pipe_file(key, whole)
    assert (fetch_model(model) / WEIGHTS).read_bytes() == whole


def test_a_half_that_is_not_of_this_file_is_thrown_away(mirror: str, cache: Path) -> None:
    """As a machine leaves it that lost power before the pages were written."""
    model = resolve_model(Model(path="org/tiny", revision=COMMIT, mirror=mirror), "model")
    (note,) = cache.glob("*.json")
    part = note.with_suffix(".part") / WEIGHTS
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    assert (fetch_model(model) / WEIGHTS).stat().st_size > 1000


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0" * 64 + "  ../../stolen.json", "line 1"),
        ("0" * 64 + "  unet/absent.json", "no unet/absent.json"),
        ("what", "line 1"),
    ],
)
def test_sums_that_cannot_be(mirror: str, s3_server: S3Server, s3_bucket: str, line: str, told: str) -> None:
    s3_server.filesystem().pipe_file(f"{s3_bucket}/{PLACE}/SHA256SUMS", line.encode())
    with pytest.raises(JobError, match=told):
        resolve_model(Model(path="org/tiny", revision=COMMIT, mirror=mirror), "model")


def test_a_mirror_that_lacks_the_model_or_is_no_bucket(mirror: str) -> None:
    other = COMMIT[::-1]
    with pytest.raises(JobError, match="no s3://.*SHA256SUMS"):
        resolve_model(Model(path="org/tiny", revision=other, mirror=mirror), "model")
    with pytest.raises(StorageError, match="nowhere"):
        resolve_model(Model(path="org/tiny", revision=COMMIT, mirror="s3://nowhere-at-all"), "model")


def test_the_mirror_of_a_strangers_dataset_is_not_one_that_was_named_here(mirror: str) -> None:
    named = resolve_model(Model(path="org/tiny", revision=COMMIT, mirror=mirror), "model")
    remember([named])
    assert not strangers([named])
    assert strangers([replace(named, mirror="s3://theirs/models")]) == ["org/tiny"]


@pytest.mark.parametrize(("edited", "known"), [(False, "mit"), (True, None)])
def test_the_licence_of_the_card_there(
    mirror: str, s3_server: S3Server, s3_bucket: str, edited: bool, known: str | None
) -> None:
    """Of weights every sum must be right; a card that was edited since says nothing, and keeps no job from running."""
    card = f"{s3_bucket}/{PLACE}/README.md"
    if edited:
        s3_server.filesystem().pipe_file(card, b"---\nlicense: cc0-1.0\n---\n")
    assert resolve_model(Model(path="org/tiny", revision=COMMIT, mirror=mirror), "model").license == known
