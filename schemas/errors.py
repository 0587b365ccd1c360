"""Every error Promptmill raises on purpose, and the exit code each one ends the command with.

PromptmillError                 1   something unexpected
├── JobError                    2   the job file, or what it names, is wrong
│   ├── InputError              2   the prompts cannot be read as described
│   │   └── NoFilesError        2   there are none: of a job that is extended they may be archived
│   └── OutputMismatchError     2   the output belongs to another job
├── StorageError                4   object storage or disk refused, after retries
│   └── MissingObjectError      4   what is to be read is not there, or not there any more
├── ClusterError                5   Ray cannot give what was asked for
│   ├── HeadLostError           5   the head of the cluster is gone, and with it every answer of Ray
│   └── WorkerHungError         5   a worker without a process of its own hangs, and nobody can end it
└── WorkerError                     raised on a worker, answered by the engine, seldom seen by users
    ├── SampleError                 one sample cannot be made
    ├── DeviceMemoryError           a batch does not fit the device
    ├── DeviceLostError             the device is broken: the process must end
    ├── PlaceError              5   the node is not fit for this run
    └── ModelLoadError          2   the model or a scorer does not load
        └── NoDeviceError       5   the GPU that a worker was given cannot be used
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in the four parts a reader needs.

    `where` is a place a person can go to ("job.yaml:12: generation.scheduler"), `hint` says what to do.
    """

    where: str
    expected: str
    got: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: expected {self.expected}, got {self.got}"
        return f"{text}. {self.hint}" if self.hint else text


class PromptmillError(Exception):
    exit_code = 1


class JobError(PromptmillError):
    """Carries all problems found, not only the first."""

    exit_code = 2

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = problems
        super().__init__(*problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class InputError(JobError):
    pass


class NoFilesError(InputError):
    pass


class OutputMismatchError(JobError):
    pass


class StorageError(PromptmillError):
    exit_code = 4


class MissingObjectError(StorageError):
    pass


class NoAnswerError(StorageError):
    """Of a fault that could pass, and did not as long as the patience was."""


class ClusterError(PromptmillError):
    exit_code = 5


class HeadLostError(ClusterError):
    pass


class WorkerHungError(ClusterError):
    pass


class WorkerError(PromptmillError):
    pass


class SampleError(WorkerError):
    """Ends in a failure row: `kind` is one word out of `FAILURE_KINDS`."""

    def __init__(self, kind: str, message: str) -> None:
        if kind not in FAILURE_KINDS:
            raise ValueError(f"unknown failure kind {kind!r}")
        self.kind = kind
        self.message = message
        super().__init__(kind, message)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    def bare(self) -> SampleError:
        """Without traceback and cause, for who keeps it: their frames hold photos and latents for as long."""
        return SampleError(self.kind, self.message)


class DeviceMemoryError(WorkerError):
    pass


class DeviceLostError(WorkerError):
    pass


class PlaceError(WorkerError):
    exit_code = 5


class ModelLoadError(WorkerError):
    exit_code = 2


class NoDeviceError(ModelLoadError):
    exit_code = 5


FAILURE_KINDS = (
    "empty_prompt",  # null, empty, or only white space
    "prompt_too_long",  # over MAX_TEXT_BYTES of prompts/values.py
    "invalid_text",  # not Unicode: lone surrogates, broken UTF-8
    "invalid_seed",  # a seed column that holds no integer ≥ 0
    "invalid_strength",  # a strength column that holds no number above 0, at most 1, or leaves no step
    "invalid_syntax",  # a prompt whose notation (prompts.syntax) says what cannot be read or drawn
    "invalid_setting",  # a setting of a row that the model cannot draw with
    "invalid_steering",  # a row's own scale or time of control or reference images that cannot act
    "invalid_label",  # a label column whose value is none of the classes
    "invalid_adapter",  # an adapter column that names one the model does not have
    "input",  # an image of the prompt is missing, broken, too large, or does not fit the others
    "not_finite",  # NaN or infinity in latents or pixels, in full precision too
    "generation",  # the pipeline raised on this sample alone
    "scoring",  # the scorer raised on this sample alone
    "encoding",  # the image could not be encoded
    "memory",  # out of device memory at batch size 1
    "crash",  # the worker process died on it
    "hang",  # a step took longer than compute.step_timeout_s
)
INPUT_FAILURES = frozenset(
    (
        *("empty_prompt", "prompt_too_long", "invalid_text", "invalid_seed", "invalid_strength", "invalid_adapter"),
        *("invalid_syntax", "invalid_setting", "invalid_steering", "invalid_label"),
    )
)
"""Faults of the input row: the same row fails for ever, or would come out as another sample than it asked for."""
