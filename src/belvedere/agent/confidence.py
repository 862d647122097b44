"""How sure a model was of the point it wrote, from the log-probabilities of its digits.

The probability of the exact digits is of little use: a model that wavers between 507 and 509 is
sure. What counts is the mass of all numbers close enough to hit the same element, so alternatives
count as far as the numbers that they begin lie within the tolerance.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

from belvedere.errors import UsageError

__all__ = ["TOLERANCE", "TOP_LOGPROBS", "Calibration", "point_confidence"]

TOLERANCE = 0.015
"""Of the image's side: 15 of 999; half the height of a small button on a small screen."""

TOP_LOGPROBS = 20
"""What OpenAI and vLLM give at most."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A token of the answer: its text, its place in bytes, and what else it could have been."""

    text: str
    start: int
    end: int
    chances: Mapping[str, float]


def point_confidence(
    text: str, logprobs: object, spans: Sequence[tuple[int, int]], limits: Sequence[float]
) -> float | None:
    """The mass of all points near the one that was written, 0..1; an estimate from below.

    Args:
        text: the whole answer.
        logprobs: ``choices[0].logprobs`` of an OpenAI response with ``top_logprobs``.
        spans: where the numbers stand in `text`, in characters.
        limits: the largest value that each number can have.

    Returns:
        ``None`` where the engine gave no log-probabilities, or not of this text.
    """
    tokens = _tokens(text, logprobs)
    if tokens is None or not spans:
        return None
    mass = 1.0
    for (start, end), limit in zip(spans, limits, strict=True):
        begin = len(_encoded(text[:start]))
        number = text[start:end]
        covering = [one for one in tokens if one.end > begin and one.start < begin + len(number)]
        if not covering:
            return None
        mass *= _number_mass(number, begin, covering, TOLERANCE * limit)
    return min(mass, 1.0)


def _number_mass(number: str, begin: int, tokens: Sequence[_Token], tolerance: float) -> float:
    """The mass of numbers within `tolerance` of `number`, along the way that was written."""
    whole, _, _ = number.partition(".")
    if not whole.isdecimal():
        return math.prod(token.chances.get(token.text, 0.0) for token in tokens)
    window = int(whole) - tolerance, int(whole) + tolerance
    total, way, prefix = 0.0, 1.0, ""
    for token in tokens:
        written = _overlap(token, begin, len(whole))
        if not written:
            break
        for other, chance in token.chances.items():
            if other == token.text:
                continue
            digits = other.strip()
            low_high = _reach(prefix, digits, written, whole, alone=len(tokens) == 1)
            if low_high is not None:
                total += way * chance * _share(low_high, window)
        way *= token.chances.get(token.text, 0.0)
        prefix += written
    return total + way


def _overlap(token: _Token, begin: int, length: int) -> str:
    """The digits of the number that this token wrote."""
    skipped = max(0, begin - token.start)
    return token.text[skipped : skipped + max(0, begin + length - max(begin, token.start))]


def _reach(
    prefix: str, digits: str, written: str, whole: str, *, alone: bool
) -> tuple[int, int] | None:
    """The numbers that would begin with `prefix` and `digits`; as long as `whole`.

    A tokenizer with one token a number (`alone`) has numbers of other lengths beside it.
    """
    if not digits.isdecimal() or not digits.isascii():
        return None
    if alone and len(digits) != len(written):
        return int(digits), int(digits)
    rest = len(whole) - len(prefix) - len(digits)
    if len(digits) != len(written) or rest < 0:
        return None
    return int(prefix + digits + "0" * rest), int(prefix + digits + "9" * rest)


def _share(reach: tuple[int, int], window: tuple[float, float]) -> float:
    """The share of the whole numbers of `reach` that lie in `window`."""
    low, high = max(reach[0], math.ceil(window[0])), min(reach[1], math.floor(window[1]))
    return max(0, high - low + 1) / (reach[1] - reach[0] + 1)


def _tokens(text: str, logprobs: object) -> list[_Token] | None:
    entries = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(entries, list) or not entries:
        return None
    try:
        pieces = [_piece(entry) for entry in entries]
        chances = [dict(_chances(entry)) for entry in entries]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    offset = b"".join(pieces).find(_encoded(text))
    if offset < 0:
        return None
    ends = [end - offset for end in accumulate(map(len, pieces))]
    return [
        _Token(entry["token"], end - len(piece), end, chance)
        for entry, piece, end, chance in zip(entries, pieces, ends, chances, strict=True)
    ]


def _piece(entry: Mapping[str, Any]) -> bytes:
    data = entry.get("bytes")
    return bytes(data) if isinstance(data, list) else _encoded(entry["token"])


def _chances(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for other in [*(entry.get("top_logprobs") or []), entry]:
        yield str(other["token"]), math.exp(min(0.0, float(other["logprob"])))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a raw confidence to the share of clicks that hit, rising and piecewise linear.

    Attributes:
        knots: (raw, hit rate), both 0..1, both rising; fitted per model by `fit`.
    """

    knots: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        raws, rates = [knot[0] for knot in self.knots], [knot[1] for knot in self.knots]
        inside = all(0 <= value <= 1 for value in (*raws, *rates))
        if not self.knots or not inside or raws != sorted(raws) or rates != sorted(rates):
            raise UsageError("A calibration has rising knots in 0..1.")

    def __call__(self, raw: float) -> float:
        """The hit rate to expect at a raw confidence."""
        place = bisect_left([knot[0] for knot in self.knots], raw)
        if place == 0 or place == len(self.knots):
            return self.knots[min(place, len(self.knots) - 1)][1]
        (left, low), (right, high) = self.knots[place - 1], self.knots[place]
        return low + (high - low) * (raw - left) / (right - left)

    @classmethod
    def fit(cls, raws: Sequence[float], hits: Sequence[bool]) -> Self:
        """Isotonic regression (pool adjacent violators) of `hits` on `raws`.

        Raises:
            UsageError: there is nothing to fit.
        """
        if not raws or len(raws) != len(hits):
            raise UsageError("A calibration needs one outcome for each confidence, and some.")
        pools: list[tuple[float, float, int]] = []
        for raw, hit in sorted(zip(raws, hits, strict=True)):
            pools.append((raw, float(hit), 1))
            while len(pools) > 1 and _must_merge(pools[-2], pools[-1]):
                last, before = pools.pop(), pools.pop()
                pools.append(_merged(before, last))
        return cls(tuple((raw / count, hit / count) for raw, hit, count in pools))


def _must_merge(before: tuple[float, float, int], last: tuple[float, float, int]) -> bool:
    """Whether the later pool has no higher rate, or no higher raw confidence, as rounded."""
    no_higher = before[0] / before[2] >= last[0] / last[2]
    return no_higher or before[1] / before[2] >= last[1] / last[2]


def _merged(
    before: tuple[float, float, int], last: tuple[float, float, int]
) -> tuple[float, float, int]:
    return before[0] + last[0], before[1] + last[1], before[2] + last[2]
