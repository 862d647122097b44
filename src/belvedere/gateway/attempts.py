"""One request, at most two engines: when the first dies before anything was sent, another tries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from typing import TypeVar

from belvedere.errors import BelvedereError, EngineTimeout, RateLimited, Unavailable
from belvedere.gateway.record import current
from belvedere.gateway.relay import EngineGone, EngineNotReached
from belvedere.gateway.state import Gateway
from belvedere.router.replica import Model
from belvedere.router.router import Lease
from belvedere.router.work import Work

__all__ = ["attempt", "noting"]

T = TypeVar("T")
_TRIES = 2
_BUSY = (RateLimited, Unavailable)
"""What an engine answers that is full, or not able to compute at the moment: 429 and 503."""
_RETRY_AFTER_S = 2
Job = Callable[[Lease, AsyncExitStack], Awaitable[T]]


async def attempt(gateway: Gateway, model: Model, work: Work, job: Job[T]) -> T:
    """The result of `job` with a lease, tried once more on another replica.

    A second try follows when the engine died, or refused with 429 or 503. The lease ends with the
    stack that `job` is given; `job` may take it over with ``pop_all``.

    Raises:
        Unavailable: no replica is ready, a sleeping one did not wake up, or two engines died.
        RequestQuarantined: two engines have died of this very request.
        EngineTimeout: the engine made no progress; the supervisor is asked to look at it.
    """
    tried: list[str] = []
    failure: BelvedereError | None = None
    while len(tried) < _TRIES:
        async with AsyncExitStack() as stack:
            try:
                lease = stack.enter_context(gateway.router.lease(model, work, exclude=tried))
            except Unavailable:
                if isinstance(failure, _BUSY):
                    raise failure from None
                if not await _woken(gateway, model):
                    raise
                continue
            tried.append(lease.replica.name)
            current().leased(lease, is_retry=len(tried) > 1)
            stack.enter_context(_span(lease))
            try:
                return await noting(gateway, lease, job(lease, stack))
            except (EngineGone, *_BUSY) as exc:
                failure = exc
    assert failure is not None
    if isinstance(failure, _BUSY):
        raise failure
    gateway.router.quarantine.check(work.fingerprint)
    raise Unavailable(
        f"{len(tried)} engines of {model.name!r} broke the connection.",
        remedy="Try again shortly; GET /health shows the state.",
        retry_after_s=_RETRY_AFTER_S,
    ) from failure


async def _woken(gateway: Gateway, model: Model) -> bool:
    """Whether the model was asleep, and can be asked now."""
    host = gateway.host
    deployment = host.sleeping.sleeper(model) if host is not None else None
    if host is None or deployment is None:
        return False
    with current().trace.stage("wake"):
        await host.sleeping.wake(deployment)
    return True


def _span(lease: Lease) -> AbstractContextManager[None]:
    replica = lease.replica
    return current().trace.stage(
        "engine", replica=replica.name, launch=replica.launch(), prefix_hit_tokens=lease.hit_tokens
    )


async def noting(gateway: Gateway, lease: Lease, work: Awaitable[T]) -> T:
    """The result of `work`; the router hears of an engine that died or timed out meanwhile."""
    try:
        return await work
    except EngineGone as exc:
        current().trace.fail(exc)
        if isinstance(exc, EngineNotReached):
            gateway.router.mark_broken(lease.replica)
        else:
            lease.died()
        current().engine_deaths += 1
        raise
    except EngineTimeout as exc:
        current().trace.fail(exc)
        lease.timed_out()
        gateway.suspect(lease.replica)
        raise
    except BelvedereError as exc:
        current().trace.fail(exc)
        raise
