"""Shards to a fleet of Ray actors, whatever dies meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from promptmill.pipeline.execution.dispatch import SLOTS
from promptmill.pipeline.execution.events import LeftOut, Listener, Notice, Stop
from promptmill.pipeline.execution.fleet.backlog import Backlog
from promptmill.pipeline.execution.fleet.blame import OF_THE_PLACE, Blame, short, start_failure
from promptmill.pipeline.execution.fleet.cluster import connect, disconnect, fitting_nodes, fleet_size, worker_demand
from promptmill.pipeline.execution.fleet.crew import Crew
from promptmill.pipeline.execution.fleet.head import watching_head
from promptmill.pipeline.execution.fleet.places import IN_A_ROW, Places
from promptmill.pipeline.execution.fleet.searches import Searches
from promptmill.pipeline.execution.fleet.sight import Beacon, UnseenError
from promptmill.pipeline.execution.fleet.trial import WorkerFactory
from promptmill.pipeline.execution.fleet.waiting import Patience
from promptmill.pipeline.execution.fleet.worker_handle import WorkerHandle, finished
from promptmill.pipeline.execution.lasting import lasts
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url
from promptmill.schemas.errors import ClusterError, DeviceLostError, ModelLoadError, NoDeviceError
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Shard, ShardStats

_LOOK_EVERY_S = 0.5
_DEATHS_BEFORE_SEARCH = 2
_DEATHS_PER_ATTEMPT = 10
_UNREACHABLE = 3


class RayDispatcher:
    """One actor per GPU, or per core where there is none; asked for all at once, it may grow into place."""

    def __init__(self, plan: Plan, url: str, address: str | None = None) -> None:
        self._plan = plan
        self._compute = plan.job.compute
        self._url = absolute_url(url)  # workers start in another folder
        self._address = address
        self.left_out: list[LeftOut] = []

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        """Raises NoPlaceLeftError, and HeadLostError where Ray will not answer any more, not even to a goodbye."""
        joined_before = ray.is_initialized()
        started_here = not joined_before and connect(self._address)
        self._listener, self._backlog, self._places = listener, Backlog(shards), Places()
        self._blame = Blame(self._places, listener, started_here)
        try:
            watching_head(lambda: self._run(stop, started_here, leave=not joined_before))
        finally:
            self.left_out += self._blame.left_out
        if self._blame.failure is not None:
            raise self._blame.failure

    def _run(self, stop: Stop, started_here: bool, leave: bool) -> None:
        store, self._beacon = Store(self._url, on_wait=self._listener.notice), Beacon.new()
        self._store = store
        crew: Crew | None = None
        try:
            demand = worker_demand(self._plan)
            size = fleet_size(self._plan, demand, len(self._backlog), started_here)
            factory = WorkerFactory(self._plan, self._url, demand, self._places)
            self._patience = Patience(demand, self._compute.wait_for_workers_s, self._listener)
            self._crew = crew = Crew(factory, self._beacon, self._places, self._listener, size)
            self._demand = demand
            self._beacon.light(store)
            with Searches(factory, size, self._backlog, self._blame, self._listener) as self._searches:
                self._loop(stop)
        except RayError as error:
            raise ClusterError(f"the Ray cluster was lost: {short(error)}. Run the same command again") from None
        finally:
            if crew is not None:
                crew.retire_all()
            if leave:  # a notebook's own connection stays
                disconnect()
            self._beacon.put_out(store)

    def _loop(self, stop: Stop) -> None:
        next_look = time.monotonic()
        while True:
            halted = self._blame.failure is not None or stop.requested
            if not self._crew.busy and (halted or not (self._searches or self._backlog)):
                self._tell()
                return
            if not halted:
                self._crew.grow(self._wanted, len(self._searches))
                self._assign()
            for call in finished(self._crew.calls):
                self._answer(call)
            self._searches.take_ended()
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + _LOOK_EVERY_S
                self._look()

    @property
    def _wanted(self) -> int:
        return min(self._crew.size, len(self._backlog) + self._crew.busy)

    def _assign(self) -> None:
        usable = self._crew.usable
        nodes = {worker.node for worker in usable}
        for in_hand in range(SLOTS):
            for worker in usable:
                # A second shard ahead hides uploads, but near the end it would only wait for a busy device.
                if len(worker.in_hand) != in_hand or (in_hand and len(self._backlog) < len(usable)):
                    continue
                shard = self._backlog.take(worker.node, nodes, list(worker.in_hand.values()))
                if shard is not None:
                    history = self._backlog.of(shard)
                    call = worker.handle.process.remote(shard, history.quarantined, history.failed + 1)
                    worker.in_hand[call] = shard

    def _answer(self, call: Any) -> None:
        worker = self._crew.waits_for(call)
        if worker is None:
            return  # it went with a worker that was let go meanwhile
        try:
            answer = ray.get(call)
        except ActorUnavailableError as error:
            self._doubt(worker, call, error)
        except RayTaskError as error:
            self._task_failed(worker, call, error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:  # RayActorError, or the environment of the worker cannot be set up
            self._lose(worker, error)
        else:
            self._take(worker, call, answer)

    def _take(self, worker: WorkerHandle, call: Any, answer: Any) -> None:
        worker.unreachable = 0
        if call == worker.ready_call:
            worker.device, worker.ready_call = answer, None
            worker.suspects.clear()
        elif call == worker.vitals_call:
            worker.vitals, worker.vitals_call = answer, None
            for notice in answer.notices:
                self._listener.notice(notice)
        else:
            self._done(worker, worker.in_hand.pop(call), answer)

    def _done(self, worker: WorkerHandle, shard: Shard, receipt: ShardStats) -> None:
        history = self._backlog.done(shard)
        if not receipt.already_done:
            self._places.works(worker.node)
            self._blame.deaths_of(history, worker.node)
        self._listener.shard_done(receipt)

    def _doubt(self, worker: WorkerHandle, call: Any, error: ActorUnavailableError) -> None:
        """A call got lost on the way. The worker may live: ask it, and do the shard elsewhere meanwhile."""
        worker.unreachable += 1
        if worker.unreachable > _UNREACHABLE:
            self._lose(worker, error, blameless=True)
        elif call == worker.vitals_call:
            worker.vitals_call = None
        else:
            if call in worker.in_hand:
                worker.suspects.append(worker.in_hand.pop(call))
                self._backlog.first(worker.suspects[-1])
            self._crew.ask(worker)

    def _task_failed(self, worker: WorkerHandle, call: Any, error: Exception) -> None:
        shard = worker.in_hand.pop(call, None)
        if shard is None:
            self._not_ready(worker, call, error)
        elif isinstance(error, ModelLoadError):
            self._backlog.first(shard)
            self._not_loaded(worker, error)
        elif isinstance(error, DeviceLostError):
            worker.in_hand[call] = shard
            self._device_lost(worker, error)
        elif isinstance(error, OF_THE_PLACE):
            self._backlog.first(shard)
            self._blame.place(worker.node, error, limit=1)
        elif lasts(error):
            self._blame.end(error)
        else:
            self._shard_failed(worker, shard, error)

    def _not_ready(self, worker: WorkerHandle, call: Any, error: Exception) -> None:
        if call == worker.ready_call and isinstance(error, UnseenError) and not self._beacon.is_lit(self._store):
            self._beacon.light(self._store)  # somebody tidied up
            self._crew.ask(worker)
            return
        if call == worker.ready_call:
            self._blame.place(worker.node, start_failure(error), limit=1)
        self._crew.retire(worker)

    def _shard_failed(self, worker: WorkerHandle, shard: Shard, error: Exception) -> None:
        history = self._backlog.of(shard)
        history.erred(worker.node)
        self._blame.place(worker.node, error, min(IN_A_ROW, self._compute.max_attempts))
        if history.attempts(self._places) >= self._compute.max_attempts:
            self._blame.end(error)
            return
        text, name = f"shard {shard.number}: {short(error)}; trying again", self._places[worker.node].name
        self._listener.notice(Notice(text, shard=shard.number, node=name))
        self._backlog.last(shard)

    def _not_loaded(self, worker: WorkerHandle, error: ModelLoadError) -> None:
        assert worker.device is not None
        mates = self._crew.mates(worker)
        limit = min(IN_A_ROW, len(mates))
        others_load = self._places.has_worked(worker.node) or any(mate.vitals.model_loads for mate in mates)
        if others_load or isinstance(error, NoDeviceError):
            if self._blame.device(worker.device, error):
                self._park(worker, error)
                return
            limit = IN_A_ROW * len(mates)
        self._listener.notice(f"a worker could not load the model: {error}; trying on another one")
        self._blame.place(worker.node, error, limit)
        self._give_back(worker, blameless=True)
        self._crew.retire(worker)

    def _device_lost(self, worker: WorkerHandle, error: DeviceLostError) -> None:
        assert worker.device is not None
        self._listener.notice(f"{worker.device} is lost to its process ({error}); starting a new one")
        suspect = any(self._backlog.of(shard).suspect for shard in worker.in_hand.values())
        if not suspect and self._blame.device(worker.device, error):
            self._park(worker, error)
        else:
            self._give_back(worker, blameless=False)
            self._crew.retire(worker)

    def _park(self, worker: WorkerHandle, error: Exception) -> None:
        self._give_back(worker, blameless=True)
        self._crew.park(worker)
        if self._crew.size == 0:
            self._blame.no_device_left(f"{worker.device}", error)

    def _lose(self, worker: WorkerHandle, error: RayError, blameless: bool = False) -> None:
        gone = worker.lost_with_its_node(error)
        silent, blameless = blameless, blameless or gone
        unborn = not worker.in_hand and not worker.suspects and not blameless and worker.device is None
        what = "it hung" if worker.hung else "it did not start" if unborn else "it died"
        self._crew.lose(worker, "its node is gone" if gone else "it cannot be reached" if silent else what)
        if unborn:
            self._blame.not_started(worker.node, error)
        self._crew.retire(worker)
        if not blameless:
            for shard in worker.suspects:
                self._backlog.of(shard).died(worker.node, hung=False)
        self._give_back(worker, blameless)

    def _give_back(self, worker: WorkerHandle, blameless: bool) -> None:
        shards = list(worker.in_hand.values())
        worker.in_hand.clear()
        for shard in shards:
            history = self._backlog.of(shard)
            if not blameless:
                history.died(worker.node, worker.hung)
            if (
                len(shards) == 1
                and history.deaths >= _DEATHS_BEFORE_SEARCH
                and not blameless
                and not self._blame.failure
            ):
                if history.deaths > _DEATHS_PER_ATTEMPT * self._compute.max_attempts:
                    self._blame.no_sample(shard, history)
                else:
                    self._searches.begin(shard)
            else:
                self._backlog.first(shard)

    def _look(self) -> None:
        """At what no call tells: signs of life, nodes that go, places that are left, workers that do not come."""
        self._crew.watch(self._compute.step_timeout_s)
        if self._places.left_out_places:
            left = {
                node: fit for node, fit in fitting_nodes(self._demand).items() if not self._places.is_left_out(node)
            }
            self._blame.look(left)
            if left and self._compute.workers == "auto":
                self._crew.size = min(self._crew.size, sum(left.values()))
        pulse = self._tell()
        self._patience.look(pulse.workers, self._wanted)
        if (
            pulse.workers == 0
            and pulse.model_loads == 0
            and not self._searches
            and (error := self._patience.with_nobody())
        ):
            self._blame.end(error)

    def _tell(self) -> Pulse:
        pulse = self._crew.pulse(self._wanted, len(self._backlog), self._store)
        self._listener.pulse(pulse)
        return pulse
