"""Fleets that are found again, shared, and survive their gateways; and what they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from engine_scripts import KEY, alive, fake_spec, gone_within, script_spec

from belvedere.engines.attachment import Attachment
from belvedere.engines.base import EngineSpec, EngineStatus, SleepPolicy
from belvedere.engines.fleet import Fleet
from belvedere.engines.keeper import Keeper
from belvedere.engines.protocol import PROTOCOL_VERSION, SOCKET_NAME
from belvedere.engines.rundir import named_directory
from belvedere.errors import EngineFailed, EngineStartFailed, SettingsError

FOREVER = "import time\nprint('@phase ready', flush=True)\ntime.sleep(600)\n"
WITH_CHILD = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "open(sys.argv[1], 'w').write(str(child.pid))\n" + FOREVER
)
GATEWAY = """
import asyncio, os, signal, sys
from belvedere.engines.base import EngineSpec
from belvedere.engines.fleet import Fleet
import json
async def main():
    async with Fleet.open(name="f", linger_s=60) as fleet:
        spec = EngineSpec.from_wire(json.loads(sys.argv[1]))
        await fleet.start(spec)
        status = await fleet.wait_ready(spec.name)
        print(status.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short run-time folder: Unix sockets have short paths."""
    with tempfile.TemporaryDirectory(prefix="bv-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 180)

    asyncio.run(bounded())


def killed_gateway(spec: EngineSpec) -> int:
    """A gateway that started `spec` in the fleet ``f`` and was killed; the engine's process."""
    command = [sys.executable, "-c", GATEWAY, json.dumps(spec.to_wire())]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=180, check=False)
    assert done.returncode == -signal.SIGKILL
    return int(done.stdout)


def supervisor_of(pid: int | None) -> int:
    return psutil.Process(pid).ppid()


@contextlib.asynccontextmanager
async def conversation(directory: Path) -> AsyncIterator[Callable[[bytes], Any]]:
    """Raw bytes to the supervisor; each call returns the next reply."""
    reader, writer = await asyncio.open_unix_connection(str(directory / SOCKET_NAME))

    async def say(data: bytes) -> dict[str, Any]:
        writer.write(data)
        await writer.drain()
        while True:
            message = json.loads(await reader.readline())
            if "reply" in message:
                return dict(message)

    yield say
    writer.close()


def test_a_second_gateway_finds_the_engines_of_one_that_was_killed(runtime: Path) -> None:
    directory = named_directory("f")
    spec = fake_spec(directory, "--tokens", "3", labels={"model": "m"})
    pid = killed_gateway(spec)

    async def successor() -> None:
        async with Fleet.open(name="f", linger_s=60) as fleet:
            assert fleet.attached
            assert fleet.directory == directory
            assert fleet.specs == {"e": spec}
            status = await fleet.wait_ready("e")
            assert (status.pid, status.launch) == (pid, 1)
            endpoint = fleet.specs["e"].endpoint
            assert endpoint.uds is not None
            transport = httpx2.AsyncHTTPTransport(uds=endpoint.uds)
            headers = {"authorization": f"Bearer {endpoint.api_key}"}
            async with httpx2.AsyncClient(transport=transport, headers=headers) as http:
                body = {"messages": [{"role": "user", "content": "Hello"}]}
                answer = await http.post("http://engine/v1/chat/completions", json=body)
            assert answer.json()["usage"]["completion_tokens"] == 3

    run(successor())
    assert gone_within([pid], 30)
    assert not directory.exists()


def test_the_engines_end_when_nobody_comes_back(runtime: Path) -> None:
    spec = script_spec(FOREVER)
    code = GATEWAY.replace("linger_s=60", "linger_s=0.3")
    command = [sys.executable, "-c", code, json.dumps(spec.to_wire())]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=180, check=False)
    assert gone_within([int(done.stdout)], 30)


def test_two_gateways_share_a_fleet_and_the_last_one_ends_it() -> None:
    async def work() -> None:
        heard: list[EngineStatus | None] = []
        async with Fleet.open(name="f") as first:
            async with Fleet.open(name="f") as second:
                assert (first.attached, second.attached) == (False, True)
                stop_hearing = first.subscribe(lambda: heard.append(first.statuses.get("e")))
                await second.start(script_spec(FOREVER))
                with pytest.raises(EngineFailed, match="already"):
                    await first.start(script_spec(FOREVER))
                status = await first.wait_ready("e")
                assert await second.wait_ready("e") == status
                assert first.specs == second.specs
            assert alive(status.pid)
            assert not first.lost.is_set()
            await first.stop("e")
            assert await first.wait_stopped("e", 60)
            await first.forget("e")
            assert first.statuses == first.specs == {}
            stop_hearing()
            states = {one.state if one else "forgotten" for one in heard}
            assert {"ready", "stopped", "forgotten"} <= states

    run(work())
    assert not named_directory("f").exists()


def test_opening_at_the_same_time_makes_one_supervisor() -> None:
    pids: set[int] = set()

    async def one(index: int) -> None:
        async with Fleet.open(name="f") as fleet:
            await fleet.start(script_spec(FOREVER, f"e{index}"))
            status = await fleet.wait_ready(f"e{index}")
            pids.add(supervisor_of(status.pid))
            await together.wait()

    together = asyncio.Barrier(4)

    async def work() -> None:
        await asyncio.gather(*(one(index) for index in range(4)))

    run(work())
    assert len(pids) == 1


def test_one_after_the_other_never_meets_the_leftovers_of_the_one_before() -> None:
    async def work() -> None:
        for _ in range(4):
            async with Fleet.open(name="f") as fleet:
                assert not fleet.attached
                assert fleet.statuses == {}

    run(work())


def test_what_a_killed_supervisor_left_is_cleared_away(runtime: Path) -> None:
    """Also the child of an engine, which no parent-death signal reaches."""
    noted = runtime / "child"
    spec = script_spec(WITH_CHILD)
    spec = EngineSpec(spec.name, (*spec.argv, str(noted)), spec.endpoint)
    pid = killed_gateway(spec)
    child = int(noted.read_text())
    os.kill(supervisor_of(pid), signal.SIGKILL)
    assert gone_within([pid], 30)
    assert (named_directory("f") / SOCKET_NAME).exists()

    async def successor() -> None:
        async with Fleet.open(name="f") as fleet:
            assert not fleet.attached
            assert fleet.statuses == {}
            assert not alive(child)
            await fleet.start(script_spec(FOREVER))
            await fleet.wait_ready("e")

    run(successor())


def test_a_killed_supervisor_leaves_no_child_of_an_engine_behind(runtime: Path) -> None:
    noted = runtime / "child"
    spec = script_spec(WITH_CHILD)
    spec = EngineSpec(spec.name, (*spec.argv, str(noted)), spec.endpoint)

    async def work() -> None:
        async with Fleet.open(name="f") as fleet:
            await fleet.start(spec)
            status = await fleet.wait_ready("e")
            os.kill(supervisor_of(status.pid), signal.SIGKILL)
            await asyncio.wait_for(fleet.lost.wait(), 60)
            with pytest.raises(EngineFailed, match="supervisor"):
                await fleet.stop("e")

    run(work())
    assert gone_within([int(noted.read_text())], 30)


def test_a_gateway_that_lost_its_supervisor_leaves_the_next_one_alone() -> None:
    async def work() -> None:
        async with Fleet.open(name="f") as first:
            await first.start(script_spec(FOREVER))
            status = await first.wait_ready("e")
            os.kill(supervisor_of(status.pid), signal.SIGTERM)
            await asyncio.wait_for(first.lost.wait(), 60)
            second_stack = contextlib.AsyncExitStack()
            second = await second_stack.enter_async_context(Fleet.open(name="f"))
            assert not second.attached
            await second.start(script_spec(FOREVER))
            pid = (await second.wait_ready("e")).pid
        assert alive(pid)
        assert not second.lost.is_set()
        await second_stack.aclose()

    run(work())


def test_a_stopped_supervisor_is_killed_at_the_end() -> None:
    """Nothing stays behind even if it does not answer a goodbye."""
    pids: list[int | None] = []

    async def work() -> None:
        async with Fleet.open(name="f", stop_timeout_s=1.0) as fleet:
            await fleet.start(script_spec(FOREVER))
            pids.append((await fleet.wait_ready("e")).pid)
            pids.append(supervisor_of(pids[0]))
            assert pids[1] is not None
            os.kill(pids[1], signal.SIGSTOP)

    run(work())
    assert gone_within(pids, 30)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_supervisor_and_its_engines(signum: signal.Signals) -> None:
    async def work() -> None:
        async with Fleet.open(name="f") as fleet:
            await fleet.start(script_spec(FOREVER))
            status = await fleet.wait_ready("e")
            os.kill(supervisor_of(status.pid), signum)
            await asyncio.wait_for(fleet.lost.wait(), 60)
            assert gone_within([status.pid], 30)

    run(work())


def test_a_second_signal_does_not_wait_for_the_grace() -> None:
    code = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER

    async def work() -> None:
        async with Fleet.open(name="f") as fleet:
            await fleet.start(script_spec(code, stop_grace_s=600.0))
            status = await fleet.wait_ready("e")
            supervisor = supervisor_of(status.pid)
            os.kill(supervisor, signal.SIGTERM)
            while fleet.statuses["e"].state != "stopping":
                await asyncio.sleep(0.02)
            os.kill(supervisor, signal.SIGTERM)
            await asyncio.wait_for(fleet.lost.wait(), 60)

    run(work())


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        b"x" * 5_000_000 + b"\n",
        b'{"id": 1, "op": "nonsense"}\n',
        b'{"id": 1, "op": "start"}\n',
        b'{"id": 1, "op": "start", "spec": {}}\n',
        b'{"id": 1, "op": "start", "spec": {"name": "../x", "argv": ["x"], "endpoint": {}}}\n',
        b'{"id": 1, "op": "stop", "name": "nobody"}\n',
        b'{"id": 1, "op": "stop", "name": ["e"]}\n',
        b'{"id": 1, "op": "forget", "name": "e"}\n',
        b'{"id": [1], "op": "linger", "seconds": "x"}\n',
    ],
    ids=lambda message: str(message[:40]),
)
def test_a_message_that_is_not_valid_gets_an_error(message: bytes) -> None:
    async def work() -> None:
        async with Fleet.open(name="f") as fleet:
            await fleet.start(script_spec(FOREVER))
            await fleet.wait_ready("e")
            async with conversation(fleet.directory) as say:
                reply = await say(message)
                assert reply["error"]["message"]
            await fleet.check("e")
            assert not fleet.lost.is_set()

    run(work())


def test_a_gateway_that_does_not_read_costs_a_bounded_buffer(tmp_path: Path) -> None:
    """200,000 changes that nobody reads."""

    async def work() -> None:
        deaf, ours = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        with deaf:
            specs = [script_spec(FOREVER, f"e{index}") for index in range(200)]
            keepers = {one.name: Keeper(one, print, directory=tmp_path) for one in specs}
            attachment = Attachment(writer, keepers)
            attachment.greet({"version": PROTOCOL_VERSION})
            for _ in range(1000):
                for name in keepers:
                    attachment.note(name)
                await asyncio.sleep(0)
            assert writer.transport.get_write_buffer_size() < 2_000_000
            attachment.close()

    run(work())


def test_a_gateway_that_does_not_read_holds_up_nobody() -> None:
    code = "import time\nfor n in range(3000): print(f'@phase p{n}', flush=True)\n" + FOREVER

    async def work() -> None:
        async with Fleet.open(name="f") as fleet:
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(str(fleet.directory / SOCKET_NAME))
                await fleet.start(script_spec(code))
                await fleet.wait_ready("e")

    run(work())


def test_a_gateway_that_was_paused_still_hears_that_a_sleep_failed() -> None:
    """All is over when it looks again: the engine is ready, but it is another launch."""

    async def work() -> None:
        async with Fleet.open(name="f") as fleet:
            arguments = ("--sleep-mode", "--sleep-fail", "error")
            await fleet.start(fake_spec(fleet.directory, *arguments, sleep=SleepPolicy()))
            await fleet.wait_ready("e")
            ordered = asyncio.create_task(fleet.sleep("e", 1))
            await asyncio.sleep(0)
            wait_without_the_loop(fleet.directory, launch=2)
            with pytest.raises(EngineFailed):
                await ordered

    run(work())


def wait_without_the_loop(directory: Path, launch: int) -> None:
    """Until the supervisor says that this launch is ready; nothing else in this process runs."""
    with socket.socket(socket.AF_UNIX) as other:
        other.settimeout(60)
        other.connect(str(directory / SOCKET_NAME))
        with other.makefile("rb") as lines:
            engines = (json.loads(line).get("engine") or {} for line in lines)
            assert any(
                (one.get("launch"), one.get("state")) == (launch, "ready") for one in engines
            )


def test_another_version_is_refused_with_the_remedy(runtime: Path) -> None:
    directory = runtime / "belvedere" / "f"
    directory.mkdir(parents=True)
    directory.parent.chmod(0o700)
    directory.chmod(0o700)

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"engines": []}\n')
        await reader.read()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_unix_server(old, str(directory / SOCKET_NAME))
        with pytest.raises(EngineStartFailed, match="another version") as caught:
            async with Fleet.open(name="f"):
                pass
        assert f"kill {os.getpid()}" in str(caught.value.remedy)
        assert str(PROTOCOL_VERSION) in caught.value.message
        server.close()

    run(work())


def refused(name: str = "f") -> str:
    async def work() -> None:
        async with Fleet.open(name=name):
            pass

    with pytest.raises(SettingsError) as caught:
        run(work())
    assert caught.value.remedy
    return caught.value.message


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 33, "a b"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    assert "fleet name" in refused(name)


def test_a_folder_that_others_can_enter_is_refused(runtime: Path) -> None:
    (runtime / "belvedere" / "f").mkdir(parents=True)
    (runtime / "belvedere").chmod(0o700)
    (runtime / "belvedere" / "f").chmod(0o755)
    assert "0755" in refused()


def test_a_folder_of_somebody_else_is_refused(runtime: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (runtime / "belvedere").mkdir(mode=0o700)
    os.chown(runtime / "belvedere", 12345, -1)
    assert "somebody else" in refused()


def test_links_in_place_of_the_folder_are_refused(runtime: Path, tmp_path: Path) -> None:
    (runtime / "belvedere").mkdir(mode=0o700)
    (runtime / "belvedere" / "f").symlink_to(tmp_path)
    assert "not a folder" in refused()


def test_paths_too_long_for_a_socket_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert "107" in refused()

    async def work() -> None:
        async with Fleet.open() as fleet:
            with pytest.raises(SettingsError, match="107"):
                await fleet.start(fake_spec(long))

    run(work())


def test_without_a_run_time_folder_the_temporary_one_is_used(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))

    async def work() -> None:
        async with Fleet.open(name="f") as fleet:
            assert fleet.directory == runtime / f"belvedere-{os.geteuid()}" / "f"

    run(work())
    assert list(runtime.iterdir()) == []


def test_engines_write_their_logs_where_it_was_said(tmp_path: Path) -> None:
    async def work() -> None:
        async with Fleet.open(log_directory=tmp_path / "logs") as fleet:
            await fleet.start(script_spec("print('words')\n" + FOREVER))
            await fleet.wait_ready("e")

    run(work())
    assert "words" in (tmp_path / "logs" / "e.log").read_text()


def test_the_key_is_nowhere_but_in_the_conversation(runtime: Path) -> None:
    async def work() -> None:
        async with Fleet.open(name="f") as fleet:
            await fleet.start(fake_spec(fleet.directory))
            status = await fleet.wait_ready("e")
            assert KEY not in repr(fleet.specs)
            assert KEY not in " ".join(psutil.Process(status.pid).cmdline())
            assert fleet.directory.stat().st_mode & 0o077 == 0
            assert (fleet.directory / SOCKET_NAME).stat().st_mode & 0o077 == 0

    run(work())
