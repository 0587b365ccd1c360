"""What a run counts for Prometheus: one table of names, of which the READMEs', the rules and the board are held.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for what only grows. Metrics are added,
never renamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Metric:
    """`labels` come after `dataset`, the name of the job, which all of them have."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()


METRICS: Final = (
    Metric("promptmill_samples_total", "counter", "samples that ended: kept, rejected or failed", ("state",)),
    Metric("promptmill_rejected_total", "counter", "images that were made and not kept", ("reason",)),
    Metric("promptmill_failed_total", "counter", "samples that could not be made", ("kind",)),
    Metric("promptmill_images_total", "counter", "images made, those of unfinished shards too: moves between shards"),
    Metric("promptmill_shards_total", "counter", "shards committed"),
    Metric("promptmill_written_bytes_total", "counter", "bytes of data objects committed"),
    Metric("promptmill_stage_seconds_total", "counter", "seconds in each stage, over all workers", ("stage",)),
    Metric("promptmill_worker_seconds_total", "counter", "seconds that workers were up, over all of them"),
    Metric("promptmill_device_busy_ratio", "gauge", "share of these in which images were made or scored, 0 to 1"),
    Metric("promptmill_model_loads_total", "counter", "models loaded, over all workers"),
    Metric("promptmill_retries_total", "counter", "tries of committed shards beyond the first"),
    Metric("promptmill_workers", "gauge", "workers that are up"),
    Metric("promptmill_workers_wanted", "gauge", "workers that the run could use now"),
    Metric("promptmill_workers_lost_total", "counter", "workers that died, hung, or went with their node"),
    Metric("promptmill_shards_queued", "gauge", "shards that no worker has in hand"),
    Metric("promptmill_shards_in_hand", "gauge", "shards that workers have in hand"),
    Metric("promptmill_storage_waits_total", "counter", "calls of the storage that were tried again"),
    Metric("promptmill_storage_wait_seconds_total", "counter", "seconds waited before those"),
    Metric("promptmill_cost", "gauge", "price of the workers' time, of earlier runs too, where a price is known"),
    Metric("promptmill_budget", "gauge", "what the dataset may cost in all its runs, where it is said"),
    Metric("promptmill_dataset_samples", "gauge", "samples that the dataset asks for"),
    Metric("promptmill_dataset_samples_done", "gauge", "samples of it that have ended, in earlier runs too"),
    Metric("promptmill_run_active", "gauge", "1 while the run is at work, 0 once it has ended"),
    Metric("promptmill_last_success_timestamp_seconds", "gauge", "when a run last found all of it done, since 1970"),
)
"""All are of one run, but for those that speak of the dataset."""
