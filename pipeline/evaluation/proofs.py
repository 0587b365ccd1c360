"""What was proven of a dataset, as `scores/proof-<hash>.json` beside its data: the report shows it."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from pydantic import TypeAdapter

from promptmill.pipeline.dataset.keys import JOB_KEY
from promptmill.pipeline.dataset.side_json import fitting
from promptmill.pipeline.dataset.side_scores import FOLDER
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import StorageError
from promptmill.schemas.proof import Proof

_PREFIX: Final = f"{FOLDER}/proof-"
_PROOF: Final = TypeAdapter(Proof)


def note_proof(proof: Proof, source: str) -> list[str]:
    """Into each dataset of ours that the synthetic set is; returns what could not be written."""
    draws = range(proof.protocol.draws) if "{draw}" in source else range(1)
    told = []
    for draw in draws:
        store = Store(source.replace("{draw}", str(draw)))
        asked = json.dumps([proof.protocol.learner, proof.protocol.control, proof.real.sha256, proof.test.sha256])
        key = f"{_PREFIX}{hashlib.sha256(asked.encode()).hexdigest()[:12]}.json"
        try:
            if store.entry(JOB_KEY) is not None:
                store.put(key, json.dumps(proof.as_json(), indent=2, allow_nan=False).encode())
        except (OSError, StorageError) as error:
            told.append(f"{store.url} does not take the proof for its report: {error}")
    return told


def read_proofs(store: Store) -> tuple[list[Proof], list[str]]:
    """Those that were noted, and which objects are left out because they do not look like one."""
    found, problems = [], []
    for entry in store.list(FOLDER):
        if entry.name.startswith(_PREFIX) and entry.name.endswith(".json"):
            try:
                found.append(fitting(_PROOF, store.read_if_exists(entry.name)))
            except ValueError as error:
                problems.append(f"{entry.name}: left out: {str(error)[:200]}")
    return found, problems
