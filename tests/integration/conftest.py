"""Servers that several modules share, with folders of this test run only."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.integration.serving import running_server
from tests.integration.stage import Stage


@pytest.fixture(scope="session")
def stage(own_folders: None) -> Iterator[Stage]:
    """A server for fake engines, with usual timeouts."""
    with running_server("--no-model", "--fleet", "stage") as server, Stage("stage", server) as one:
        yield one


@pytest.fixture(scope="session")
def hasty_stage(own_folders: None) -> Iterator[Stage]:
    """The same, but it gives up on an engine that says nothing for a moment."""
    moments = {
        "BELVEDERE_FIRST_TOKEN_TIMEOUT_S": "6",
        "BELVEDERE_INTER_TOKEN_TIMEOUT_S": "6",
        "BELVEDERE_REQUEST_TIMEOUT_S": "6",
    }
    with (
        running_server("--no-model", "--fleet", "hasty", env=moments) as server,
        Stage("hasty", server) as one,
    ):
        yield one


@pytest.fixture
def client(stage: Stage) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=stage.server.url, timeout=60) as client:
        yield client
