"""What is done about models without being asked: idle ones sleep, and are unloaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from typing import TYPE_CHECKING, Any

from belvedere.errors import BelvedereError
from belvedere.gateway.deployment import Deployment

if TYPE_CHECKING:
    from belvedere.gateway.hosting import Host

__all__ = ["tend"]

_log = logging.getLogger(__name__)
_LOOK_S = 1.0


async def tend(host: Host) -> None:
    """Looks at the models of `host` once a second, until it is cancelled.

    One that can sleep, and whose engine is started again, gets its GPUs for itself meanwhile. One
    that sleeps although requests are with its engines is woken at the second look: another
    gateway has put it to sleep just when they were sent.
    """
    jobs: dict[str, asyncio.Task[None]] = {}
    stuck: frozenset[str] = frozenset()
    try:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                before, stuck = stuck, _stuck(host)
                _look(host, jobs, before & stuck)
            except Exception:
                _log.exception("idle models were not looked after; the next look is in a second")
    finally:
        for job in jobs.values():
            job.cancel()
        await asyncio.gather(*jobs.values(), return_exceptions=True)


def _look(host: Host, jobs: dict[str, asyncio.Task[None]], stuck: Collection[str]) -> None:
    """Begins what is due and not begun."""
    for key in [key for key, job in jobs.items() if job.done()]:
        del jobs[key]
    for deployment in host.mirror.deployments:
        if deployment.id in jobs or host.is_changing(deployment.name):
            continue
        work = _due(host, deployment, is_stuck=deployment.id in stuck)
        if work is not None:
            jobs[deployment.id] = asyncio.create_task(_logged(work))


def _stuck(host: Host) -> frozenset[str]:
    return frozenset(
        deployment.id
        for deployment in host.mirror.deployments
        if deployment.sleep_mode and host.sleeping.is_asked_asleep(deployment)
    )


def _due(
    host: Host, deployment: Deployment, *, is_stuck: bool
) -> Coroutine[Any, Any, object] | None:
    """What is to be done about it now."""
    idle_s = host.idle_s(deployment)
    if is_stuck:
        return host.sleeping.wake(deployment)
    if deployment.gpu_ids and deployment.sleep_mode and host.sleeping.is_starting(deployment):
        return host.sleeping.hold_place(deployment)
    if deployment.idle_unload_s is not None and idle_s > deployment.idle_unload_s:
        _log.info("unloading %r, idle", deployment.name)
        return host.unload(deployment.name)
    limit_s = deployment.idle_sleep_s
    if limit_s is None or host.sleeping.is_asleep(deployment) or idle_s <= limit_s:
        return None
    _log.info("%r goes to sleep, idle", deployment.name)
    return host.sleeping.sleep(deployment, is_due=lambda: host.idle_s(deployment) > limit_s)


async def _logged(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except BelvedereError as exc:
        _log.warning("%s", exc)
    except Exception:
        _log.exception("an idle model was not looked after")
