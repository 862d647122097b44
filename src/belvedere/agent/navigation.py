"""From a task and its history to the next action: `NavigationAgent` and its asynchronous twin.

An agent decides; it does nothing to a screen. Whoever holds it takes a screenshot, asks `act`,
carries the action out if it may, and tells the agent what the user or a tool replied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from belvedere.agent.actions import Action
from belvedere.agent.asking import Abilities, Answer, Question, Seen, ask
from belvedere.agent.closing import AsyncClosing, Closing
from belvedere.agent.confidence import Calibration
from belvedere.agent.connection import AsyncConnection, Connection
from belvedere.agent.coordinates import Codec, View
from belvedere.agent.flow import Flow, run, run_async
from belvedere.agent.history import HistoryWindow, Turn, navigation_messages
from belvedere.agent.pictures import ImageInput, Picture, Screenshot
from belvedere.agent.protocols.data import NavigationRules, Protocol
from belvedere.agent.protocols.loader import ProtocolChoice
from belvedere.agent.protocols.reading import Reading, read_action
from belvedere.agent.protocols.writing import navigation_system, turn_text
from belvedere.errors import NotSupported, UsageError

__all__ = ["AsyncNavigationAgent", "NavigationAgent", "NavigationOptions", "Step"]


@dataclass(frozen=True, slots=True)
class NavigationOptions:
    """How a navigation agent asks.

    Attributes:
        protocol: a `Protocol`, its name or its TOML file; by the served model's name when ``None``.
        attempts: how often it asks until an answer is usable.
        window: which screenshots of the history it shows; as trained when ``None``.
        tools: MCP tools that the model may call: objects with ``name``, ``description`` and
            ``parameters``.
        ask_user: the model may ask the user, where the protocol knows that.
        apps: names of the device's apps; the trained ones when ``None``.
        confidence: ask for log-probabilities, and report a confidence of actions with a point.
        min_confidence: below it an answer is not used (0..1).
        calibration: of the confidence.
        max_pixels: area to which the client shrinks screenshots; the server decides when ``None``.
        max_tokens: of an answer; the protocol's when ``None``.
        strict_actions: let the engine write nothing but an action; a Belvedere server only, with
            an engine that has structured outputs.
    """

    protocol: Protocol | str | None = None
    attempts: int = 3
    window: HistoryWindow | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    ask_user: bool = False
    apps: Sequence[str] | None = None
    confidence: bool = True
    min_confidence: float | None = None
    calibration: Calibration | None = None
    max_pixels: int | None = None
    max_tokens: int | None = None
    strict_actions: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError(f"{self.attempts!r} attempts are none.", remedy="Allow at least one.")
        if any(not isinstance(tool.get("name"), str) for tool in self.tools):
            raise UsageError("A tool without a name cannot be called.")


@dataclass(frozen=True, slots=True)
class Step:
    """What the model wants to do next.

    Attributes:
        action: in pixels of the screenshot.
        thinking: its reasoning, when it gave one.
        answer: its whole text.
        screen_size: (width, height) of the screenshot in pixels.
        seen_size: what the model saw; ``None`` when the server does not say.
        confidence: of the action's points; ``None`` without points or log-probabilities.
        attempts: how often the model was asked.
        latency_ms: all attempts together, seen from here.
        prompt_tokens, cached_tokens: as the server counts them; ``None`` where it does not. Cached
            ones were in the engine's prefix cache.
    """

    action: Action
    thinking: str | None
    answer: str = field(repr=False)
    screen_size: tuple[int, int]
    seen_size: tuple[int, int] | None
    confidence: float | None
    attempts: int
    latency_ms: float
    prompt_tokens: int | None
    cached_tokens: int | None


class NavigationAgent(Closing):
    """Asks a model for the next action of a task.

    Args:
        url: of an OpenAI-compatible server, with or without ``/v1``.
        task: what is to be done, in words.
        api_key: bearer key, when the server wants one.
        model: name of the model; the server's only one when ``None``.
        timeout_s: for a whole answer.
        options: how it asks.

    Raises:
        UsageError: `url` is not a URL, or there is no task.
    """

    def __init__(
        self,
        url: str,
        task: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 120.0,
        options: NavigationOptions | None = None,
    ) -> None:
        self._navigation = _Navigation(task, options or NavigationOptions())
        self._connection = Connection(url, api_key=api_key, model=model, timeout_s=timeout_s)

    def close(self) -> None:
        self._connection.close()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The steps so far."""
        return self._navigation.turns

    def act(self, screenshot: ImageInput) -> Step:
        """The next action, which becomes part of the history; nothing is done to any screen.

        Raises:
            InputFileError, ImageError: the screenshot is not usable.
            ServerUnreachable, Unavailable, AuthenticationFailed, InvalidRequest: no answer.
            ActionError: no answer of the model was usable; the history is as it was.
        """
        return run(partial(self._navigation.flow, screenshot), self._connection)

    def tell(self, reply: str) -> None:
        """What the user answered to an `AskUser`, or a tool to a `ToolCall`.

        Raises:
            UsageError: there has been no step yet.
        """
        self._navigation.tell(reply)

    def reset(self, task: str) -> None:
        """Another task, without history."""
        self._navigation.reset(task)


class AsyncNavigationAgent(AsyncClosing):
    """`NavigationAgent` for an event loop, which it never blocks."""

    def __init__(
        self,
        url: str,
        task: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 120.0,
        options: NavigationOptions | None = None,
    ) -> None:
        self._navigation = _Navigation(task, options or NavigationOptions())
        self._connection = AsyncConnection(url, api_key=api_key, model=model, timeout_s=timeout_s)

    async def close(self) -> None:
        await self._connection.close()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The steps so far."""
        return self._navigation.turns

    async def act(self, screenshot: ImageInput) -> Step:
        """As `NavigationAgent.act`."""
        return await run_async(partial(self._navigation.flow, screenshot), self._connection)

    def tell(self, reply: str) -> None:
        """As `NavigationAgent.tell`."""
        self._navigation.tell(reply)

    def reset(self, task: str) -> None:
        """As `NavigationAgent.reset`."""
        self._navigation.reset(task)


class _Navigation:
    """A task, its history, and the flow of a step, the same for both agents."""

    def __init__(self, task: str, options: NavigationOptions) -> None:
        self._options = options
        self._abilities = Abilities()
        self._choice = ProtocolChoice(options.protocol)
        self._tools = frozenset(str(tool["name"]) for tool in options.tools)
        self.turns: tuple[Turn, ...] = ()
        self.reset(task)

    def reset(self, task: str) -> None:
        if not task.strip():
            raise UsageError("The task is empty.", remedy='Say what to do, e.g. "Log in".')
        self._task, self.turns = task, ()

    def tell(self, reply: str) -> None:
        if not self.turns:
            raise UsageError("Nothing was asked yet.", remedy="Call act first.")
        self.turns = (*self.turns[:-1], replace(self.turns[-1], reply=reply))

    def flow(self, image: ImageInput, model: str) -> Flow[Step]:
        screenshot = Screenshot(image)
        protocol = self._choice.of(model)
        if protocol.navigation is None:
            raise NotSupported(f"The protocol {protocol.name!r} has no navigation.")
        picture = screenshot.picture(protocol, self._options.max_pixels)
        question = self._question(protocol, protocol.navigation, screenshot, picture, model)
        answer = yield from ask(question, self._abilities)
        self._remember(protocol.navigation, answer, picture)
        return _step(answer)

    def _question(
        self,
        protocol: Protocol,
        rules: NavigationRules,
        screenshot: Screenshot,
        picture: Picture,
        model: str,
    ) -> Question:
        options = self._options
        system = navigation_system(
            protocol,
            View.whole(picture.sent_size or (1, 1), picture.sent_size),
            tools=options.tools,
            ask_user=options.ask_user,
            apps=options.apps,
        )
        window = options.window or HistoryWindow(rules.screenshots)
        messages = navigation_messages(rules, system, self._task, self.turns, picture.url, window)
        return Question(
            body={
                "model": model,
                "messages": messages,
                "max_tokens": options.max_tokens or rules.max_tokens,
                **({"strict_actions": "navigation"} if options.strict_actions else {}),
            },
            read=partial(_read, protocol, screenshot, picture, self._tools),
            attempts=options.attempts,
            logprobs=options.confidence,
            min_confidence=options.min_confidence,
            calibration=options.calibration,
        )

    def _remember(self, rules: NavigationRules, answer: Answer, picture: Picture) -> None:
        """The answer as the model was trained to see its own: its call in compact JSON."""
        reading = answer.reading
        text = turn_text(rules.turn, reading.call, reading.thinking, ascii_only=rules.ascii)
        window = self._options.window or HistoryWindow(rules.screenshots)
        turns = (*self.turns, Turn(picture.url, text))
        gone = window.first_shown(len(turns))
        self.turns = tuple(
            replace(turn, image_url=None) if index < gone else turn
            for index, turn in enumerate(turns)
        )


def _read(
    protocol: Protocol,
    screenshot: Screenshot,
    picture: Picture,
    tools: frozenset[str],
    text: str,
    seen: Seen,
) -> tuple[Reading, View, Codec]:
    codec = seen.codec or protocol.coordinates.codec
    view = screenshot.view(picture, seen)
    return read_action(protocol, text, view, codec=codec, tools=tools), view, codec


def _step(answer: Answer) -> Step:
    details = answer.usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Step(
        action=answer.reading.action,
        thinking=answer.reading.thinking,
        answer=answer.text,
        screen_size=answer.view.region.size,
        seen_size=answer.seen.seen_size,
        confidence=answer.confidence,
        attempts=answer.attempts,
        latency_ms=answer.latency_ms,
        prompt_tokens=_count(answer.usage.get("prompt_tokens")),
        cached_tokens=_count(cached),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
