"""The queue is bounded, turns are fair, one failure stays alone, and a cancelled one leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from belvedere.engines.local.prompt import Prompt
from belvedere.engines.local.runner import DecodeState, Interrupted
from belvedere.engines.local.sampler import SamplingParams
from belvedere.engines.local.scheduler import Scheduler, Worker
from belvedere.engines.local.sequence import Cancelled, Delta, Event, Failed, Finished, Sequence
from belvedere.errors import RateLimited, Unavailable

EOS = 2


class Letters:
    """A tokenizer whose ids are code points."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


class Script:
    """A runner that answers with the letters of the prompt, one a step; "!" fails."""

    def __init__(self) -> None:
        self.last_progress_s = 0.0
        self.layers_entered = 0
        self.log: list[str] = []

    def prefill(self, prompt: Prompt, unwanted: Callable[[], bool]) -> tuple[DecodeState, Tensor]:
        state = DecodeState(prompt.inputs["input_ids"], {"left": iter(prompt.ids.tolist())})
        return state, self._next(state, unwanted)

    def decode(self, state: DecodeState, token: int, unwanted: Callable[[], bool]) -> Tensor:
        state.ids = torch.cat([state.ids, torch.tensor([[token]])], dim=-1)
        return self._next(state, unwanted)

    def _next(self, state: DecodeState, unwanted: Callable[[], bool]) -> Tensor:
        if unwanted():
            raise Interrupted
        letter = next(state.arguments["left"], EOS)
        self.log.append(chr(letter))
        if letter == ord("!"):
            raise RuntimeError("scripted")
        return torch.nn.functional.one_hot(torch.tensor(letter), 128).float()


class Client:
    """Submits a text and keeps its events."""

    def __init__(self, scheduler: Scheduler, text: str, **params: Any) -> None:
        self.events: list[Event] = []
        self.done = threading.Event()
        ids = torch.tensor([[ord(letter) for letter in text]])
        settings = SamplingParams(temperature=0.0, **{"max_tokens": 50} | params)
        self.sequence = Sequence(
            Prompt({"input_ids": ids}), settings, Letters(), frozenset({EOS}), self._keep
        )
        with scheduler.reserve(1) as places:
            places.submit([self.sequence])

    def _keep(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Delta):
            self.done.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def end(self) -> Event:
        return self.events[-1]


def make(seats: int = 1, limit: int = 4, gather_s: float = 0.0) -> tuple[Scheduler, Script]:
    script = Script()
    return Scheduler(script, seats, limit, gather_s), script  # type: ignore[arg-type]


def drain(scheduler: Scheduler) -> None:
    while scheduler.stats().running or scheduler.stats().waiting:
        scheduler.step()


def test_first_in_first_out_with_one_seat() -> None:
    scheduler, script = make()
    clients = [Client(scheduler, text) for text in ("ab", "cd")]
    drain(scheduler)
    assert "".join(script.log) == "ab\x02cd\x02"
    assert [client.text for client in clients] == ["ab", "cd"]
    assert clients[0].end == Finished("stop", 3)


def test_seats_take_turns() -> None:
    scheduler, script = make(seats=2)
    for text in ("ab", "cd", "ef"):
        Client(scheduler, text)
    drain(scheduler)
    assert "".join(script.log) == "acbd\x02\x02ef\x02"


def test_an_idle_engine_gathers_until_its_seats_are_taken() -> None:
    scheduler, script = make(seats=2, gather_s=3600)
    worker = Worker(scheduler)
    worker.start()
    first = Client(scheduler, "ab")
    assert not first.done.wait(0.2)
    second = Client(scheduler, "cd")
    assert first.done.wait(60)
    assert second.done.wait(60)
    assert "".join(script.log) == "acbd\x02\x02"
    assert worker.stop(60)


@pytest.mark.parametrize(("seats", "gather_s"), [(1, 3600), (2, 0.05)])
def test_gathering_ends_with_its_time_and_one_seat_gathers_nothing(
    seats: int, gather_s: float
) -> None:
    scheduler, _ = make(seats=seats, gather_s=gather_s)
    worker = Worker(scheduler)
    worker.start()
    client = Client(scheduler, "ab")
    assert client.done.wait(60)
    assert worker.stop(60)


def test_an_engine_that_gathers_stops_at_once() -> None:
    scheduler, _ = make(seats=2, gather_s=3600)
    worker = Worker(scheduler)
    worker.start()
    client = Client(scheduler, "ab")
    assert worker.stop(60)
    assert client.end == Cancelled()


def test_a_full_queue_refuses_with_a_time_to_wait() -> None:
    scheduler, _ = make(limit=2)
    with scheduler.reserve(1):
        Client(scheduler, "a")
        with pytest.raises(RateLimited) as caught:
            Client(scheduler, "b")
    assert caught.value.retry_after_s == 1
    Client(scheduler, "b")
    assert scheduler.stats().waiting == 2


def test_an_unused_reservation_is_given_back() -> None:
    scheduler, _ = make()
    with pytest.raises(KeyError), scheduler.reserve(3):
        assert scheduler.stats().waiting == 3
        raise KeyError
    assert scheduler.stats().waiting == 0


def test_a_failure_stays_alone() -> None:
    scheduler, _ = make(seats=2)
    bad, good = Client(scheduler, "a!"), Client(scheduler, "bcd")
    drain(scheduler)
    assert isinstance(bad.end, Failed)
    assert good.text == "bcd"
    assert scheduler.stats().running == 0


def test_cancelling_waiting_and_running() -> None:
    scheduler, script = make()
    running, waiting = Client(scheduler, "abc"), Client(scheduler, "def")
    scheduler.step()
    scheduler.cancel([waiting.sequence, running.sequence])
    scheduler.cancel([waiting.sequence])
    assert waiting.events == [Cancelled()]
    scheduler.step()
    assert running.events == [Delta("a"), Cancelled()]
    assert script.log == ["a"]
    assert (scheduler.stats().running, scheduler.stats().waiting) == (0, 0)


def test_closing_cancels_and_refuses() -> None:
    scheduler, _ = make()
    client = Client(scheduler, "abc")
    scheduler.close()
    assert client.events == [Cancelled()]
    with pytest.raises(Unavailable):
        Client(scheduler, "x")
    assert not scheduler.wait_for_work()


def test_counters() -> None:
    scheduler, _ = make()
    Client(scheduler, "ab")
    drain(scheduler)
    stats = scheduler.stats()
    assert (stats.requests, stats.prompt_tokens, stats.generated_tokens) == (1, 2, 3)


def test_a_worker_works_and_stops() -> None:
    scheduler, _ = make()
    worker = Worker(scheduler)
    worker.start()
    client = Client(scheduler, "abc")
    assert client.done.wait(60)
    assert worker.stop(60)
    assert client.text == "abc"
    assert not worker.is_alive


@pytest.mark.parametrize(
    ("text", "params", "shown", "end"),
    [
        ("abcdef", {"max_tokens": 3}, "abc", Finished("length", 3)),
        ("abcdef", {"stop": ("cd",)}, "ab", Finished("stop", 4, "cd")),
        ("abc", {"stop": ("cz",)}, "abc", Finished("stop", 4)),
        ("abcd", {"stop": ("cd",), "max_tokens": 3}, "abc", Finished("length", 3)),
        ("abc", {"stop_token_ids": frozenset({98})}, "a", Finished("stop", 2, 98)),
        ("aXbX", {"stop": ("X",), "min_tokens": 3}, "aXb", Finished("stop", 4, "X")),
        ("a\x02b", {"ignore_eos": True, "max_tokens": 3}, "a\x02b", Finished("length", 3)),
    ],
)
def test_how_a_sequence_ends(text: str, params: dict[str, Any], shown: str, end: Finished) -> None:
    scheduler, _ = make()
    client = Client(scheduler, text, **params)
    drain(scheduler)
    assert (client.text, client.end) == (shown, end)


def test_min_tokens_hides_the_end() -> None:
    """The most likely token is the end, so the next best id is taken until the minimum."""
    scheduler, _ = make()
    client = Client(scheduler, "", min_tokens=2)
    drain(scheduler)
    assert client.end == Finished("stop", 3)


def test_logprobs_are_the_models_own() -> None:
    scheduler, _ = make()
    client = Client(scheduler, "a", logprobs=2)
    drain(scheduler)
    first = client.events[0]
    assert isinstance(first, Delta)
    assert first.logprob is not None
    assert first.logprob.token_id == ord("a")
    expected = torch.log_softmax(torch.tensor([1.0] + [0.0] * 127), dim=-1)
    assert first.logprob.logprob == pytest.approx(float(expected[0]))
    assert first.logprob.top[0][0] == ord("a")
    assert len(first.logprob.top) == 2
