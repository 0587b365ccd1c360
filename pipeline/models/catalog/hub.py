"""Models named by hub id: found in the local cache, else their configuration is fetched from the hub."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from promptmill.pipeline.models.catalog.licenses import CARD
from promptmill.pipeline.models.catalog.mirror import Mirrored, Told, silent
from promptmill.pipeline.models.catalog.weights import HASHED_SUFFIXES, ModelFolder, list_folder
from promptmill.pipeline.storage.turns import one_at_a_time
from promptmill.schemas.errors import JobError, Problem

HUB_ID = re.compile(r"(?!\.\.?/)[\w.-]+/(?!\.\.?\Z)[\w.-]+\Z")
COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_REFERENCE = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*\Z")


def cache_folder() -> Path:
    """Where huggingface_hub keeps downloads; read here without importing it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def cached_commit(hub_id: str, reference: str) -> str | None:
    """The commit that a branch or tag had when it was last downloaded here.

    None where that is no commit, or the name is a path: what some file of this machine holds is never passed on.
    """
    if not _REFERENCE.match(reference):
        return None
    path = cache_folder() / f"models--{hub_id.replace('/', '--')}" / "refs" / reference
    if not path.is_file():
        return None
    with path.open("rb") as file:
        commit = file.read(64).decode("ascii", "replace").strip()
    return commit if COMMIT.match(commit) else None


def cached_snapshot(hub_id: str, revision: str, mirror: str | None = None) -> Path | None:
    """None where it is not here, or the revision is no commit: the plan of a stranger may hold a path."""
    if not COMMIT.match(revision) or not HUB_ID.match(hub_id):
        return None
    if mirror is not None:
        root = _mirrored(mirror, hub_id, revision, "model.mirror").root
        return root if root.is_dir() else None
    path = cache_folder() / f"models--{hub_id.replace('/', '--')}" / "snapshots" / revision
    return path if path.is_dir() else None


def offline() -> bool:
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def newest_commit(hub_id: str, where: str) -> str:
    """Of the main branch: what it was when last downloaded here, else what the hub says. Raises JobError."""
    if known := cached_commit(hub_id, "main"):
        return known
    if offline():
        text = f"{hub_id}, which is not in {cache_folder()}, while HF_HUB_OFFLINE is set"
        raise JobError(Problem(where, "a model that is here", text, f"hf download {hub_id}"))
    from huggingface_hub import HfApi

    with asking(hub_id, where):
        return str(HfApi().model_info(hub_id).sha)


def download(
    hub_id: str, commit: str, files: Sequence[str] | None = None, mirror: str | None = None, told: Told = silent
) -> Path:
    """The folder of a repository's weights and configuration, or of these `files`; nothing that could run code.

    One process of a machine downloads, and asks nobody where all that `files` name is there.
    """
    patterns = [f"*{suffix}" for suffix in HASHED_SUFFIXES] if files is None else list(files)
    if mirror is not None:
        return _mirrored(mirror, hub_id, commit, "model.mirror", told).fetch(patterns)
    with one_at_a_time(cache_folder() / ".locks", f"promptmill {hub_id} {commit}"):
        root = cached_snapshot(hub_id, commit)
        if root is not None and files and all((root / name).is_file() for name in files):
            return root
        from huggingface_hub import snapshot_download

        began = time.monotonic()
        told(f"fetching {hub_id} at {commit[:12]} from the hub into {cache_folder()}")
        root = Path(snapshot_download(hub_id, revision=commit, allow_patterns=patterns))
        told(f"fetched {hub_id} at {commit[:12]} in {time.monotonic() - began:.0f} s")
        return root


def _mirrored(mirror: str, hub_id: str, commit: str, where: str, told: Told = silent) -> Mirrored:
    return Mirrored(mirror, hub_id, commit, cache_folder().parent / "promptmill-mirrors", where, told)


def open_hub_model(
    hub_id: str, revision: str | None, where: str, config: str, mirror: str | None = None
) -> ModelFolder:
    """The repository at a commit: from the cache when `config` is there, else a listing and JSON files from the hub.

    With a `mirror` neither cache nor hub is asked.
    """
    if revision is None or not COMMIT.match(revision):
        known = cached_commit(hub_id, revision or "main")
        hint = (
            f"Here {revision or 'main'} was last {known}." if known else f"See https://huggingface.co/{hub_id}/commits"
        )
        raise JobError(Problem(f"{where}.revision", "a commit of 40 hex digits for a hub id", repr(revision), hint))
    if mirror is not None:
        return _mirrored(mirror, hub_id, revision, f"{where}.mirror").look()
    snapshot = cached_snapshot(hub_id, revision)
    cached = list_folder(snapshot) if snapshot is not None else ModelFolder(Path(), {})
    complete = any(name.endswith(".safetensors") for name in cached.files)  # a look at it before left only JSON here
    if config in cached.files and (complete or offline()):
        return cached
    if offline():
        text = f"{hub_id} at {revision[:12]}, which is not in {cache_folder()}, while HF_HUB_OFFLINE is set"
        raise JobError(Problem(where, "a model that is here", text, f"hf download {hub_id} --revision {revision}"))
    return _fetch(hub_id, revision, where)


def _fetch(hub_id: str, revision: str, where: str) -> ModelFolder:
    from huggingface_hub import HfApi, snapshot_download

    with asking(hub_id, where):
        info = HfApi().model_info(hub_id, revision=revision, files_metadata=True)
        root = snapshot_download(hub_id, revision=revision, allow_patterns=["*.json", CARD])
    return ModelFolder(Path(root), {file.rfilename: file.size or 0 for file in info.siblings or ()})


@contextmanager
def asking(hub_id: str, where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its transport has been requests, httpx and httpx2: no common base for "no network"
        hint = "Check id, revision, network and, for gated models, `hf auth login`."
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise JobError(Problem(where, f"{hub_id} on the hub", reason, hint)) from error
