"""The server inside another program."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from belvedere.agent.connection import Connection
from belvedere.errors import AuthenticationFailed, ModelFolderError
from belvedere.gateway.embedded import EmbeddedServer
from belvedere.settings import Settings
from tests.integration.serving import BELVEDERE, clean_environment, wait_gone, wait_until

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


@pytest.mark.engine
def test_it_answers_with_its_key_only_and_leaves_nothing() -> None:
    before = psutil.Process().children(recursive=True)
    with EmbeddedServer(Settings()) as server:
        children = [one for one in psutil.Process().children(recursive=True) if one not in before]
        assert len(children) == 2, "a supervisor and an engine"
        with Connection(server.url, api_key=server.api_key, model=None, timeout_s=90) as connection:
            assert connection.complete(HELLO)["choices"]
        with (
            Connection(server.url, api_key=None, model=None, timeout_s=90) as stranger,
            pytest.raises(AuthenticationFailed),
        ):
            stranger.complete(HELLO)
    assert wait_gone(children) == []


def test_a_bad_model_is_raised_where_the_block_is_entered(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError), EmbeddedServer(Settings(model_path=str(tmp_path))):
        raise AssertionError("entered")


@pytest.mark.engine
@pytest.mark.parametrize("count", [1, 2], ids=["a supervisor", "and an engine"])
def test_ctrl_c_while_loading_leaves_nothing(count: int) -> None:
    process = subprocess.Popen(
        [*BELVEDERE, "generate", "--prompt", "Hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    generating = psutil.Process(process.pid)
    assert wait_until(lambda: len(generating.children(recursive=True)) >= count)
    children = generating.children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert wait_gone(children) == []
