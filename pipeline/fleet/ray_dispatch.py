"""Shards to a fleet of Ray actors, whatever dies meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from pipeline.dispatch import SLOTS, Listener, Stop
from pipeline.fleet.actor import Vitals
from pipeline.fleet.cluster import connect, disconnect, fleet_size, no_worker_came, worker_demand
from pipeline.fleet.devices import LostDevices
from pipeline.fleet.member import History, Member, draining_nodes, finished
from pipeline.fleet.rehearsal import Recruiter
from pipeline.fleet.search import Searches
from pipeline.plan import Plan
from pipeline.storage import absolute_url
from schemas.errors import ClusterError, DeviceLostError, ModelLoadError, PromptmillError, SampleError
from schemas.plan import Receipt, Shard

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
        self._members: list[Member] = []
        self._left_out: list[Member] = []
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
            self._recruiter = Recruiter(self._plan, self._url, demand)
            self._size = fleet_size(self._plan, demand, len(self._waiting), started_here)
            with Searches(self._recruiter, self._size) as self._searches:
                self._loop(stop)
        except RayError as error:
            raise ClusterError(f"the Ray cluster was lost: {_short(error)}. Run the same command again") from None
        finally:
            for member in (*self._members, *self._left_out):
                ray.kill(member.handle)
            if not joined_before:  # a notebook's own connection stays
                disconnect()
        if self._failure is not None:
            raise self._failure

    def _loop(self, stop: Stop) -> None:
        began = next_vitals = time.monotonic()
        while True:
            halted = self._failure is not None or stop.requested
            busy = any(member.in_hand for member in self._members)
            if not busy and (halted or not (self._searches or self._waiting)):
                return
            if not halted:
                self._keep_size()
                self._assign()
            for call in finished([call for member in self._members for call in member.calls]):
                self._answer(call)
            self._end_searches()
            if time.monotonic() >= next_vitals:
                next_vitals = time.monotonic() + _VITALS_EVERY_S
                self._watch()
                self._report(began)

    def _keep_size(self) -> None:
        wanted = min(self._size, len(self._waiting) + sum(bool(member.in_hand) for member in self._members))
        living = sum(not member.draining for member in self._members) + len(self._searches)
        for _ in range(wanted - living):
            handle = self._recruiter.hire()
            self._members.append(Member(handle, handle.ready.remote()))
        if self._searches:  # after a device was lost for good, an idle worker may hold what a search waits for
            idle = [member for member in self._members if member.device is not None and not member.in_hand]
            for member in idle[: max(0, living - wanted)]:
                self._dismiss(member)

    def _assign(self) -> None:
        usable = [member for member in self._members if member.device is not None and not member.draining]
        for room in range(SLOTS):
            for member in usable:
                if not self._waiting or len(member.in_hand) != room:
                    continue
                suspicious = self._of(self._waiting[0]).deaths > 0
                if member.in_hand and (suspicious or any(self._of(s).deaths for s in member.in_hand.values())):
                    continue  # a shard that may kill its worker runs alone, so that it is known who did it
                # A second shard ahead hides uploads, but near the end it would only wait for a busy device.
                if room and len(self._waiting) < len(usable):
                    continue
                shard = self._waiting.popleft()
                call = member.handle.process.remote(shard, self._of(shard).given_up)
                member.in_hand[call] = shard

    def _of(self, shard: Shard) -> History:
        return self._history.setdefault(shard.number, History())

    def _answer(self, call: Any) -> None:
        member = next((member for member in self._members if call in member.calls), None)
        if member is None:
            return  # it went with a worker that was let go meanwhile
        try:
            answer = ray.get(call)
        except ActorUnavailableError as error:
            self._doubt(member, call, error)
        except RayTaskError as error:
            self._task_failed(member, call, error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:  # RayActorError, or the environment of the worker cannot be set up
            self._lose(member, error)
        else:
            self._take(member, call, answer)

    def _take(self, member: Member, call: Any, answer: Any) -> None:
        member.unreachable = 0
        if call == member.ready_call:
            member.device, member.ready_call = answer, None
            member.suspects.clear()
        elif call == member.vitals_call:
            member.vitals, member.vitals_call = answer, None
            for notice in answer.notices:
                self._listener.notice(notice)
        else:
            self._done(member.in_hand.pop(call), answer)

    def _done(self, shard: Shard, receipt: Receipt) -> None:
        self._history.pop(shard.number, None)
        self._start_failures.clear()
        self._listener.shard_done(receipt)

    def _doubt(self, member: Member, call: Any, error: ActorUnavailableError) -> None:
        """A call got lost on the way. The worker may live: ask it, and do the shard elsewhere meanwhile."""
        member.unreachable += 1
        if member.unreachable > _UNREACHABLE:
            self._lose(member, error, blameless=True)
        elif call == member.vitals_call:
            member.vitals_call = None
        else:
            if call in member.in_hand:
                member.suspects.append(member.in_hand.pop(call))
                self._waiting.appendleft(member.suspects[-1])
            member.device, member.ready_call = None, member.handle.ready.remote()

    def _task_failed(self, member: Member, call: Any, error: Exception) -> None:
        shard = member.in_hand.pop(call, None)
        if shard is None:
            self._dismiss(member)
        elif isinstance(error, ModelLoadError):
            self._waiting.appendleft(shard)
            self._not_loaded(member, error)
        elif isinstance(error, DeviceLostError):
            member.in_hand[call] = shard
            self._device_lost(member, error)
        elif isinstance(error, PromptmillError):
            self._failure = self._failure or error
        else:
            history = self._of(shard)
            history.errors += 1
            if history.errors >= self._compute.max_attempts:
                self._failure = self._failure or error
                return
            self._listener.notice(f"shard {shard.number}: {_short(error)}; trying again")
            self._waiting.append(shard)

    def _not_loaded(self, member: Member, error: ModelLoadError) -> None:
        """Where another worker has loaded the model, it is this worker's place that is wrong, not the job."""
        self._start_failures.append(str(error))
        somebody = self._past.model_loads or any(other.vitals.model_loads for other in self._members)
        if len(self._start_failures) >= (
            _START_FAILURES * self._size if somebody else min(_START_FAILURES, self._size)
        ):
            self._failure = self._failure or error
            return
        self._listener.notice(f"a worker could not load the model: {error}; trying on another one")
        self._dismiss(member)

    def _device_lost(self, member: Member, error: DeviceLostError) -> None:
        assert member.device is not None
        device = member.device
        self._listener.notice(f"{device} is lost to its process ({error}); starting a new one")
        leave_out = self._lost_devices.lose(device) and bool(device.gpus)
        self._give_back(member, blameless=leave_out)
        if not leave_out:
            self._dismiss(member)
            return
        # Nobody can tell Ray to leave a GPU out; a worker that keeps it and does nothing comes to the same.
        self._members.remove(member)
        self._left_out.append(member)
        self._past += member.vitals
        self._size -= 1
        self._listener.notice(f"{device} is left out: lost twice within minutes. {self._size} workers go on")
        if self._size == 0:
            advice = "Look at the machine (nvidia-smi, dmesg), then run the same command again"
            self._failure = self._failure or ClusterError(
                f"every device was lost twice, {device} last: {error}. {advice}"
            )

    def _lose(self, member: Member, error: RayError, blameless: bool = False) -> None:
        blameless = blameless or member.lost_with_its_node(error)
        if not member.in_hand and not member.suspects and not blameless and member.device is None:
            self._not_started(error)
        elif member.in_hand:
            what = "its node is gone" if blameless else "it hung" if member.hung else "it died"
            self._listener.notice(f"lost a worker ({what}); its {len(member.in_hand)} shard(s) go to another one")
        self._dismiss(member)
        if not blameless:
            for shard in member.suspects:
                self._of(shard).deaths += 1
        self._give_back(member, blameless)

    def _not_started(self, error: RayError) -> None:
        broken = not isinstance(error, RayActorError) or error.actor_init_failed
        self._start_failures += [_short(error)] if broken else []
        if len(self._start_failures) >= _START_FAILURES and self._failure is None:
            self._failure = ClusterError(f"{_START_FAILURES} workers in a row could not start: {_short(error)}")

    def _give_back(self, member: Member, blameless: bool) -> None:
        shards = list(member.in_hand.values())
        member.in_hand.clear()
        for shard in shards:
            history = self._of(shard)
            history.deaths += not blameless
            history.hangs += member.hung and not blameless
            if len(shards) == 1 and history.deaths >= _DEATHS_BEFORE_SEARCH and not blameless and not self._failure:
                self._search(shard)
            else:
                self._waiting.appendleft(shard)

    def _dismiss(self, member: Member) -> None:
        if member in self._members:
            self._members.remove(member)
            self._past += member.vitals
            ray.kill(member.handle)

    def _search(self, shard: Shard) -> None:
        history = self._of(shard)
        if history.deaths > _DEATHS_PER_ATTEMPT * self._compute.max_attempts:
            self._failure = ClusterError(
                f"workers died {history.deaths} times on shard {shard.number}, and no single sample is to blame. "
                f"Look at the workers' logs (memory?), lower generation.batch_size or compute.workers, then run again"
            )
            return
        self._listener.notice(f"shard {shard.number} broke {history.deaths} workers; looking for the sample that does")
        self._searches.begin(shard, frozenset(history.given_up))

    def _end_searches(self) -> None:
        for shard, search in self._searches.ended():
            self._waiting.appendleft(shard)
            try:
                culprit = search.result()
            except PromptmillError as error:
                self._failure = self._failure or error
            except RayError as error:
                self._listener.notice(f"the search in shard {shard.number} was lost ({_short(error)}); trying again")
            else:
                self._give_up(shard, culprit)

    def _give_up(self, shard: Shard, culprit: str | None) -> None:
        if culprit is None:
            return
        history = self._of(shard)
        kind = "hang" if history.hangs else "crash"
        text = "no denoising step for compute.step_timeout_s" if kind == "hang" else "the worker process died"
        history.given_up[culprit] = SampleError(kind, f"{text}, every time this sample was made alone")
        history.deaths, history.hangs = 1, 0  # what is left of the shard gets a budget of its own
        self._listener.notice(f"shard {shard.number}: sample {culprit} is given up ({kind})")

    def _watch(self) -> None:
        draining = draining_nodes()
        for member in list(self._members):
            member.draining = member.device is not None and member.device.node in draining
            if member.draining and not member.in_hand:
                self._dismiss(member)
            elif member.vitals.silent_s > self._compute.step_timeout_s and member.in_hand and not member.hung:
                member.hung = True
                self._listener.notice(f"no denoising step for {member.vitals.silent_s:.0f} s: ending that worker")
                ray.kill(member.handle)
            elif member.device is not None and member.vitals_call is None:
                member.vitals_call = member.handle.vitals.remote()

    def _report(self, began: float) -> None:
        ready = sum(member.device is not None for member in self._members)
        total = self._past
        for member in self._members:
            total += member.vitals
        self._listener.pulse(total.samples, ready, total.model_loads)
        nobody_ever = ready == 0 and total.model_loads == 0 and not self._searches
        if nobody_ever and time.monotonic() - began > self._wait_s and self._failure is None:
            self._failure = no_worker_came(self._wait_s, self._recruiter.demand)


def _short(error: Exception) -> str:
    """The last line says most: Ray puts the worker's traceback before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"[:500]
