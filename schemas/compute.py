"""The section of the job file on how it runs: workers, devices, patience, money."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from promptmill.schemas.rules import StrictModel, broken_rule, raise_all


class Compute(StrictModel):
    """How the job runs. Nothing here changes which rows are made."""

    workers: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    """`auto`: one per GPU, else one per core, less where memory is short."""
    threads_per_worker: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of a worker's tensor library. Changes last bits, so keep it when you resume."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = "auto"
    """`auto`: 1 where the cluster has GPUs, else 0. 0.25 puts four workers on one GPU; above 1 whole numbers."""
    gpu_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    """Kind of GPU that workers wait for, as Ray names it: `H100`, `A100`, `L4`. Null: any."""
    memory_gib: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """Main memory that a worker reserves on its node, which Ray then gives to nobody else. Null: none."""
    niceness: Annotated[int, Field(ge=0, le=19)] | None = None
    """Priority of worker processes, 19 the lowest. Null: as Ray starts them (15)."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a shard is tried that ends in an error nobody expects, before the run stops.

    A sample that breaks its worker is found and fails alone. Where workers die ten times as often on one shard and no
    sample is to blame, the run stops too."""
    step_timeout_s: Annotated[float, Field(gt=0)] = 300
    """Seconds without a denoising step after which a worker counts as hung."""
    wait_for_workers_s: Annotated[float, Field(gt=0)] = 900
    """Seconds to wait for a first worker where the cluster has none free, or has to grow."""
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """Price of one device, in any currency; of one worker where there are no GPUs."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """What the dataset may cost in all its runs, by `price_per_hour`. Then no new shard begins, those in hand are
    finished, and the run ends with 2."""
    max_failure_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The run stops when more than this share of samples fails (looked at after 100 samples)."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        gpus = self.gpus_per_worker
        wrong = []
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):
            expected, hint = "a whole number, or a part of one GPU", f"Nearest: {int(gpus)} and {int(gpus) + 1}."
            wrong.append(broken_rule(("gpus_per_worker",), expected, gpus, hint, "compute.gpus_per_worker"))
        if self.gpu_type is not None and gpus == 0:
            hint = "Give gpus_per_worker, or leave gpu_type out"
            fields = "compute.gpu_type compute.gpus_per_worker"
            wrong.append(broken_rule(("gpu_type",), "workers with a GPU", "gpus_per_worker: 0", hint, fields))
        raise_all(wrong)
        return self

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.max_cost is not None and not self.price_per_hour:
            hint = "Without it nobody knows what the run costs"
            raise_all(
                [broken_rule(("max_cost",), "`price_per_hour` beside it", "none", hint, "compute.price_per_hour")]
            )
        return self

    @property
    def devices_per_worker(self) -> float:
        """What a worker pays for: it may hold a part of a GPU, or several; where there is none itself is the device."""
        return self.gpus_per_worker if self.gpus_per_worker != "auto" and self.gpus_per_worker > 0 else 1.0

    @property
    def worker_price(self) -> float | None:
        """Of an hour of one worker."""
        return None if self.price_per_hour is None else self.price_per_hour * self.devices_per_worker
