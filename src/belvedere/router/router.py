"""The lease of a replica: who computes this request?"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from belvedere.errors import Unavailable
from belvedere.router.affinity import NOTHING, Affinity
from belvedere.router.policy import POLICIES, Load, PolicyName, Tuning, Turn, cost
from belvedere.router.quarantine import Quarantine
from belvedere.router.replica import Launch, Model, Replica
from belvedere.router.served import Served
from belvedere.router.work import OutputLengths, Work

__all__ = ["Lease", "Router"]

_RETRY_AFTER_S = 5
_CAPACITY_TOKENS = 200_000
_NO_WORK = Work()
_REWRITE_HALF_LIVES = 64


class Lease:
    """A replica, held for one request. Say how it ended with one of the three methods.

    A lease that ends without a word, because the client left or the request was wrong, tells
    nothing about the replica.

    Attributes:
        replica: who computes it.
        hit_tokens: prompt tokens which the replica is believed to have cached.
    """

    __slots__ = ("_launch", "_router", "_work", "hit_tokens", "replica")

    def __init__(self, router: Router, replica: Replica, work: Work, hit_tokens: int) -> None:
        self.replica = replica
        self.hit_tokens = hit_tokens
        self._router = router
        self._work = work
        self._launch = replica.seen.number

    def finished(self, output_tokens: int | None = None) -> None:
        """The answer is complete; `output_tokens` is its length, where the engine said it."""
        router = self._router
        router.quarantine.succeeded(self._work.fingerprint)
        if output_tokens is not None:
            router.output_lengths.add(self.replica.model.name, output_tokens)
        if self._of_this_launch():
            self.replica.seen.suspect = False

    def died(self) -> None:
        """The engine broke the connection.

        The replica gets nothing until its launch changes, or it has been ready for
        `Router.broken_s` all the same.
        """
        self.replica.deaths += 1
        self._router.quarantine.died(self._work.fingerprint, self.replica.name, self._launch)
        if self._of_this_launch():
            self._router.mark_broken(self.replica)

    def timed_out(self) -> None:
        """The engine said nothing for too long.

        The replica is used only when there is no other, until it is seen to get on
        (`finished`, `Router.trust`) or its launch changes.
        """
        self.replica.timeouts += 1
        if self._of_this_launch():
            self.replica.seen.suspect = True

    def _of_this_launch(self) -> bool:
        return self.replica.seen.number == self._launch == self.replica.launch()


class Router:
    """Chooses a replica for each request and keeps account of what each was given.

    One event loop, no locks: nothing but `idle` waits.

    Args:
        policy: how to choose among the ready replicas of a model.
        tuning: its costs and bounds.
        quarantine: of requests; one with the default limits unless given.
        broken_s: how long a replica whose connection broke is left alone while its launch stays
            the same: the supervisor needs a moment to notice a death.
        recent_half_life_s: after which half of the assigned work counts as forgotten.
        capacity_tokens: KV cache of a replica that does not say its own. 200,000 tokens are about
            what an 8B model with grouped heads leaves room for on a 48 GB GPU.
        now_s: a monotonic clock.
        draw: evenly from [0, 1), for the policy ``random``.
    """

    def __init__(
        self,
        policy: PolicyName = "affinity",
        *,
        tuning: Tuning | None = None,
        quarantine: Quarantine | None = None,
        broken_s: float = 2.0,
        recent_half_life_s: float = 60.0,
        capacity_tokens: int = _CAPACITY_TOKENS,
        now_s: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.quarantine = quarantine or Quarantine(now_s=now_s)
        self.output_lengths = OutputLengths()
        self._policy = POLICIES[policy]
        self._tuning = tuning or Tuning()
        self._broken_s = broken_s
        self._half_life_s = recent_half_life_s
        self._capacity_tokens = capacity_tokens
        self._now_s = now_s
        self._draw = draw
        self._recent_since_s = now_s()
        self._affinity = Affinity()
        self._replicas: dict[str, Replica] = {}
        self._served = Served()
        self._expected: Counter[tuple[str, str]] = Counter()
        self._decisions = 0

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return tuple(self._replicas.values())

    @property
    def models(self) -> tuple[Model, ...]:
        """What clients can ask for; of a model that is being replaced, the current one."""
        return self._served.models

    @property
    def in_flight(self) -> int:
        return sum(replica.in_flight for replica in self._replicas.values())

    @property
    def aliases(self) -> Mapping[str, str]:
        """Alias -> name of a model."""
        return self._served.aliases

    def add(self, replica: Replica) -> None:
        """The replica takes requests from now on, whenever it is ready.

        Raises:
            ValueError: there is one of that name.
        """
        if replica.name in self._replicas:
            raise ValueError(f"there is a replica {replica.name!r} already")
        self._replicas[replica.name] = replica
        replica.used_s = self._now_s()
        self._served.add(replica)

    def remove(self, name: str) -> None:
        """Forgets the replica; leases that are out go on. Does nothing for an unknown name."""
        replica = self._replicas.pop(name, None)
        if replica is None:
            return
        self._affinity.forget(name)
        self._served.remove(replica)
        if not self._served.current(replica.model.name):
            self.output_lengths.forget(replica.model.name)

    def promote(self, model: Model) -> None:
        """New requests for its name go to this deployment of it; unknown: nothing happens."""
        self._served.promote(model)

    def drain(self, name: str) -> None:
        """Gives the replica no new leases. Does nothing for an unknown name."""
        if name in self._replicas:
            self._replicas[name].draining = True

    def retire(self, model: Model) -> None:
        """Drains all replicas of this deployment."""
        for replica in self._served.replicas(model):
            replica.draining = True

    async def idle(self, target: str | Model, timeout_s: float) -> bool:
        """Waits until no lease of a replica, or of a deployment, is out.

        Returns:
            ``False`` when one still is after `timeout_s`.
        """
        until_s = time.monotonic() + timeout_s
        for replica in self._meant(target):
            if not await replica.idle(max(0.0, until_s - time.monotonic())):
                return False
        return True

    def idle_s(self, model: Model, now_s: float | None = None) -> float:
        """For how long, until `now_s`, this deployment has had no request; 0 while it has one."""
        replicas = self._served.replicas(model)
        if not replicas or self._expected[model.name, model.deployment]:
            return 0.0
        if any(replica.in_flight for replica in replicas):
            return 0.0
        now_s = self._now_s() if now_s is None else now_s
        return max(0.0, now_s - max(replica.used_s for replica in replicas))

    @contextmanager
    def expecting(self, model: Model) -> Iterator[None]:
        """A request, which may still wait or have images prepared, keeps this deployment busy."""
        key = model.name, model.deployment
        self._expected[key] += 1
        try:
            yield
        finally:
            self._expected[key] -= 1
            self._expected += Counter()  # forgets the zeros

    def touch(self, model: Model) -> None:
        """The idle time of this deployment begins now: the time of its start is none."""
        for replica in self._served.replicas(model):
            replica.used_s = self._now_s()

    def trust(self, name: str) -> None:
        """The replica's engine was seen to get on: it is no longer suspect."""
        if name in self._replicas:
            self._replicas[name].seen.suspect = False

    def forget_cache(self, name: str) -> None:
        """The replica's caches are empty."""
        self._affinity.forget(name)

    def mark_broken(self, replica: Replica) -> None:
        """Its process has probably ended, and its caches with it."""
        replica.seen.broken_s = self._now_s()
        self._affinity.forget(replica.name)

    def set_alias(self, alias: str, model_name: str) -> None:
        """The model answers to `alias` too; an alias that exists is moved, in one step.

        Raises:
            InvalidRequest: a model itself has that name.
        """
        self._served.set_alias(alias, model_name)

    def remove_alias(self, alias: str) -> None:
        """Does nothing for an unknown one."""
        self._served.remove_alias(alias)

    def model(self, name: str | None) -> Model:
        """The model of that name or alias; the only one when `name` is ``None``.

        Raises:
            ModelNotFound: no such model, or none named while several are served.
        """
        return self._served.model(name)

    @contextmanager
    def lease(
        self, model: Model, work: Work = _NO_WORK, *, exclude: Collection[str] = ()
    ) -> Iterator[Lease]:
        """Holds a replica of `model` for the time of one request.

        Replicas of the current deployment of that name: `model` may have been replaced since the
        request asked for it.

        Args:
            exclude: names of replicas that have failed this request.

        Raises:
            RequestQuarantined: engines died of this request.
            Unavailable: no replica is ready.
        """
        self.quarantine.check(work.fingerprint)
        now_s = self._now_s()
        replica, load = self._choose(model, work, exclude, now_s)
        price = cost(load, work, self._tuning)
        replica.seen.recent += price / self._fading(now_s)
        capacity_tokens = replica.capacity_tokens or self._capacity_tokens
        self._affinity.learn(replica.name, work, capacity_tokens=capacity_tokens)
        replica.used_s = now_s
        replica.take(price, load.prefix_tokens)
        try:
            yield Lease(self, replica, work, load.prefix_tokens)
        finally:
            replica.used_s = self._now_s()
            replica.give_back(price)

    def _choose(
        self, model: Model, work: Work, exclude: Collection[str], now_s: float
    ) -> tuple[Replica, Load]:
        candidates = self._candidates(model, exclude, now_s)
        if not candidates:
            raise self._unavailable(model)
        known = self._affinity.known(work)
        fading = self._fading(now_s)
        loads = []
        for replica in candidates:
            prefix_tokens, encoded_tokens = known.get(replica.name, NOTHING)
            loads.append(
                Load(
                    replica.outstanding,
                    replica.seen.recent * fading,
                    prefix_tokens,
                    encoded_tokens,
                    replica.in_flight,
                    replica.weight,
                )
            )
        index = self._policy(loads, work, Turn(self._decisions, self._draw()), self._tuning)
        self._decisions += 1
        return candidates[index], loads[index]

    def _fading(self, now_s: float) -> float:
        """What a unit of `Launch.recent` is worth now.

        Newer work is written in larger numbers, so that a decision reads 64 of them without
        computing a power for each; now and then all are written anew, before they overflow.
        """
        half_lives = (now_s - self._recent_since_s) / self._half_life_s
        if half_lives > _REWRITE_HALF_LIVES:
            for replica in self._replicas.values():
                replica.seen.recent *= 0.5**half_lives
            self._recent_since_s, half_lives = now_s, 0.0
        return float(0.5**half_lives)

    def _candidates(self, model: Model, exclude: Collection[str], now_s: float) -> list[Replica]:
        """Ready ones; the suspects among them only when there is no other."""
        trusted: list[Replica] = []
        suspects: list[Replica] = []
        for replica in self._served.current(model.name):
            if replica.draining or replica.state() != "ready" or replica.name in exclude:
                continue
            seen = replica.seen
            number = replica.launch()
            if number != seen.number:
                self._affinity.forget(replica.name)
                seen = replica.seen = Launch(number)
            if seen.broken_s is not None:
                if now_s - seen.broken_s < self._broken_s:
                    continue
                seen.broken_s = None
            (suspects if seen.suspect else trusted).append(replica)
        return trusted or suspects

    def _unavailable(self, model: Model) -> Unavailable:
        replicas = self._served.current(model.name)
        states = {replica.state() for replica in replicas if not replica.draining}
        if "starting" in states:
            what = "is still being loaded"
        elif "asleep" in states:
            what = "is asleep"
        elif "backoff" in states:
            what = "has lost its engine, which is being started again"
        elif replicas and all(replica.draining for replica in replicas):
            what = "is being unloaded"
        elif "ready" in states:
            what = "has just lost its engine"
        else:
            what = "has no running engine"
        return Unavailable(
            f"The model {model.name!r} {what}.",
            remedy="Try again shortly; GET /health shows the state.",
            retry_after_s=_RETRY_AFTER_S,
        )

    def _meant(self, target: str | Model) -> list[Replica]:
        if isinstance(target, Model):
            return list(self._served.replicas(target))
        return [self._replicas[target]] if target in self._replicas else []
