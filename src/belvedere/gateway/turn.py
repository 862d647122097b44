"""A request's place at the engines of a model, and what its record learns of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from belvedere.gateway.keys import Caller
from belvedere.gateway.record import current
from belvedere.gateway.state import Gateway
from belvedere.router.replica import Model

__all__ = ["turn"]


@asynccontextmanager
async def turn(
    gateway: Gateway,
    model: Model,
    caller: Caller,
    *,
    priority: int | None = None,
    stream: bool = False,
) -> AsyncIterator[None]:
    """Waits for the request's turn and holds its place for the time of the block.

    Raises:
        RateLimited: the queue is full, or the key has used up its requests.
    """
    record = current()
    record.resolved(model.name, stream=stream)
    async with AsyncExitStack() as stack:
        stack.enter_context(gateway.router.expecting(model))
        with record.trace.stage("queue"):
            slot = gateway.admission.slot(model.name, caller, priority)
            ticket = await stack.enter_async_context(slot)
        record.admitted(ticket.position, ticket.waited_s)
        yield
