"""The hang verdict is a pure function of samples and times."""

from __future__ import annotations

import pytest

from belvedere.engines.base import HangPolicy, RestartPolicy
from belvedere.engines.keeper import restart_delay_s
from belvedere.engines.progress import (
    AttendedClock,
    Counters,
    HangDetector,
    Sample,
    counters_from_metrics,
    counters_from_stats,
)

POLICY = HangPolicy(timeout_s=100.0, suspect_timeout_s=5.0)
IDLE = Counters(0, 0, (10.0,))


def busy(tokens: float, running: int = 1, waiting: int = 0) -> Counters:
    return Counters(running, waiting, (tokens,))


def verdicts(*samples: tuple[float, Sample]) -> list[float | None]:
    detector = HangDetector(POLICY, 0.0)
    return [detector.judge(sample, now_s) for now_s, sample in samples]


def test_a_moving_counter_is_progress_however_slow() -> None:
    assert verdicts(*((at * 90.0, busy(at)) for at in range(1, 8))) == [None] * 7


def test_a_standing_counter_with_requests_is_a_hang_after_the_timeout() -> None:
    assert verdicts((1, busy(7)), (60, busy(8)), (159, busy(8)), (160, busy(8)))[2:] == [None, 100]


def test_requests_that_only_wait_count_as_well() -> None:
    waiting = busy(10, running=0, waiting=2)
    assert verdicts((1, IDLE), (2, waiting), (101, waiting)) == [None, None, 100]


def test_an_idle_engine_may_be_idle_for_ever() -> None:
    assert verdicts((1, IDLE), (10_000, IDLE), (20_000, IDLE)) == [None] * 3


def test_idleness_is_no_debt_of_the_next_request() -> None:
    assert verdicts((1, IDLE), (1000, IDLE), (1001, busy(10)), (1099, busy(10))) == [None] * 4


def test_silence_is_a_hang_even_without_requests() -> None:
    assert verdicts((1, IDLE), (100, "silent"), (101, "silent")) == [None, None, 100]


def test_an_answer_without_counters_proves_life() -> None:
    assert verdicts(*((at * 60.0, "uncounted") for at in range(5))) == [None] * 5


def attended(*times_s: float, suspect: bool = False) -> list[float | None]:
    """The verdicts on an engine that stands still, looked at at these times."""
    clock = AttendedClock(iter((0.0, *times_s)).__next__)
    detector = HangDetector(POLICY, 0.0)
    if suspect:
        detector.suspect(0.0)
    return [detector.judge(busy(7), clock.look(detector.longest_gap_s)) for _ in times_s]


def test_a_pause_of_the_one_who_looks_is_no_hang() -> None:
    """Both were stopped for an hour; after that the engine gets on, or does not."""
    assert attended(1.0, 31.0, 3631.0, 3640.0) == [None, None, None, 100.0]


def test_a_pause_convicts_no_suspect() -> None:
    assert attended(12.0, 14.0, suspect=True) == [None, 5.0]


def test_a_suspect_has_less_time_until_it_moves() -> None:
    detector = HangDetector(POLICY, 0.0)
    detector.judge(busy(1), 10.0)
    detector.suspect(11.0)
    # What moved before the suspicion does not clear it.
    assert detector.judge(busy(2), 12.0) is None
    assert detector.is_suspect
    assert detector.judge(busy(2), 15.9) is None
    assert detector.judge(busy(2), 16.0) == 5.0
    assert detector.judge(busy(3), 16.1) is None
    assert not detector.is_suspect


@pytest.mark.parametrize("sample", [IDLE, busy(1, running=0, waiting=1)])
def test_a_suspect_that_runs_nothing_is_cleared(sample: Counters) -> None:
    detector = HangDetector(POLICY, 0.0)
    detector.suspect(1.0)
    assert detector.judge(sample, 7.0) is None
    assert not detector.is_suspect


def test_a_suspect_that_does_not_answer_is_hung() -> None:
    detector = HangDetector(POLICY, 0.0)
    detector.suspect(1.0)
    assert detector.judge("silent", 5.9) is None
    assert detector.judge("silent", 6.0) == 5.0


def test_a_second_report_does_not_buy_time() -> None:
    detector = HangDetector(POLICY, 0.0)
    detector.suspect(1.0)
    detector.judge(busy(1), 2.0)
    detector.suspect(5.0)
    assert detector.judge(busy(1), 6.0) == 5.0


def test_counters_of_the_embedded_engine() -> None:
    body = b'{"running": 2, "waiting": 1, "prompt_tokens": 5, "generated_tokens": 6, "requests": 9}'
    assert counters_from_stats(body) == Counters(2, 1, (5.0, 6.0))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"running": "x"}', b"\xff", b"null"])
def test_no_counters_in_something_else(body: bytes) -> None:
    assert counters_from_stats(body) is None
    assert counters_from_metrics(body) is None


def test_counters_of_vllm_are_summed_over_its_engines() -> None:
    text = b"""# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b} c"} 3.0
vllm:num_requests_running{engine="1",model_name="a b} c"} 1.0
vllm:num_requests_waiting{engine="0"} 2.0
vllm:generation_tokens_total{engine="0"} 1.5e3
vllm:prompt_tokens_total{engine="0"} 20 1700000000
process_cpu_seconds_total 4.0
vllm:broken{
"""
    assert counters_from_metrics(text) == Counters(4, 2, (20.0, 1500.0))


def test_restart_waits_double_up_to_the_cap_with_jitter() -> None:
    policy = RestartPolicy(base_s=1.0, cap_s=8.0)
    assert [restart_delay_s(policy, crash, 1.0) for crash in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 8]
    assert restart_delay_s(policy, 3, 0.0) == 2.0
    assert restart_delay_s(policy, 10_000, 0.5) == 6.0
