"""Lines with kubectl, read by kubectl itself: each gets as far as asking a cluster, and none is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.infra.places import INFRA, ROOT
from tests.infra.test_runbook import DOCUMENTS
from tests.infra.test_schedules import manifests, patched


def has_kubectl() -> bool:
    """Of 1.21 or newer, which has a kustomize with the options of today; Debian 12 has 1.20."""
    if shutil.which("kubectl") is None:
        return False
    told = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
    number = re.search(r'"gitVersion": "v1\.(\d+)', told.stdout)
    return number is not None and int(number[1]) > 20


pytestmark = pytest.mark.skipif(not has_kubectl(), reason="needs kubectl 1.21 or newer")

SHARED = INFRA / "kuberay" / "shared"


def lines() -> Iterator[list[str]]:
    """The words after `kubectl` in code blocks and spans of the documents, and in the first lines of manifests."""
    texts = []
    for document in DOCUMENTS:
        text = (INFRA / document).read_text()
        texts += [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        texts += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for manifest in sorted((INFRA / "kuberay").rglob("*.yaml")):
        texts += re.findall(r"^#\s+(kubectl .*)$", manifest.read_text(), re.MULTILINE)
    for text in texts:
        for command in re.split(r"&&|\s[|\\]+\s", text):
            words = shlex.split(command, comments=True)
            if len(words) > 1 and words[0] == "kubectl":
                yield words[1:]


def kubectl(*words: str) -> subprocess.CompletedProcess[str]:
    """With a server that refuses every connection."""
    return subprocess.run(
        ["kubectl", "--server=http://127.0.0.1:1", *words],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": os.devnull},
        input="",
        capture_output=True,
        text=True,
        check=False,
    )


def is_understood(words: list[str]) -> bool:
    ended = kubectl(*words)
    if words[0] == "kustomize":
        return ended.returncode == 0
    return "refused" in ended.stderr or (words[-2:] == ["-f", "-"] and "no objects passed" in ended.stderr)


def test_kubectl_understands_each_line() -> None:
    found = list(lines())
    assert len(found) > 14
    assert [shlex.join(words) for words in found if not is_understood(words)] == []


@pytest.mark.parametrize(
    "line",
    ["get pods --selectors a=b", "cordon", "exec POD -c ray-head", "apply", "apply -f infra/none.yaml", "gets a"],
)
def test_a_wrong_line_is_found(line: str) -> None:
    assert not is_understood(line.split())


def test_kustomize_patches_as_the_schema_was_asked() -> None:
    """Without the option it refuses rayjob.yaml, which is not below its folder: the README's line ended in an error."""
    (words,) = {tuple(words) for words in lines() if words[0] == "kustomize"}
    ended = kubectl(*words)
    built = {each["kind"]: each for each in yaml.safe_load_all(ended.stdout)}
    operations = yaml.safe_load((SHARED / "rayjob-patch.yaml").read_text())
    assert built["RayJob"] == patched(manifests()["RayJob"], operations)
    assert built.keys() == {"ServiceAccount", "ConfigMap", "RayJob", "PriorityClass"}
    assert Path(words[-1]) == SHARED.relative_to(ROOT)
