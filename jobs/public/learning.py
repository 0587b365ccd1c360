"""Adapters, proofs and syntheses for `import promptmill`. The command line calls the same ones below."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from promptmill.pipeline.display import shown
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.schemas.proof import Proof
from promptmill.schemas.synthesized import SynthesisResult
from promptmill.schemas.tuned import FinetuneResult
from promptmill.schemas.tuning import Tuning

log = logging.getLogger("promptmill")
Told = Callable[[str], None]


def _logged(text: str) -> None:
    log.info("%s", shown(text))


def finetune(tuning: Tuning | Mapping[str, Any] | str | PathLike[str], on_notice: Told = _logged) -> FinetuneResult:
    """Learn an adapter from a few images, or go on where it stopped; `tuning` as in the file of `promptmill finetune`.

    Raises JobError for images, a model or a loss that do not do, OutputMismatchError for another training's folder.
    """
    from promptmill.jobs import finetune as command
    from promptmill.pipeline.jobfile.tuning import load_tuning, parse_tuning

    if isinstance(tuning, Tuning):
        return command.finetune(tuning, on_notice)
    if isinstance(tuning, Mapping):
        return command.finetune(parse_tuning(json.dumps(tuning, default=str), "tuning"), on_notice)
    return command.finetune(load_tuning(str(tuning)), on_notice)


def prove(
    real: str | PathLike[str],
    synthetic: str | PathLike[str],
    test: str | PathLike[str],
    out: str | PathLike[str] = "proof",
    *,
    on_notice: Told = _logged,
    **options: Any,
) -> Proof:
    """Whether training on `synthetic` helps. `options` are those of `promptmill prove`, as fields of `ProofSettings`:
    `validation`, `learner`, `shots`, `draws`, `shares`, `control`, `workers` and others.

    Raises JobError for sets that share images, and for what cannot be proven so.
    """
    from promptmill.jobs import prove as command

    return command.prove(ProofSettings(str(real), str(synthetic), str(test), str(out), **options), on_notice)


def synthesize(
    real: str | PathLike[str],
    test: str | PathLike[str],
    out: str | PathLike[str] = "synthesis",
    *,
    on_notice: Told = _logged,
    proof: Mapping[str, Any] | None = None,
    **options: Any,
) -> SynthesisResult:
    """From a folder of real images to a synthetic set and a verdict. `proof` are options as those of `prove`, `options`
    fields of `SynthesisSettings`: `model`, `each`, `tuning_steps`, `guidances`, `strengths`, `in_process` and others.

    Raises as `finetune`, `run` and `prove` do.
    """
    from promptmill.jobs import synthesize as command
    from promptmill.jobs.synthesis import SynthesisSettings

    asked = ProofSettings(str(real), "", str(test), str(out), **(proof or {}))
    return command.synthesize(SynthesisSettings(asked, **options), on_notice)
