"""Shards to a fleet of Ray actors, whatever dies meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.dispatch import SLOTS, Listener, Stop
from pipeline.fleet.actor import ShardActor, Vitals
from pipeline.fleet.cluster import Demand, connect, disconnect, fleet_size, worker_demand
from pipeline.fleet.culprit import find_culprit
from pipeline.plan import Plan, to_json
from schemas.errors import ClusterError, ModelLoadError, PromptmillError, SampleError
from schemas.plan import Receipt, Shard

_POLL_S = 0.2
_VITALS_EVERY_S = 0.5
_DEATHS_BEFORE_SEARCH = 2
_LOAD_FAILURES = 3
_DEATHS_PER_ATTEMPT = 10


@dataclass
class _Member:
    """A worker of the fleet. `handle` is its Ray actor."""

    handle: Any
    ready: Any
    node: str | None = None
    in_hand: dict[Any, Shard] = field(default_factory=dict)
    vitals_call: Any = None
    vitals: Vitals = field(default_factory=lambda: Vitals(0, 0, 0.0))
    draining: bool = False
    hung: bool = False


@dataclass
class _History:
    """What happened to a shard so far. Losses of nodes are not counted: they are nobody's fault."""

    deaths: int = 0
    hangs: int = 0
    errors: int = 0
    searches: int = 0
    given_up: dict[str, SampleError] = field(default_factory=dict)


class RayDispatcher:
    """One actor per GPU, or per core where there is none; asked for all at once, it may grow into place."""

    def __init__(self, plan: Plan, url: str, address: str | None = None, wait_for_workers_s: float = 900) -> None:
        self._plan = plan
        self._compute = plan.job.compute
        self._url = url
        self._address = address
        self._wait_s = wait_for_workers_s
        self._plan_json = to_json(plan)
        self._history: dict[int, _History] = {}
        self._members: list[_Member] = []
        self._waiting: deque[Shard] = deque()
        self._searches: dict[Future[str | None], Shard] = {}
        self._failure: BaseException | None = None
        self._load_failures: list[str] = []
        self._past = Vitals(0, 0, 0.0)

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        self._waiting = deque(shards)
        started_here = connect(self._address)
        try:
            self._demand = worker_demand(self._plan)
            self._size = fleet_size(self._plan, self._demand, len(self._waiting), started_here)
            with ThreadPoolExecutor(self._size, thread_name_prefix="search") as pool:
                self._pool = pool
                self._loop(listener, stop)
        finally:
            for member in self._members:
                ray.kill(member.handle)
            disconnect()
        if self._failure is not None:
            raise self._failure

    def _loop(self, listener: Listener, stop: Stop) -> None:
        began = next_vitals = time.monotonic()
        while True:
            halted = self._failure is not None or stop.requested
            busy = any(member.in_hand for member in self._members)
            if not busy and not self._searches and (halted or not self._waiting):
                return
            if not halted:
                self._keep_size()
                self._assign()
            calls = [call for member in self._members for call in _calls(member)]
            for call in _finished(calls):
                self._answer(call, listener)
            self._end_searches(listener)
            if time.monotonic() >= next_vitals:
                next_vitals = time.monotonic() + _VITALS_EVERY_S
                self._watch(listener)
                self._report(listener, began)

    def _keep_size(self) -> None:
        wanted = min(self._size, len(self._waiting) + sum(bool(member.in_hand) for member in self._members))
        living = sum(not member.draining for member in self._members) + len(self._searches)
        for _ in range(wanted - living):
            self._members.append(self._hire())

    def _hire(self) -> _Member:
        handle = start_actor(self._plan_json, self._url, self._demand, self._compute.threads_per_worker)
        return _Member(handle, handle.ready.remote())

    def _assign(self) -> None:
        usable = [member for member in self._members if member.node is not None and not member.draining]
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

    def _of(self, shard: Shard) -> _History:
        return self._history.setdefault(shard.number, _History())

    def _answer(self, call: Any, listener: Listener) -> None:
        member = next((member for member in self._members if call in _calls(member)), None)
        if member is None:
            return  # it went with a worker that was let go meanwhile
        try:
            answer = ray.get(call)
        except RayActorError as error:
            self._lose(member, error, listener)
            return
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            self._shard_failed(member, call, cause, listener)
            return
        if call == member.ready:
            member.node, member.ready = answer, None
        elif call == member.vitals_call:
            member.vitals, member.vitals_call = answer, None
        else:
            shard = member.in_hand.pop(call)
            self._forget(shard, listener, answer)

    def _forget(self, shard: Shard, listener: Listener, receipt: Receipt) -> None:
        self._history.pop(shard.number, None)
        self._load_failures.clear()
        listener.shard_done(receipt)

    def _shard_failed(self, member: _Member, call: Any, error: Exception, listener: Listener) -> None:
        shard = member.in_hand.pop(call, None)
        if shard is None:
            self._dismiss(member)
            return
        if isinstance(error, ModelLoadError):
            self._load_failures.append(str(error))
            if len(self._load_failures) >= _LOAD_FAILURES or len(self._members) <= len(self._load_failures):
                self._failure = self._failure or error
                return
            listener.notice(f"a worker could not load the model: {error}; trying on another one")
            self._waiting.appendleft(shard)
            self._dismiss(member)
        elif isinstance(error, PromptmillError):
            self._failure = self._failure or error
        else:
            history = self._of(shard)
            history.errors += 1
            if history.errors >= self._compute.max_attempts:
                self._failure = self._failure or error
                return
            listener.notice(f"shard {shard.number}: {type(error).__name__}: {error}; trying again")
            self._waiting.append(shard)

    def _lose(self, member: _Member, error: RayActorError, listener: Listener) -> None:
        shards = list(member.in_hand.values())
        blameless = member.draining or _node_is_gone(member.node) or bool(getattr(error, "preempted", False))
        self._dismiss(member)
        if not shards:
            return
        what = "its node is gone" if blameless else "it hung" if member.hung else "it died"
        listener.notice(f"lost a worker ({what}); its {len(shards)} shard(s) go to another one")
        for shard in shards:
            history = self._of(shard)
            if not blameless:
                history.deaths += 1
                history.hangs += member.hung
            if len(shards) == 1 and history.deaths >= _DEATHS_BEFORE_SEARCH and self._failure is None:
                self._search(shard, listener)
            else:
                self._waiting.appendleft(shard)

    def _dismiss(self, member: _Member) -> None:
        if member not in self._members:
            return
        self._members.remove(member)
        self._past = _sum(self._past, member.vitals)
        ray.kill(member.handle)

    def _search(self, shard: Shard, listener: Listener) -> None:
        history = self._of(shard)
        history.searches += 1
        if history.deaths > _DEATHS_PER_ATTEMPT * self._compute.max_attempts:
            self._failure = ClusterError(
                f"workers died {history.deaths} times on shard {shard.number}, and no single sample is to blame. "
                f"Look at the workers' logs (memory?), lower generation.batch_size or compute.workers, then run again"
            )
            return
        listener.notice(f"shard {shard.number} broke {history.deaths} workers; looking for the sample that does it")
        self._searches[self._pool.submit(self._find_culprit, shard, dict(history.given_up))] = shard

    def _find_culprit(self, shard: Shard, given_up: dict[str, SampleError]) -> str | None:
        rehearsal = Rehearsal(self._plan_json, self._url, self._demand, self._plan, shard)
        try:
            samples = [sample for sample in rehearsal.sample_ids() if sample not in given_up]
            return find_culprit(samples, rehearsal.survives)
        finally:
            rehearsal.close()

    def _end_searches(self, listener: Listener) -> None:
        for search in [search for search in self._searches if search.done()]:
            shard = self._searches.pop(search)
            history = self._of(shard)
            try:
                culprit = search.result()
            except PromptmillError as error:
                self._failure = self._failure or error
                continue
            except (RayActorError, RayTaskError) as error:
                listener.notice(f"the search in shard {shard.number} was lost ({type(error).__name__}); trying again")
                culprit = None
            if culprit is not None:
                kind = "hang" if history.hangs else "crash"
                text = "no denoising step for compute.step_timeout_s" if kind == "hang" else "the worker process died"
                history.given_up[culprit] = SampleError(kind, f"{text}, every time this sample was made alone")
                listener.notice(f"shard {shard.number}: sample {culprit} is given up ({kind})")
            self._waiting.appendleft(shard)

    def _watch(self, listener: Listener) -> None:
        draining = _draining_nodes()
        for member in list(self._members):
            member.draining = member.node in draining
            if member.draining and not member.in_hand:
                self._dismiss(member)
            elif member.vitals.silent_s > self._compute.step_timeout_s and member.in_hand and not member.hung:
                member.hung = True
                listener.notice(f"no denoising step for {member.vitals.silent_s:.0f} s: ending that worker")
                ray.kill(member.handle)
            elif member.node is not None and member.vitals_call is None:
                member.vitals_call = member.handle.vitals.remote()

    def _report(self, listener: Listener, began: float) -> None:
        ready = sum(member.node is not None for member in self._members)
        total = self._past
        for member in self._members:
            total = _sum(total, member.vitals)
        listener.pulse(total.samples, ready, total.model_loads)
        nobody_ever = ready == 0 and total.model_loads == 0 and not self._searches
        if nobody_ever and time.monotonic() - began > self._wait_s and self._failure is None:
            have = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
            self._failure = ClusterError(
                f"waited {self._wait_s:.0f} s for a first worker of {self._demand}; "
                f"the cluster has {have or 'nothing'}. "
                f"Add such a node, or lower compute.gpus_per_worker or compute.threads_per_worker"
            )


class Rehearsal:
    """A worker of its own for one suspicious shard; replaced each time that it dies."""

    def __init__(self, plan_json: bytes, url: str, demand: Demand, plan: Plan, shard: Shard) -> None:
        self._start = partial(start_actor, plan_json, url, demand, plan.job.compute.threads_per_worker)
        self._timeout_s = plan.job.compute.step_timeout_s
        self._shard = shard
        self._actor: Any = None

    def sample_ids(self) -> list[str]:
        """Raises RayActorError where no worker lives long enough to load the model, after a few tries."""
        for attempt in range(5):
            if self._actor is None:
                self._actor = self._start()
            try:
                ids: list[str] = ray.get(self._actor.sample_ids.remote(self._shard))
                return ids
            except RayActorError:
                self._actor = None
                if attempt == 4:
                    raise
        raise AssertionError("unreachable")

    def survives(self, samples: Sequence[str]) -> bool:
        self.sample_ids()  # a worker with its model loaded, so that only the making itself is on trial
        call = self._actor.rehearse.remote(self._shard, samples)
        try:
            while not ray.wait([call], timeout=1)[0]:
                if ray.get(self._actor.vitals.remote()).silent_s > self._timeout_s:
                    ray.kill(self._actor)
            ray.get(call)
        except RayActorError:
            self._actor = None
            return False
        return True

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)


def start_actor(plan_json: bytes, url: str, demand: Demand, threads: int) -> Any:
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    options: dict[str, Any] = {
        "num_cpus": demand.cpus,
        "num_gpus": demand.gpus,
        "max_restarts": 0,  # the dispatcher replaces workers itself: it knows what they had in hand
        "runtime_env": {"env_vars": environment},
    }
    return ShardActor.options(**options).remote(plan_json, url)  # type: ignore[attr-defined]


def _calls(member: _Member) -> list[Any]:
    return [call for call in (member.ready, member.vitals_call, *member.in_hand) if call is not None]


def _finished(calls: list[Any]) -> list[Any]:
    if not calls:
        time.sleep(_POLL_S)
        return []
    done, rest = ray.wait(calls, num_returns=1, timeout=_POLL_S)
    more: list[Any] = ray.wait(rest, num_returns=len(rest), timeout=0)[0] if rest else []
    return [*done, *more]


def _sum(one: Vitals, other: Vitals) -> Vitals:
    return Vitals(one.samples + other.samples, one.model_loads + other.model_loads, 0.0)


def _node_is_gone(node: str | None) -> bool:
    return node is not None and not any(entry["NodeID"] == node and entry["Alive"] for entry in ray.nodes())


def _draining_nodes() -> set[str]:
    # Private, and what Ray Data and Ray Train use: there is no public way to ask.
    from ray._private.state import state

    return {node if isinstance(node, str) else node.hex() for node in state.get_draining_nodes()}
