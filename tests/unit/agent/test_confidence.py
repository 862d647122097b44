"""How sure a model was, from what else it could have written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belvedere.agent.confidence import Calibration, point_confidence
from belvedere.errors import UsageError

Chances = dict[str, float]


def logprobs(*tokens: Chances) -> dict[str, Any]:
    """OpenAI's shape; the first of each token's chances is the one that was written."""
    return {
        "content": [
            {
                "token": next(iter(chances)),
                "logprob": math.log(next(iter(chances.values()))),
                "bytes": list(next(iter(chances)).encode()),
                "top_logprobs": [
                    {"token": name, "logprob": math.log(chance)} for name, chance in chances.items()
                ],
            }
            for chances in tokens
        ]
    }


def confidence(text: str, *tokens: Chances, numbers: tuple[str, ...]) -> float | None:
    spans, start = [], 0
    for number in numbers:
        start = text.index(number, start)
        spans.append((start, start + len(number)))
        start += len(number)
    return point_confidence(text, logprobs(*tokens), spans, [999] * len(spans))


def test_neighbours_count_as_the_same_place() -> None:
    """507 or 509 is the same button; 900 is not."""
    found = confidence(
        "[507]", {"[": 1.0}, {"507": 0.3, "509": 0.5, "900": 0.2}, {"]": 1.0}, numbers=("507",)
    )
    assert found == pytest.approx(0.8)


def test_both_numbers_must_be_right() -> None:
    tokens: list[Chances] = [{"[": 1.0}, {"5": 0.5, "900": 0.5}, {",": 1.0}, {"7": 0.25}, {"]": 1}]
    assert confidence("[5,7]", *tokens, numbers=("5", "7")) == pytest.approx(0.125)


def test_numbers_of_another_length_are_other_numbers() -> None:
    """One token a number: 98 stands beside 102, and 9 does not begin it."""
    found = confidence("102", {"102": 0.5, "98": 0.4, "9": 0.1}, numbers=("102",))
    assert found == pytest.approx(0.9)


def test_digit_by_digit() -> None:
    """500: the last digit is free within the tolerance, the one before it partly, the first not."""
    found = confidence(
        "500",
        {"5": 0.9, "4": 0.1},
        {"0": 0.8, "1": 0.1, "9": 0.1},
        {"0": 0.6, "7": 0.4},
        numbers=("500",),
    )
    tolerance = 0.015 * 999
    share_of_51x = (math.floor(500 + tolerance) - 510 + 1) / 10
    share_of_4xx = (499 - math.ceil(500 - tolerance) + 1) / 100
    expected = 0.9 * 0.8 * (0.6 + 0.4) + 0.9 * 0.1 * share_of_51x + 0.1 * share_of_4xx
    assert found == pytest.approx(expected)


def test_tokens_that_hold_more_than_the_number() -> None:
    assert confidence("at 42!", {"at": 1}, {" 42": 0.5}, {"!": 1}, numbers=("42",)) == 0.5


def test_letters_of_several_bytes_before_the_number() -> None:
    tokens: list[Chances] = [{"größer → ": 1.0}, {"42": 0.5, "43": 0.25}]
    assert confidence("größer → 42", *tokens, numbers=("42",)) == 0.75


def test_special_tokens_around_the_text_do_not_matter() -> None:
    found = confidence("42", {"<s>": 1}, {"42": 0.5}, {"<|im_end|>": 1}, numbers=("42",))
    assert found == 0.5


@pytest.mark.parametrize(
    "given_logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": [None]},
        {"content": [{"token": 5, "logprob": 0}]},
        {"content": [{"token": "42"}]},
        {"content": [{"token": "42", "logprob": "x"}]},
        {"content": [{"token": "42", "logprob": 0, "bytes": [999]}]},
        {"content": [{"token": "43", "logprob": 0}]},
    ],
)
def test_without_log_probabilities_of_this_text_there_is_none(given_logprobs: object) -> None:
    assert point_confidence("42", given_logprobs, [(0, 2)], [999]) is None


def test_without_numbers_there_is_none() -> None:
    assert point_confidence("42", logprobs({"42": 0.5}), [], []) is None


@given(
    st.lists(
        st.dictionaries(
            st.from_regex(r"\A[0-9]{1,3}\Z"), st.floats(0.01, 1), min_size=1, max_size=6
        ),
        min_size=1,
        max_size=4,
    )
)
def test_it_is_a_probability(raw: list[Chances]) -> None:
    tokens = [{name: p / sum(one.values()) for name, p in one.items()} for one in raw]
    text = "".join(next(iter(one)) for one in tokens)
    found = point_confidence(text, logprobs(*tokens), [(0, len(text))], [999])
    assert found is not None
    written = math.prod(next(iter(one.values())) for one in tokens)
    assert written - 1e-9 <= found <= 1


class TestCalibration:
    def test_pools_until_it_rises(self) -> None:
        fitted = Calibration.fit([0.1, 0.2, 0.3, 0.9], [False, True, False, True])
        assert fitted.knots == ((0.1, 0.0), (0.25, 0.5), (0.9, 1.0))
        assert fitted(0.0) == 0
        assert fitted(0.25) == 0.5
        assert fitted(0.575) == pytest.approx(0.75)
        assert fitted(1.0) == 1

    def test_the_mean_of_equal_confidences_may_be_rounded_up(self) -> None:
        fitted = Calibration.fit([0.1] * 4, [False, False, False, True])
        assert len(fitted.knots) == 1
        assert fitted(0.1) == 0.25

    @given(
        st.lists(st.tuples(st.floats(0, 1, allow_subnormal=False), st.booleans()), min_size=1),
        st.floats(0, 1),
        st.floats(0, 1),
    )
    def test_more_confidence_never_means_less(
        self, seen: list[tuple[float, bool]], one: float, other: float
    ) -> None:
        fitted = Calibration.fit([raw for raw, _ in seen], [hit for _, hit in seen])
        low, high = sorted((one, other))
        assert 0 <= fitted(low) <= fitted(high) + 1e-9 <= 1 + 2e-9

    @pytest.mark.parametrize(
        "knots", [(), ((0.5, 0.5), (0.4, 0.6)), ((0.1, 0.9), (0.2, 0.1)), ((0.1, 2.0),)]
    )
    def test_what_does_not_rise_is_refused(self, knots: tuple[tuple[float, float], ...]) -> None:
        with pytest.raises(UsageError):
            Calibration(knots)

    def test_nothing_to_fit(self) -> None:
        with pytest.raises(UsageError):
            Calibration.fit([], [])
