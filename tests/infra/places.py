"""Where the files under test lie, and their text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
SCRIPTS = (INFRA / "entrypoint.sh", INFRA / "kuberay" / "prestop.sh", INFRA / "slurm" / "promptmill.sbatch")


def manifests() -> dict[str, dict[str, Any]]:
    """The documents of rayjob.yaml by their kind."""
    documents = yaml.safe_load_all((INFRA / "kuberay" / "rayjob.yaml").read_text())
    return {document["kind"]: document for document in documents}
