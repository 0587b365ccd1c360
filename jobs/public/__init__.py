"""Prompts in, a scored image-caption dataset out.

>>> import promptmill
>>> job = promptmill.load_job("job.yaml", ["generation.guidance_scale=2.5"])   # doctest: +SKIP
>>> promptmill.plan(job).samples                                               # doctest: +SKIP
256
>>> result = promptmill.run(job, in_process=True)                              # doctest: +SKIP
>>> for record in promptmill.open_dataset(job.output.url):                     # doctest: +SKIP
...     record.image.show()

Every function raises what the command line prints: `PromptmillError` and its kinds, with the same text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptmill.api import (
        Progress,
        compare,
        load_job,
        open_dataset,
        plan,
        report,
        retry,
        run,
        score,
        select,
        status,
        verify,
    )
    from promptmill.learning import finetune, prove, synthesize
    from promptmill.opened import Dataset, Record
    from promptmill.schemas.errors import (
        ClusterError,
        InputError,
        JobError,
        OutputMismatchError,
        Problem,
        PromptmillError,
        StorageError,
    )
    from promptmill.schemas.job import Job
    from promptmill.schemas.proof import Proof
    from promptmill.schemas.reports import CompareResult, ReportResult, ScoreResult
    from promptmill.schemas.results import PlanResult, RunResult, SelectResult, StatusResult, VerifyResult
    from promptmill.schemas.synthesized import SynthesisResult
    from promptmill.schemas.tuned import FinetuneResult

_MODULE_OF = {
    **dict.fromkeys(("Progress", "load_job", "open_dataset", "plan", "retry", "run", "status"), "promptmill.api"),
    **dict.fromkeys(("compare", "report", "score", "select", "verify"), "promptmill.api"),
    **dict.fromkeys(("Dataset", "Record"), "promptmill.opened"),
    **dict.fromkeys(("CompareResult", "ReportResult", "ScoreResult"), "promptmill.schemas.reports"),
    **dict.fromkeys(("PlanResult", "RunResult", "SelectResult"), "promptmill.schemas.results"),
    **dict.fromkeys(("StatusResult", "VerifyResult"), "promptmill.schemas.results"),
    **dict.fromkeys(("ClusterError", "InputError", "JobError", "OutputMismatchError"), "promptmill.schemas.errors"),
    **dict.fromkeys(("Problem", "PromptmillError", "StorageError"), "promptmill.schemas.errors"),
    **dict.fromkeys(("finetune", "prove", "synthesize"), "promptmill.learning"),
    "FinetuneResult": "promptmill.schemas.tuned",
    "Job": "promptmill.schemas.job",
    "Proof": "promptmill.schemas.proof",
    "SynthesisResult": "promptmill.schemas.synthesized",
}

__all__ = [
    "ClusterError",
    "CompareResult",
    "Dataset",
    "FinetuneResult",
    "InputError",
    "Job",
    "JobError",
    "OutputMismatchError",
    "PlanResult",
    "Problem",
    "Progress",
    "PromptmillError",
    "Proof",
    "Record",
    "ReportResult",
    "RunResult",
    "ScoreResult",
    "SelectResult",
    "StatusResult",
    "StorageError",
    "SynthesisResult",
    "VerifyResult",
    "compare",
    "finetune",
    "load_job",
    "open_dataset",
    "plan",
    "prove",
    "report",
    "retry",
    "run",
    "score",
    "select",
    "status",
    "synthesize",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Imported at the first use: the command line answers signals before the imports, which take a second.
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'promptmill' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
