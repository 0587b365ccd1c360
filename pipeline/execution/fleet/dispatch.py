"""Shards to a fleet of Ray actors, whatever dies meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from promptmill.pipeline.execution.dispatch import SLOTS
from promptmill.pipeline.execution.events import Listener, Stop
from promptmill.pipeline.execution.fleet.actor import Vitals
from promptmill.pipeline.execution.fleet.cluster import connect, disconnect, fleet_size, no_worker_came, worker_demand
from promptmill.pipeline.execution.fleet.lost_devices import LostDevices
from promptmill.pipeline.execution.fleet.searches import Searches
from promptmill.pipeline.execution.fleet.trial import WorkerFactory
from promptmill.pipeline.execution.fleet.worker_handle import History, WorkerHandle, draining_nodes, finished
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.urls import absolute_url
from promptmill.schemas.errors import ClusterError, DeviceLostError, ModelLoadError, PromptmillError, SampleError
from promptmill.schemas.plan import Shard, ShardStats

_VITALS_EVERY_S = 0.5
_DEATHS_BEFORE_SEARCH = 2
_START_FAILURES = 3
_DEATHS_PER_ATTEMPT = 10
_UNREACHABLE = 3


class RayDispatcher:
    """One actor per GPU, or per core where there is none; asked for all at once, it may grow into place."""

    def __init__(self, plan: Plan, url: str, address: str | None = None, wait_for_workers_s: float = 900) -> None:
        self._plan = plan
        self._compute = plan.job.compute
        self._url = absolute_url(url)  # workers start in another folder
        self._address = address
        self._wait_s = wait_for_workers_s
        self._history: dict[int, History] = {}
        self._workers: list[WorkerHandle] = []
        self._left_out: list[WorkerHandle] = []
        self._lost_devices = LostDevices()
        self._waiting: deque[Shard] = deque()
        self._failure: PromptmillError | Exception | None = None
        self._start_failures: list[str] = []
        self._past = Vitals()

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        self._waiting = deque(shards)
        self._listener = listener
        joined_before = ray.is_initialized()
        started_here = not joined_before and connect(self._address)
        try:
            demand = worker_demand(self._plan)
            self._factory = WorkerFactory(self._plan, self._url, demand)
            self._size = fleet_size(self._plan, demand, len(self._waiting), started_here)
            with Searches(self._factory, self._size) as self._searches:
                self._loop(stop)
        except RayError as error:
            raise ClusterError(f"the Ray cluster was lost: {_short(error)}. Run the same command again") from None
        finally:
            for worker in (*self._workers, *self._left_out):
                ray.kill(worker.handle)
            if not joined_before:  # a notebook's own connection stays
                disconnect()
        if self._failure is not None:
            raise self._failure

    def _loop(self, stop: Stop) -> None:
        began = next_vitals = time.monotonic()
        while True:
            halted = self._failure is not None or stop.requested
            busy = any(worker.in_hand for worker in self._workers)
            if not busy and (halted or not (self._searches or self._waiting)):
                return
            if not halted:
                self._keep_size()
                self._assign()
            for call in finished([call for worker in self._workers for call in worker.calls]):
                self._answer(call)
            self._end_searches()
            if time.monotonic() >= next_vitals:
                next_vitals = time.monotonic() + _VITALS_EVERY_S
                self._watch()
                self._report(began)

    def _keep_size(self) -> None:
        wanted = min(self._size, len(self._waiting) + sum(bool(worker.in_hand) for worker in self._workers))
        living = sum(not worker.draining for worker in self._workers) + len(self._searches)
        for _ in range(wanted - living):
            handle = self._factory.start()
            self._workers.append(WorkerHandle(handle, handle.ready.remote()))
        if self._searches:  # after a device was lost for good, an idle worker may hold what a search waits for
            idle = [worker for worker in self._workers if worker.device is not None and not worker.in_hand]
            for worker in idle[: max(0, living - wanted)]:
                self._retire(worker)

    def _assign(self) -> None:
        usable = [worker for worker in self._workers if worker.device is not None and not worker.draining]
        for room in range(SLOTS):
            for worker in usable:
                if not self._waiting or len(worker.in_hand) != room:
                    continue
                suspicious = self._of(self._waiting[0]).deaths > 0
                if worker.in_hand and (suspicious or any(self._of(s).deaths for s in worker.in_hand.values())):
                    continue  # a shard that may kill its worker runs alone, so that it is known who did it
                # A second shard ahead hides uploads, but near the end it would only wait for a busy device.
                if room and len(self._waiting) < len(usable):
                    continue
                shard = self._waiting.popleft()
                history = self._of(shard)
                call = worker.handle.process.remote(shard, history.quarantined, history.failed + 1)
                worker.in_hand[call] = shard

    def _of(self, shard: Shard) -> History:
        return self._history.setdefault(shard.number, History())

    def _answer(self, call: Any) -> None:
        worker = next((worker for worker in self._workers if call in worker.calls), None)
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
            self._done(worker.in_hand.pop(call), answer)

    def _done(self, shard: Shard, receipt: ShardStats) -> None:
        self._history.pop(shard.number, None)
        self._start_failures.clear()
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
                self._waiting.appendleft(worker.suspects[-1])
            worker.device, worker.ready_call = None, worker.handle.ready.remote()

    def _task_failed(self, worker: WorkerHandle, call: Any, error: Exception) -> None:
        shard = worker.in_hand.pop(call, None)
        if shard is None:
            self._retire(worker)
        elif isinstance(error, ModelLoadError):
            self._waiting.appendleft(shard)
            self._not_loaded(worker, error)
        elif isinstance(error, DeviceLostError):
            worker.in_hand[call] = shard
            self._device_lost(worker, error)
        elif isinstance(error, PromptmillError):
            self._failure = self._failure or error
        else:
            history = self._of(shard)
            history.add_error()
            if history.errors >= self._compute.max_attempts:
                self._failure = self._failure or error
                return
            self._listener.notice(f"shard {shard.number}: {_short(error)}; trying again")
            self._waiting.append(shard)

    def _not_loaded(self, worker: WorkerHandle, error: ModelLoadError) -> None:
        """Where another worker has loaded the model, it is this worker's place that is wrong, not the job."""
        self._start_failures.append(str(error))
        somebody = self._past.model_loads or any(other.vitals.model_loads for other in self._workers)
        if len(self._start_failures) >= (
            _START_FAILURES * self._size if somebody else min(_START_FAILURES, self._size)
        ):
            self._failure = self._failure or error
            return
        self._listener.notice(f"a worker could not load the model: {error}; trying on another one")
        self._retire(worker)

    def _device_lost(self, worker: WorkerHandle, error: DeviceLostError) -> None:
        assert worker.device is not None
        device = worker.device
        self._listener.notice(f"{device} is lost to its process ({error}); starting a new one")
        leave_out = self._lost_devices.lose(device) and bool(device.gpus)
        self._give_back(worker, blameless=leave_out)
        if not leave_out:
            self._retire(worker)
            return
        # Nobody can tell Ray to leave a GPU out; a worker that keeps it and does nothing comes to the same.
        self._workers.remove(worker)
        self._left_out.append(worker)
        self._past += worker.vitals
        self._size -= 1
        self._listener.notice(f"{device} is left out: lost twice within minutes. {self._size} workers go on")
        if self._size == 0:
            advice = "Look at the machine (nvidia-smi, dmesg), then run the same command again"
            self._failure = self._failure or ClusterError(
                f"every device was lost twice, {device} last: {error}. {advice}"
            )

    def _lose(self, worker: WorkerHandle, error: RayError, blameless: bool = False) -> None:
        blameless = blameless or worker.lost_with_its_node(error)
        if not worker.in_hand and not worker.suspects and not blameless and worker.device is None:
            self._not_started(error)
        elif worker.in_hand:
            what = "its node is gone" if blameless else "it hung" if worker.hung else "it died"
            self._listener.notice(f"lost a worker ({what}); its {len(worker.in_hand)} shard(s) go to another one")
        self._retire(worker)
        if not blameless:
            for shard in worker.suspects:
                self._of(shard).add_death()
        self._give_back(worker, blameless)

    def _not_started(self, error: RayError) -> None:
        broken = not isinstance(error, RayActorError) or error.actor_init_failed
        self._start_failures += [_short(error)] if broken else []
        if len(self._start_failures) >= _START_FAILURES and self._failure is None:
            self._failure = ClusterError(f"{_START_FAILURES} workers in a row could not start: {_short(error)}")

    def _give_back(self, worker: WorkerHandle, blameless: bool) -> None:
        shards = list(worker.in_hand.values())
        worker.in_hand.clear()
        for shard in shards:
            history = self._of(shard)
            if not blameless:
                history.add_death(worker.hung)
            if len(shards) == 1 and history.deaths >= _DEATHS_BEFORE_SEARCH and not blameless and not self._failure:
                self._search(shard)
            else:
                self._waiting.appendleft(shard)

    def _retire(self, worker: WorkerHandle) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
            self._past += worker.vitals
            ray.kill(worker.handle)

    def _search(self, shard: Shard) -> None:
        history = self._of(shard)
        if history.deaths > _DEATHS_PER_ATTEMPT * self._compute.max_attempts:
            self._failure = ClusterError(
                f"workers died {history.deaths} times on shard {shard.number}, and no single sample is to blame. "
                f"Look at the workers' logs (memory?), lower generation.batch_size or compute.workers, then run again"
            )
            return
        self._listener.notice(f"shard {shard.number} broke {history.deaths} workers; looking for the sample that does")
        self._searches.begin(shard, frozenset(history.quarantined))

    def _end_searches(self) -> None:
        for shard, search in self._searches.ended():
            self._waiting.appendleft(shard)
            try:
                poison_sample = search.result()
            except PromptmillError as error:
                self._failure = self._failure or error
            except RayError as error:
                self._listener.notice(f"the search in shard {shard.number} was lost ({_short(error)}); trying again")
            else:
                self._give_up(shard, poison_sample)

    def _give_up(self, shard: Shard, poison_sample: str | None) -> None:
        if poison_sample is None:
            return
        history = self._of(shard)
        kind = "hang" if history.hangs else "crash"
        text = "no denoising step for compute.step_timeout_s" if kind == "hang" else "the worker process died"
        history.quarantined[poison_sample] = SampleError(kind, f"{text}, every time this sample was made alone")
        history.deaths, history.hangs = 1, 0  # what is left of the shard gets a budget of its own
        self._listener.notice(f"shard {shard.number}: sample {poison_sample} is given up ({kind})")

    def _watch(self) -> None:
        draining = draining_nodes()
        for worker in list(self._workers):
            worker.draining = worker.device is not None and worker.device.node in draining
            if worker.draining and not worker.in_hand:
                self._retire(worker)
            elif worker.vitals.silent_s > self._compute.step_timeout_s and worker.in_hand and not worker.hung:
                worker.hung = True
                self._listener.notice(f"no denoising step for {worker.vitals.silent_s:.0f} s: ending that worker")
                ray.kill(worker.handle)
            elif worker.device is not None and worker.vitals_call is None:
                worker.vitals_call = worker.handle.vitals.remote()

    def _report(self, began: float) -> None:
        ready = sum(worker.device is not None for worker in self._workers)
        total = self._past
        for worker in self._workers:
            total += worker.vitals
        self._listener.pulse(total.samples, ready, total.model_loads)
        nobody_ever = ready == 0 and total.model_loads == 0 and not self._searches
        if nobody_ever and time.monotonic() - began > self._wait_s and self._failure is None:
            self._failure = no_worker_came(self._wait_s, self._factory.demand)


def _short(error: Exception) -> str:
    """The last line says most: Ray puts the worker's traceback before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"[:500]
