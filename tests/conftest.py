"""What all tests share: how random examples are drawn, and a real ``belvedere serve``."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from belvedere.engines.cpu_instructions import instruction_limits
from tests.integration.serving import RunningServer, private_state, running_server

# The time an example takes is the machine's, not the code's: a busy one must fail no test. The same
# examples each time, but for ``make soak``, which looks for new ones.
settings.register_profile(
    "belvedere",
    deadline=None,
    derandomize="SOAK_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("belvedere")

# For what the tests compute in this process; `clean_environment` keeps it from their servers.
os.environ.update(instruction_limits())

# A shell ignores SIGINT for what it runs in the background, and children inherit that: the tests
# of Ctrl-C would send it to the deaf.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers a file stays on one, and so do all that share the real vLLM."""
    from xdist.scheduler import LoadScopeScheduling

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/vllm" if file.startswith("tests/vllm/") else file

    return WholeFiles(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The real vLLM's tests come first: its starts take minutes."""
    items.sort(key=_is_on_vllm, reverse=True)


def _is_on_vllm(item: pytest.Item) -> bool:
    return item.path.parent.name == "vllm"


@pytest.fixture(scope="session", autouse=True)
def own_folders() -> Iterator[None]:
    """Servers inside the test process leave nothing in the user's folders either."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in private_state().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """The shipped model, for the tests that only ask it things."""
    with running_server() as running:
        yield running
