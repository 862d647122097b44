"""Leases: who gets a request, and what becomes of replicas that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from belvedere.engines.base import Endpoint, EngineState
from belvedere.errors import InvalidRequest, ModelNotFound, RequestQuarantined, Unavailable
from belvedere.router.replica import Model, Replica
from belvedere.router.router import Router
from belvedere.router.work import Piece, Work

MODEL = Model("m", 0)


class Fleet:
    """Engines whose state is chosen, their router, and its clock."""

    def __init__(self, *names: str, model: Model = MODEL) -> None:
        self.now_s = 1_000.0
        self.states: dict[str, EngineState] = {}
        self.launches: dict[str, int] = {}
        self.router = Router(now_s=lambda: self.now_s)
        for name in names:
            self.add(name, model)

    def add(self, name: str, model: Model = MODEL) -> Replica:
        self.states[name] = "ready"
        self.launches[name] = 1
        replica = Replica(
            name,
            model,
            Endpoint("http://127.0.0.1:1"),
            lambda: self.states[name],
            lambda: self.launches[name],
        )
        self.router.add(replica)
        return replica

    def serve(self, work: Work | None = None, **options: object) -> str:
        """Who gets a request that is answered at once."""
        with self.router.lease(MODEL, work or Work(), **options) as lease:  # type: ignore[arg-type]  # exclude
            lease.finished()
        return lease.replica.name

    def all_served(self, count: int = 20) -> set[str]:
        """Who gets requests that are under way at the same time."""
        with ExitStack() as stack:
            work = Work(prompt_tokens=100)
            leases = [stack.enter_context(self.router.lease(MODEL, work)) for _ in range(count)]
        return {lease.replica.name for lease in leases}


def talk(name: str, tokens: int = 3_000) -> Work:
    return Work(prompt_tokens=tokens, output_tokens=20, prefix=(Piece(name.encode(), tokens),))


def test_requests_under_way_are_spread_evenly() -> None:
    fleet = Fleet("a", "b", "c")
    with ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(fleet.router.lease(MODEL, Work(prompt_tokens=100)))
        assert [replica.in_flight for replica in fleet.router.replicas] == [3, 3, 3]
        assert fleet.router.in_flight == 9
    assert fleet.router.in_flight == 0
    assert [replica.outstanding for replica in fleet.router.replicas] == [0.0, 0.0, 0.0]


def test_a_quiet_router_does_not_favour_the_first_replica() -> None:
    fleet = Fleet("a", "b", "c", "d")
    served = [fleet.serve(Work(prompt_tokens=10)) for _ in range(40)]
    assert {name: served.count(name) for name in "abcd"} == dict.fromkeys("abcd", 10)


def test_a_conversation_stays_and_is_counted() -> None:
    fleet = Fleet("a", "b", "c")
    first = fleet.serve(talk("x"))
    others = {fleet.serve(talk(f"other {number}")) for number in range(6)}
    assert others == {"a", "b", "c"}
    with fleet.router.lease(MODEL, talk("x")) as lease:
        assert lease.replica.name == first
        assert lease.hit_tokens == 3_000
    assert lease.replica.hit_tokens == 3_000
    assert sum(replica.leases for replica in fleet.router.replicas) == 8
    assert all(replica.assigned > 0 for replica in fleet.router.replicas)


def test_another_launch_has_an_empty_cache() -> None:
    fleet = Fleet("a", "b")
    first = fleet.serve(talk("x"))
    fleet.launches[first] += 1
    with fleet.router.lease(MODEL, talk("x")) as lease:
        assert lease.hit_tokens == 0


def test_a_small_cache_is_believed_to_be_small() -> None:
    fleet = Fleet("a")
    fleet.router.replicas[0].capacity_tokens = 5_000
    for name in "xyz":
        fleet.serve(talk(name))
    for name, hit_tokens in (("z", 3_000), ("x", 0)):
        with fleet.router.lease(MODEL, talk(name)) as lease:
            assert lease.hit_tokens == hit_tokens


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("starting", "still being loaded"),
        ("backoff", "being started again"),
        ("failed", "has no running engine"),
        ("stopped", "has no running engine"),
    ],
)
def test_without_a_ready_engine(state: EngineState, message: str) -> None:
    fleet = Fleet("a")
    fleet.states["a"] = state
    with pytest.raises(Unavailable, match=message) as raised:
        fleet.serve()
    assert raised.value.retry_after_s
    assert fleet.router.in_flight == 0


def test_only_ready_replicas_serve() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.states["a"] = "starting"
    fleet.states["b"] = "draining"
    assert fleet.all_served() == {"c"}


def test_a_retry_goes_elsewhere_or_fails() -> None:
    fleet = Fleet("a", "b")
    assert {fleet.serve(talk("x"), exclude={"a"}) for _ in range(5)} == {"b"}
    with pytest.raises(Unavailable):
        fleet.serve(exclude=("a", "b"))


def test_a_dead_replica_is_left_alone_until_it_is_another_launch() -> None:
    fleet = Fleet("a", "b")
    with fleet.router.lease(MODEL, exclude="b") as lease:
        lease.died()
    assert lease.replica.deaths == 1
    assert fleet.all_served() == {"b"}
    fleet.launches["a"] = 2
    assert fleet.all_served() == {"a", "b"}


def test_a_dead_replica_that_stays_ready_comes_back() -> None:
    fleet = Fleet("a")
    with fleet.router.lease(MODEL) as lease:
        lease.died()
    with pytest.raises(Unavailable, match="just lost its engine"):
        fleet.serve()
    fleet.now_s += 1.9
    with pytest.raises(Unavailable):
        fleet.serve()
    fleet.now_s += 0.2
    assert fleet.serve() == "a"


def test_news_of_an_old_launch_does_not_touch_the_new_one() -> None:
    fleet = Fleet("a")
    with fleet.router.lease(MODEL) as died, fleet.router.lease(MODEL) as late:
        fleet.launches["a"] = 2
        fleet.serve()
        died.died()
        late.timed_out()
    assert fleet.serve() == "a"
    fleet.add("b")
    assert fleet.all_served() == {"a", "b"}


def trust(fleet: Fleet) -> None:
    fleet.router.trust("a")


def relaunch(fleet: Fleet) -> None:
    fleet.launches["a"] += 1


def answer(fleet: Fleet) -> None:
    fleet.serve(exclude={"b"})


@pytest.mark.parametrize("remedy", [trust, relaunch, answer])
def test_a_suspect_serves_only_when_there_is_no_other(remedy: Callable[[Fleet], None]) -> None:
    fleet = Fleet("a", "b")
    with fleet.router.lease(MODEL, exclude={"b"}) as lease:
        lease.timed_out()
    assert lease.replica.timeouts == 1
    assert fleet.all_served() == {"b"}
    fleet.now_s += 3_600
    assert fleet.all_served() == {"b"}
    remedy(fleet)
    assert fleet.all_served() == {"a", "b"}


def test_a_lease_without_a_word_says_nothing_of_the_replica() -> None:
    fleet = Fleet("a")
    with pytest.raises(RuntimeError), fleet.router.lease(MODEL):
        raise RuntimeError
    assert fleet.serve() == "a"
    assert fleet.router.in_flight == 0


def test_a_request_that_ends_engines_gets_no_third() -> None:
    fleet = Fleet("a", "b", "c")
    bad = Work(fingerprint=b"bad")
    for _ in range(2):
        with fleet.router.lease(MODEL, bad) as lease:
            lease.died()
    with pytest.raises(RequestQuarantined):
        fleet.serve(bad)
    assert fleet.serve(Work(fingerprint=b"good")) == "c"
    fleet.now_s += 601
    assert fleet.serve(bad)


def test_a_request_that_succeeds_between_deaths_is_not_to_blame() -> None:
    fleet = Fleet("a", "b", "c")
    same = Work(fingerprint=b"same")
    for launch in range(2, 6):
        with fleet.router.lease(MODEL, same) as lease:
            lease.died()
        fleet.launches[lease.replica.name] = launch
        fleet.serve(same)


def test_the_length_of_answers_is_learned() -> None:
    fleet = Fleet("a")
    for _ in range(50):
        with fleet.router.lease(MODEL) as lease:
            lease.finished(12)
    assert fleet.router.output_lengths.expected_tokens("m") == 12


def test_draining_and_idle() -> None:
    fleet = Fleet("a", "b")

    async def scenario() -> None:
        router = fleet.router
        with router.lease(MODEL, exclude={"b"}):
            router.drain("a")
            assert fleet.all_served() == {"b"}
            assert not await router.idle("a", 0.01)
            assert await router.idle("b", 0.01)
            waiting = asyncio.create_task(router.idle("a", 60))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting
        assert await router.idle("unknown", 0)

    asyncio.run(scenario())
    fleet.router.drain("b")
    with pytest.raises(Unavailable, match="is being unloaded"):
        fleet.serve()


def test_a_removed_replica_ends_its_leases_in_peace() -> None:
    fleet = Fleet("a", "b")
    with fleet.router.lease(MODEL, exclude={"b"}) as lease:
        fleet.router.remove("a")
        fleet.router.remove("a")
        assert fleet.all_served() == {"b"}
        lease.finished(3)
    assert lease.replica.in_flight == 0
    assert [replica.name for replica in fleet.router.replicas] == ["b"]


def test_names_are_unique() -> None:
    fleet = Fleet("a")
    with pytest.raises(ValueError, match="'a'"):
        fleet.add("a")


def test_models_are_found_by_name_and_alias() -> None:
    fleet = Fleet("a", model=Model("big", 0))
    router = fleet.router
    assert router.model(None).name == "big"
    router.set_alias("latest", "big")
    fleet.add("b", Model("small", 0))
    assert router.model("latest").name == "big"
    router.set_alias("latest", "small")
    assert router.model("latest").name == "small"
    assert router.aliases == {"latest": "small"}
    assert [model.name for model in router.models] == ["big", "small"]
    with pytest.raises(InvalidRequest, match="name of a model"):
        router.set_alias("big", "small")
    with pytest.raises(ModelNotFound, match="'big', 'small', 'latest'"):
        router.model("nonsense")
    with pytest.raises(ModelNotFound, match="names no model"):
        router.model(None)
    router.remove("b")
    with pytest.raises(ModelNotFound, match=r"Served: 'big'\."):
        router.model("latest")
    router.remove_alias("latest")
    router.remove_alias("latest")
    assert router.aliases == {}


def test_a_model_serves_with_its_own_replicas() -> None:
    fleet = Fleet("a")
    other = Model("other", 0)
    fleet.add("b", other)
    assert fleet.all_served() == {"a"}
    with fleet.router.lease(other) as lease:
        assert lease.replica.name == "b"


def test_a_replacement_takes_over_without_a_gap() -> None:
    old, new = Model("m", 0, deployment="1"), Model("m", 1, deployment="2")
    fleet = Fleet("old", model=old)
    router = fleet.router

    async def scenario() -> None:
        fleet.add("new", new)
        assert fleet.all_served() == {"old"}
        assert router.models == (old,)
        with router.lease(old):
            router.promote(new)
            assert router.model("m") is new
            with router.lease(old) as lease:
                assert lease.replica.name == "new"
            router.retire(old)
            assert fleet.all_served() == {"new"}
            assert not await router.idle(old, 0.01)
            assert await router.idle(new, 0.01)
        assert await router.idle(old, 1)
        router.remove("old")
        assert fleet.all_served() == {"new"}

    asyncio.run(scenario())


def test_when_the_current_deployment_ends_another_of_the_name_serves() -> None:
    old, new = Model("m", 0, deployment="1"), Model("m", 1, deployment="2")
    fleet = Fleet("old", model=old)
    fleet.add("new", new)
    fleet.router.remove("old")
    assert fleet.all_served() == {"new"}
    fleet.router.promote(old)
    assert fleet.all_served() == {"new"}


def test_how_long_a_model_has_been_idle() -> None:
    fleet = Fleet("a", "b")
    fleet.now_s += 5
    assert fleet.router.idle_s(MODEL) == 5
    with fleet.router.lease(MODEL):
        fleet.now_s += 50
        assert fleet.router.idle_s(MODEL) == 0
    fleet.now_s += 7
    assert fleet.router.idle_s(MODEL) == 7
    with fleet.router.expecting(MODEL):
        assert fleet.router.idle_s(MODEL) == 0
    assert fleet.router.idle_s(MODEL) == 7
    fleet.router.touch(MODEL)
    assert fleet.router.idle_s(MODEL) == 0


def test_weeks_of_work_fade_without_overflow() -> None:
    fleet = Fleet("a", "b")
    for _ in range(3_000):
        fleet.now_s += 1_800
        fleet.serve(talk("x", 100_000))
    served = [fleet.serve(Work(prompt_tokens=10)) for _ in range(20)]
    assert len(set(served)) == 1, "the other one has just had much"
    fleet.now_s += 3_600
    served = [fleet.serve(Work(prompt_tokens=10)) for _ in range(20)]
    assert {name: served.count(name) for name in "ab"} == {"a": 10, "b": 10}


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_a_replica_has_a_speed(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        Replica("a", MODEL, Endpoint("http://127.0.0.1:1"), lambda: "ready", weight=weight)
