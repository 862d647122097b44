"""The queue in front of the engines: bounded, by priority, fair between keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belvedere.errors import RateLimited
from belvedere.gateway.admission import Admission
from belvedere.gateway.fairness import FairQueue
from belvedere.gateway.keys import Caller

Push = tuple[str, int]


def caller(name: str, **limits: int) -> Caller:
    return Caller(name, "user", name.encode(), **limits)


ANN, BOB = caller("ann"), caller("bob")


class Line:
    """Requests that enter in order and note when they were let through."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.started: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def enter(self, name: str, who: Caller, priority: int | None = None) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, who, priority))
        await settle()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settle()

    async def _hold(self, name: str, who: Caller, priority: int | None) -> None:
        async with self.admission.slot("m", who, priority):
            self.started.append(name)
            await self.ends[name].wait()

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(work: Callable[[Line], Awaitable[None]], capacity: int = 1, limit: int = 100) -> None:
    async def main() -> None:
        line = Line(Admission(capacity=lambda _: capacity, queue_limit=limit))
        try:
            await asyncio.wait_for(work(line), 60)
        finally:
            await line.close()
        assert line.admission.busy == 0

    asyncio.run(main())


def test_a_key_with_many_requests_delays_another_by_one_at_most() -> None:
    async def work(line: Line) -> None:
        for index in range(5):
            await line.enter(f"ann{index}", ANN)
        await line.enter("bob0", BOB)
        await line.end("ann0")
        await line.end(line.started[-1])
        assert "bob0" in line.started[:3]

    run(work)


def test_better_priorities_go_first_and_equal_ones_in_order() -> None:
    async def work(line: Line) -> None:
        await line.enter("first", ANN)
        await line.enter("late", ANN, 5)
        await line.enter("a", ANN, 0)
        await line.enter("b", ANN, 0)
        for _ in range(3):
            await line.end(line.started[-1])
        assert line.started == ["first", "a", "b", "late"]

    run(work)


def test_a_request_cannot_be_better_than_its_key() -> None:
    async def work(line: Line) -> None:
        await line.enter("running", ANN)
        await line.enter("pushy", caller("batch", priority=10), -100)
        await line.enter("ann", ANN)
        await line.end("running")
        assert line.started[-1] == "ann"

    run(work)


def test_a_key_at_its_own_limit_waits_while_others_pass() -> None:
    async def work(line: Line) -> None:
        one = caller("one", max_concurrency=1)
        await line.enter("one0", one)
        await line.enter("one1", one)
        await line.enter("bob", BOB)
        assert line.started == ["one0", "bob"]
        await line.end("one0")
        assert line.started == ["one0", "bob", "one1"]

    run(work, capacity=10)


def test_who_leaves_the_queue_costs_nothing() -> None:
    async def work(line: Line) -> None:
        await line.enter("running", ANN)
        await line.enter("leaver", ANN)
        await line.enter("next", ANN)
        line.tasks["leaver"].cancel()
        await settle()
        assert line.admission.waiting() == {"m": 1}
        await line.end("running")
        assert line.started == ["running", "next"]

    run(work)


def test_who_leaves_at_the_moment_of_its_turn_passes_it_on() -> None:
    async def work(line: Line) -> None:
        await line.enter("running", ANN)
        await line.enter("leaver", ANN)
        await line.enter("next", ANN)
        line.ends["running"].set()
        for _ in range(20):
            if line.tasks["running"].done():
                break
            await asyncio.sleep(0)
        line.tasks["leaver"].cancel()
        await settle()
        assert "next" in line.started

    run(work)


def test_who_leaves_just_before_a_place_is_free_does_not_break_the_line() -> None:
    async def work(line: Line) -> None:
        await line.enter("running", ANN)
        await line.enter("leaver", ANN)
        await line.enter("next", ANN)
        line.tasks["leaver"].cancel()
        await line.end("running")
        assert line.tasks["running"].exception() is None
        assert line.started == ["running", "next"]

    run(work)


def test_one_key_cannot_fill_the_queue_against_another() -> None:
    async def work(line: Line) -> None:
        one = caller("one", max_concurrency=1)
        for index in range(6):
            await line.enter(f"one{index}", one)
        refused = [name for name, task in line.tasks.items() if task.done()]
        assert refused == ["one4", "one5"]
        await line.enter("running", ANN)
        await line.enter("bob", BOB)
        assert not line.tasks["bob"].done()
        refusal = line.tasks["one3"].exception()
        assert isinstance(refusal, RateLimited)

    run(work, capacity=2, limit=3)


def test_a_keys_limit_counts_over_all_models() -> None:
    async def main() -> None:
        admission = Admission(capacity=lambda _: 9, queue_limit=9)
        one = caller("one", max_concurrency=1)
        first = AsyncExitStack()
        await first.enter_async_context(admission.slot("m", one))
        second = asyncio.create_task(_pass(admission, one))
        await settle()
        assert not second.done()
        await first.aclose()
        await asyncio.wait_for(second, 60)

    async def _pass(admission: Admission, who: Caller) -> None:
        async with admission.slot("another model", who):
            pass

    asyncio.run(main())


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    async def work(line: Line) -> None:
        await line.enter("running", ANN)
        await line.enter("waiting", ANN)
        with pytest.raises(RateLimited) as caught:
            async with line.admission.slot("m", BOB):
                pass
        assert caught.value.retry_after_s
        assert 1 <= caught.value.retry_after_s <= 60
        async with line.admission.slot("another model", BOB):
            pass

    run(work, limit=1)


def test_the_ticket_tells_position_and_wait() -> None:
    now_s = 0.0

    async def main() -> None:
        nonlocal now_s
        admission = Admission(capacity=lambda _: 1, queue_limit=9, now_s=lambda: now_s)
        stack = AsyncExitStack()
        first = await stack.enter_async_context(admission.slot("m", ANN))
        assert (first.position, first.waited_s) == (0, 0.0)
        queued = [asyncio.create_task(_ticket(admission)) for _ in range(2)]
        await settle()
        now_s = 3.0
        await stack.aclose()
        tickets = await asyncio.gather(*queued)
        assert [ticket[0] for ticket in tickets] == [0, 1]
        assert tickets[0][1] == 3.0

    async def _ticket(admission: Admission) -> tuple[int, float]:
        async with admission.slot("m", BOB) as ticket:
            return ticket.position, ticket.waited_s

    asyncio.run(main())


def test_requests_per_minute_are_refused_and_come_back_with_time() -> None:
    now_s = 100.0

    async def main() -> None:
        nonlocal now_s
        admission = Admission(capacity=lambda _: 9, queue_limit=9, now_s=lambda: now_s)
        slow = caller("slow", requests_per_minute=2)
        for _ in range(2):
            async with admission.slot("m", slow):
                pass
        with pytest.raises(RateLimited, match="2 requests a minute") as caught:
            async with admission.slot("m", slow):
                pass
        assert caught.value.retry_after_s == 30
        now_s += 30
        async with admission.slot("m", slow):
            pass

    asyncio.run(main())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=40))
def test_nothing_is_lost_doubled_or_out_of_priority(pushes: list[Push]) -> None:
    queue: FairQueue[int] = FairQueue()
    for number, (key, priority) in enumerate(pushes):
        queue.push(number, key, priority)
    left = list(range(len(pushes)))
    for number in left[::3]:
        assert queue.discard(number)
        assert not queue.discard(number)
    left = [number for number in left if number % 3]
    popped = [queue.pop() for _ in left]
    assert queue.pop() is None
    assert sorted(number for number in popped if number is not None) == left
    priorities = [pushes[number][1] for number in popped if number is not None]
    assert priorities == sorted(priorities)


@given(st.integers(1, 30), st.integers(1, 30))
def test_two_keys_share_evenly(many: int, few: int) -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(many):
        queue.push("a", "a", 0)
    for _ in range(few):
        queue.push("b", "b", 0)
    order = [queue.pop() for _ in range(2 * min(many, few))]
    assert order.count("a") == order.count("b")
