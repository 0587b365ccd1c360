"""An export to the Hugging Face hub: `hf://datasets/owner/name`, by huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path

from promptmill.pipeline.display import first_line, redact
from promptmill.schemas.errors import JobError, Problem, StorageError

_PLACE = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")


def check_push(place: str, local: bool) -> None:
    """Before anything is exported. Raises JobError for what is no place, and where there is no token."""
    if not _PLACE.fullmatch(place):
        raise JobError(Problem("--push", "hf://datasets/owner/name, if wanted with @branch", redact(place)))
    if not local:
        raise JobError(Problem("OUT", "a folder of this machine, whose files are pushed", "a place elsewhere"))
    from huggingface_hub import get_token

    if get_token() is None:
        hint = "Set HF_TOKEN, or log in with `hf auth login`"
        raise JobError(Problem("--push", "a token of the hub that may write", "none", hint))


def push_folder(folder: Path, place: str) -> str:
    """The address of what was pushed. A repository that is not there is made, a private one. Raises StorageError where
    the hub says no."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    match = _PLACE.fullmatch(place)
    assert match is not None
    repository, branch = match[1], match[2]
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", exist_ok=True, private=True)
        if branch:
            api.create_branch(repository, branch=branch, repo_type="dataset", exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="dataset",
            revision=branch,
            ignore_patterns=[".tmp/**"],
            commit_message="Exported by Promptmill",
        )
    except OfflineModeIsEnabled as error:
        raise JobError(
            Problem("--push", "a hub that may be asked", first_line(error), "Unset HF_HUB_OFFLINE")
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise StorageError(f"{redact(place)}: {first_line(error)}") from None
    return f"{api.endpoint}/datasets/{repository}" + (f"/tree/{branch}" if branch else "")
