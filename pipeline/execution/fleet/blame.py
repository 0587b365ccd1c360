"""What a failure says about where it happened: a node or a device is left out, or the run ends."""

from __future__ import annotations

from collections.abc import Collection

from ray.exceptions import RayActorError, RayError

from promptmill.pipeline.display import cut
from promptmill.pipeline.execution.events import LeftOut, Listener, Notice
from promptmill.pipeline.execution.fleet.backlog import History
from promptmill.pipeline.execution.fleet.cluster import node_name
from promptmill.pipeline.execution.fleet.lost_devices import Device, LostDevices
from promptmill.pipeline.execution.fleet.places import IN_A_ROW, UNKNOWN, NoPlaceLeftError, Places
from promptmill.schemas.errors import (
    ClusterError,
    DeviceLostError,
    ModelLoadError,
    PlaceError,
    PromptmillError,
    StorageError,
)
from promptmill.schemas.plan import Shard

OF_THE_PLACE = (StorageError, PlaceError)
"""After the storage's own patience: whoever works elsewhere tells whether it is the storage or the place."""

_DEATHS_AT_START = 10
"""In a row. A few may be somebody's doing, or memory that was short for a moment."""


class Blame:
    """`failure` ends the run; `left_out` is what it does without."""

    def __init__(self, places: Places, listener: Listener, started_here: bool) -> None:
        self.failure: Exception | None = None
        self.left_out: list[LeftOut] = []
        self._places = places
        self._listener = listener
        self._started_here = started_here
        self._devices = LostDevices()
        self._unplaced = 0

    def end(self, error: Exception) -> None:
        self.failure = self.failure or error

    def place(self, node: str, error: Exception, limit: int = IN_A_ROW) -> None:
        """`error` happened there; after `limit` of them without a success between them the place is left out."""
        if node != UNKNOWN:
            self._places.meet(node, *node_name(node))
        left_out = self._places.fails(node, error, short(error), limit)
        if left_out is not None:
            self._leave_out(left_out)

    def not_started(self, node: str, error: RayError) -> None:
        """The process of a worker did not come up."""
        broken = not isinstance(error, RayActorError) or error.actor_init_failed
        failure = PlaceError(f"no worker starts there: {_last_line(error)}")
        if node != UNKNOWN:
            self.place(node, failure, 1 if broken else _DEATHS_AT_START)
            return
        self._unplaced += broken
        if self._unplaced >= IN_A_ROW:
            self.end(ClusterError(f"{IN_A_ROW} workers could not start: {short(error)}"))

    def deaths_of(self, history: History, made_on: str) -> None:
        """A shard was made after workers had died of it elsewhere: so it was not the shard."""
        for node, died_at in history.died_at.items():
            if (
                node not in (made_on, UNKNOWN)
                and not history.quarantined
                and not self._places.has_worked(node, died_at)
            ):
                self.place(node, ClusterError("workers died there of shards that another node made"))

    def device(self, device: Device, error: Exception) -> bool:
        """Count the loss; whether the device is left out from now on."""
        if not self._devices.lose(device):
            return False
        place = self._places.meet(device.node, *node_name(device.node))
        what = "no model loads there, twice" if isinstance(error, ModelLoadError) else "lost twice"
        self._leave_out(LeftOut(device.named(place.name), place.address, f"{what} within minutes: {short(error)}"))
        return True

    def no_device_left(self, device: str, error: Exception) -> None:
        if isinstance(error, ModelLoadError):
            self.end(error)
            return
        advice = "Look at the machine (nvidia-smi, dmesg), then run the same command again"
        self.end(ClusterError(f"every device was lost twice, {device} last: {error}. {advice}"))

    def no_sample(self, shard: Shard, history: History) -> None:
        text = (
            f"workers died {history.deaths} times on shard {shard.number}, and no single sample is to blame. Look at "
            "the workers' logs (memory?), lower generation.batch_size or compute.workers, then run again"
        )
        self.end(ClusterError(text))

    def look(self, nodes: Collection[str]) -> None:
        """Ends the run where no place is left; `nodes` are those that live and can hold a worker."""
        if self.failure is not None or not self._places.exhausted(nodes):
            return
        errors = [place.error for place in self._places.left_out_places if place.error is not None]
        # On the one machine that there is the error itself says most.
        self.end(errors[0] if self._started_here else NoPlaceLeftError(self._places.left_out_places))

    def _leave_out(self, left_out: LeftOut) -> None:
        self.left_out.append(left_out)
        self._listener.notice(Notice(f"left out from now on: {left_out}", node=left_out.name))


def start_failure(error: Exception) -> PromptmillError:
    return error if isinstance(error, PromptmillError) else PlaceError(f"no worker starts there: {short(error)}")


def short(error: Exception) -> str:
    """Our own errors whole; of others kind and last line: Ray puts the worker's traceback before it."""
    if isinstance(error, PromptmillError) and not isinstance(error, DeviceLostError):
        return cut(" ".join(str(error).split()), 1000)
    return f"{type(error).__name__}: {_last_line(error)}"


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return cut(lines[-1].strip() if lines else "no message", 500)
