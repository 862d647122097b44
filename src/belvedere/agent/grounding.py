"""From an instruction to a point: `GroundingAgent` and its asynchronous twin."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from belvedere.agent.actions import Click, Point
from belvedere.agent.asking import Abilities, Answer, Question, Seen, ask, check_confidence
from belvedere.agent.closing import AsyncClosing, Closing
from belvedere.agent.confidence import Calibration
from belvedere.agent.connection import AsyncConnection, Connection
from belvedere.agent.coordinates import Codec, Region, View
from belvedere.agent.flow import Flow, Reply, run, run_async
from belvedere.agent.pictures import ImageInput, Picture, Screenshot
from belvedere.agent.protocols.data import Protocol
from belvedere.agent.protocols.loader import ProtocolChoice
from belvedere.agent.protocols.reading import Reading, read_grounding
from belvedere.agent.protocols.writing import grounding_messages
from belvedere.errors import ActionError, UsageError

__all__ = [
    "AsyncGroundingAgent",
    "Grounding",
    "GroundingAgent",
    "GroundingOptions",
    "Zoom",
    "check_instruction",
]


@dataclass(frozen=True, slots=True)
class Zoom:
    """A second look: the part of the screenshot around the first answer is asked about again.

    Attributes:
        share: of the screenshot's width and height that is looked at again, 0..1.
        enlarge: times its size at which the part is sent.
        below: only where the first answer's confidence is below this, or unknown; always when
            ``None``.
    """

    share: float = 0.5
    enlarge: float = 2.0
    below: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or not 0.1 <= self.enlarge <= 10:
            raise UsageError(
                f"A zoom looks at 0..1 of the screenshot, at 0.1 to 10 times its size, not at "
                f"{self.share!r} and {self.enlarge!r}."
            )


@dataclass(frozen=True, slots=True)
class GroundingOptions:
    """How a grounding agent asks.

    Attributes:
        protocol: a `Protocol`, its name or its TOML file; by the served model's name when ``None``.
        attempts: how often it asks until an answer is usable.
        confidence: ask for log-probabilities, and report a confidence.
        min_confidence: below it an answer is not used (0..1); where the confidence is unknown,
            every answer is.
        calibration: of the confidence, as `belvedere eval` fits it.
        zoom: a second look; off by default.
        max_pixels: area to which the client shrinks screenshots; the server decides when ``None``.
        max_tokens: of an answer; the protocol's when ``None``.
        strict_actions: let the engine write nothing but an action; a Belvedere server only, with
            an engine that has structured outputs.
    """

    protocol: Protocol | str | None = None
    attempts: int = 3
    confidence: bool = True
    min_confidence: float | None = None
    calibration: Calibration | None = None
    zoom: Zoom | None = None
    max_pixels: int | None = None
    max_tokens: int | None = None
    strict_actions: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError(f"{self.attempts!r} attempts are none.", remedy="Allow at least one.")


@dataclass(frozen=True, slots=True)
class Grounding:
    """An instruction found on a screenshot.

    Attributes:
        action: the click, in pixels of the screenshot.
        model_point: what the model said, in its own space (of the region, after a second look).
        screen_size: (width, height) of the screenshot in pixels.
        seen_size: what the model saw; ``None`` when the server does not say.
        thinking: the model's reasoning, when it gave one.
        answer: the model's whole text.
        latency_ms: from request to answer, seen from here, all attempts together.
        confidence: mass of the points near the answer, calibrated if there is a calibration;
            ``None`` where the engine gives no log-probabilities.
        attempts: how often the model was asked, second looks included.
        region: what was looked at again; ``None`` without a second look.
        protocol: name of the protocol.
    """

    action: Click
    model_point: tuple[float, float]
    screen_size: tuple[int, int]
    seen_size: tuple[int, int] | None
    thinking: str | None
    answer: str = field(repr=False)
    latency_ms: float
    confidence: float | None = None
    attempts: int = 1
    region: Region | None = None
    protocol: str = ""


class GroundingAgent(Closing):
    """Asks a model where to click.

    Args:
        url: of an OpenAI-compatible server, with or without ``/v1``.
        api_key: bearer key, when the server wants one.
        model: name of the model; the server's only one when ``None``.
        timeout_s: for a whole answer.
        options: how it asks.

    Raises:
        UsageError: `url` is not a URL.
    """

    _protocol: ClassVar[str | None] = None
    """Where the options name none; by the served model's name when ``None``."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 120.0,
        options: GroundingOptions | None = None,
    ) -> None:
        self._connection = Connection(url, api_key=api_key, model=model, timeout_s=timeout_s)
        self._ground = _Grounder(options or GroundingOptions(), self._protocol)

    def close(self) -> None:
        self._connection.close()

    def get_action(self, image: ImageInput, instruction: str) -> Click:
        """The click that carries out `instruction` on the screenshot.

        Args:
            image: path of an image file, or its bytes.
            instruction: e.g. ``"Click the login button"``.

        Raises:
            InputFileError, ImageError, UsageError: the input is not usable.
            ServerUnreachable, Unavailable, AuthenticationFailed, InvalidRequest: no answer.
            ActionError: no answer of the model was usable, or sure enough.
        """
        return self.ground(image, instruction).action

    def ground(self, image: ImageInput, instruction: str) -> Grounding:
        """Like `get_action`, with everything that is known about the answer."""
        check_instruction(instruction)
        screenshot = Screenshot(image)
        return run(self._ground.flow(screenshot, instruction), self._connection)


class AsyncGroundingAgent(AsyncClosing):
    """`GroundingAgent` for an event loop, which it never blocks."""

    _protocol: ClassVar[str | None] = None

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 120.0,
        options: GroundingOptions | None = None,
    ) -> None:
        self._connection = AsyncConnection(url, api_key=api_key, model=model, timeout_s=timeout_s)
        self._ground = _Grounder(options or GroundingOptions(), self._protocol)

    async def close(self) -> None:
        await self._connection.close()

    async def get_action(self, image: ImageInput, instruction: str) -> Click:
        """As `GroundingAgent.get_action`."""
        return (await self.ground(image, instruction)).action

    async def ground(self, image: ImageInput, instruction: str) -> Grounding:
        """As `GroundingAgent.ground`."""
        check_instruction(instruction)
        return await run_async(self._ground.flow(image, instruction), self._connection)


def check_instruction(instruction: str) -> None:
    """Raises `UsageError` when there is nothing to look for."""
    if not instruction.strip():
        raise UsageError(
            "The instruction is empty.", remedy='Say what to click, e.g. "Click Login".'
        )


class _Grounder:
    """The flow of a grounding, the same for both agents."""

    def __init__(self, options: GroundingOptions, protocol: str | None) -> None:
        self._options = options
        self._abilities = Abilities()
        self._choice = ProtocolChoice(protocol if options.protocol is None else options.protocol)

    def flow(
        self, image: ImageInput | Screenshot, instruction: str
    ) -> Callable[[str], Flow[Grounding]]:
        """Makes the flow for a model of the name that it is called with."""
        return partial(self._flow, image, instruction)

    def _flow(
        self, image: ImageInput | Screenshot, instruction: str, model: str
    ) -> Flow[Grounding]:
        screenshot = image if isinstance(image, Screenshot) else Screenshot(image)
        protocol = self._choice.of(model)
        body = {"model": model}
        zoom = self._options.zoom
        picture = screenshot.picture(protocol, self._options.max_pixels)
        question = self._question(
            protocol, screenshot, picture, None, instruction, body, unsure=zoom is not None
        )
        first = yield from ask(question, self._abilities)
        found = _grounding(first, first.view.region.size, protocol)
        if zoom is None or not _is_wanted(zoom, found.confidence):
            check_confidence(found.action, found.confidence, self._options.min_confidence)
            return found
        return (yield from self._second_look(zoom, protocol, screenshot, instruction, body, found))

    def _second_look(
        self,
        zoom: Zoom,
        protocol: Protocol,
        screenshot: Screenshot,
        instruction: str,
        body: dict[str, Any],
        first: Grounding,
    ) -> Generator[bytes, Reply, Grounding]:
        """What the model says of the part around its first answer; that one if it says nothing."""
        width, height = (max(1, round(side * zoom.share)) for side in screenshot.size)
        place = Point(first.action.x, first.action.y)
        region = Region.around(place, (width, height), screenshot.size)
        picture = screenshot.cropped(region, protocol.image, enlarge=zoom.enlarge)
        question = self._question(
            protocol, screenshot, picture, region, instruction, body, unsure=False
        )
        try:
            second = yield from ask(replace(question, attempts=1), self._abilities)
        except ActionError:
            check_confidence(first.action, first.confidence, self._options.min_confidence)
            return replace(first, attempts=first.attempts + 1)
        found = _grounding(second, first.screen_size, protocol)
        return replace(
            found,
            latency_ms=first.latency_ms + found.latency_ms,
            attempts=first.attempts + found.attempts,
            region=region,
        )

    def _question(
        self,
        protocol: Protocol,
        screenshot: Screenshot,
        picture: Picture,
        region: Region | None,
        instruction: str,
        body: dict[str, Any],
        *,
        unsure: bool,
    ) -> Question:
        """`unsure`: a low confidence is no reason to refuse, for a second look follows."""
        sized = View.whole(picture.sent_size or (1, 1), picture.sent_size)
        options, rules = self._options, protocol.grounding
        messages = grounding_messages(protocol, instruction, picture.url, sized)
        assert rules is not None, "grounding_messages refuses a protocol without grounding"
        return Question(
            body={
                **body,
                "messages": messages,
                "max_tokens": options.max_tokens or rules.max_tokens,
                **({"strict_actions": "grounding"} if options.strict_actions else {}),
            },
            read=partial(_read, protocol, screenshot, picture, region),
            attempts=options.attempts,
            logprobs=options.confidence,
            min_confidence=None if unsure else options.min_confidence,
            calibration=options.calibration,
        )


def _read(
    protocol: Protocol,
    screenshot: Screenshot,
    picture: Picture,
    region: Region | None,
    text: str,
    seen: Seen,
) -> tuple[Reading, View, Codec]:
    codec = seen.codec or protocol.coordinates.codec
    view = screenshot.view(picture, seen, region)
    return read_grounding(protocol, text, view, codec=codec), view, codec


def _grounding(answer: Answer, screen_size: tuple[int, int], protocol: Protocol) -> Grounding:
    action = answer.reading.action
    assert isinstance(action, Click), "read_grounding refuses everything else"
    return Grounding(
        action=action,
        model_point=answer.reading.points[0],
        screen_size=screen_size,
        seen_size=answer.seen.seen_size,
        thinking=answer.reading.thinking,
        answer=answer.text,
        latency_ms=answer.latency_ms,
        confidence=answer.confidence,
        attempts=answer.attempts,
        protocol=protocol.name,
    )


def _is_wanted(zoom: Zoom, confidence: float | None) -> bool:
    return zoom.below is None or confidence is None or confidence < zoom.below
