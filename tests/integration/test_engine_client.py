"""How the gateway talks HTTP with an engine: every answer here is written byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from belvedere.engines.base import Endpoint
from belvedere.errors import EngineFailed, EngineTimeout, SettingsError
from belvedere.gateway.engine_pool import EnginePool
from belvedere.gateway.relay import EngineClient, EngineGone, EngineNotReached

PATH = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Grüße"}]}
PATIENCE_S = 20.0
EVENTS = b'data: {"a": 1}\n\n: comment\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'


class Peer:
    """A server whose answers are bytes; it remembers what it saw."""

    def __init__(self, answer: Callable[[Peer, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.open = 0
        self.url = ""
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *rest = head.strip().split("\r\n")
                headers = dict(entry.split(": ", 1) for entry in rest)
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.append((line, headers, body))
                leaves = asyncio.ensure_future(_left(reader))
                answering = asyncio.ensure_future(self._answer(self, writer))
                await asyncio.wait({leaves, answering}, return_when=asyncio.FIRST_COMPLETED)
                if leaves.done():
                    answering.cancel()
                    return
                answering.result()
                leaves.cancel()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def _left(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.01)


def saying(*pieces: bytes, then_close: bool = False) -> Callable[..., Awaitable[None]]:
    """An answer of these pieces, each sent on its own."""

    async def answer(_: Peer, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)
        if then_close:
            writer.close()

    return answer


def chunked(*pieces: bytes, end: bool = True) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return [head, *chunks, *([b"0\r\n\r\n"] if end else [])]


def sized(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main

    asyncio.run(bounded())


@asynccontextmanager
async def serving(answer: Callable[..., Awaitable[None]]) -> AsyncIterator[Peer]:
    peer = Peer(answer)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, limit=2**22)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield peer
    finally:
        server.close()
        assert await holds(lambda: peer.open == 0), "a connection was left open"


@asynccontextmanager
async def client_of(url: str, timeout_s: float = PATIENCE_S, **more: Any) -> AsyncIterator[Any]:
    client = EngineClient(
        Endpoint(url, **more),
        request_timeout_s=timeout_s,
        first_token_timeout_s=timeout_s,
        inter_token_timeout_s=timeout_s,
    )
    try:
        yield client
    finally:
        await client.aclose()


async def holds(condition: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize(
    "answer",
    [
        saying(sized(b'{"ok": 1}')),
        saying(*chunked(b'{"ok"', b": 1}")),
        saying(b"HTTP/1.1 200 OK\r\n\r\n", b'{"ok": 1}', then_close=True),
        saying(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b'{"ok": 1}', then_close=True),
        saying(b"HTTP/1.1 100 Continue\r\n\r\n", sized(b'{"ok": 1}')),
        saying(*[bytes([byte]) for byte in sized(b'{"ok": 1}')]),
    ],
    ids=["length", "chunked", "until-closed", "close", "continue", "byte-by-byte"],
)
def test_every_framing_of_an_answer_is_understood(answer: Callable[..., Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving(answer) as peer, client_of(peer.url) as client:
            assert await client.complete(PATH, BODY) == {"ok": 1}
            assert await client.complete(PATH, BODY) == {"ok": 1}

    run(main())


def test_what_the_engine_gets() -> None:
    async def main() -> None:
        async with (
            serving(saying(sized(b"{}"))) as peer,
            client_of(peer.url + "/below", api_key="s3cret") as client,
        ):
            await client.complete(PATH, BODY)
            ((line, headers, body),) = peer.requests
            assert line == f"POST /below{PATH} HTTP/1.1"
            assert headers["host"] == peer.url.removeprefix("http://")
            assert headers["authorization"] == "Bearer s3cret"
            assert headers["content-type"] == "application/json"
            assert json.loads(body) == BODY

    run(main())


def test_a_unix_socket(tmp_path: Path) -> None:
    async def main() -> None:
        peer = Peer(saying(sized(b'{"ok": 1}')))
        path = str(tmp_path / "engine.sock")
        server = await asyncio.start_unix_server(peer.serve, path)
        async with client_of("http://engine", uds=path) as client:
            assert await client.complete(PATH, BODY) == {"ok": 1}
        assert peer.requests[0][1]["host"] == "engine"
        server.close()

    run(main())


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def main() -> None:
        async with serving(saying(sized(b"{}"))) as peer, client_of(peer.url) as client:
            assert await client.complete(PATH, BODY) == {}

    run(main())


def test_connections_are_kept_and_the_dead_ones_noticed() -> None:
    async def main() -> None:
        async with serving(saying(sized(b"{}"))) as peer, client_of(peer.url) as client:
            for _ in range(5):
                await client.complete(PATH, BODY)
            assert peer.connections == 1
        async with (
            serving(saying(sized(b"{}"), then_close=True)) as peer,
            client_of(peer.url) as client,
        ):
            for _ in range(5):
                await client.complete(PATH, BODY)
                assert await holds(lambda: peer.open == 0)
            assert peer.connections == 5

    run(main())


def test_a_connection_that_closed_unseen_is_not_used() -> None:
    """Its end has arrived, but the event loop has not looked since."""

    async def main() -> None:
        async with serving(saying(sized(b"{}"))) as peer:
            pool = EnginePool(Endpoint(peer.url))
            async with pool.post(PATH, b"{}", PATIENCE_S) as kept:
                await kept.read_all(100)
            assert kept.is_reusable
            assert kept.is_quiet()
            await pool.aclose()

        with socket.create_server(("127.0.0.1", 0)) as listening:
            pool = EnginePool(Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}"))
            asked = asyncio.ensure_future(_whole(pool))
            await asyncio.sleep(0)
            server_side, _ = await asyncio.to_thread(listening.accept)
            await asyncio.to_thread(server_side.recv, 65536)
            server_side.sendall(sized(b"{}"))
            connection = await asked
            assert connection.is_reusable
            server_side.close()
            deadline_s = time.monotonic() + 10
            while connection.is_quiet() and time.monotonic() < deadline_s:
                time.sleep(0.01)  # noqa: ASYNC251 - the loop must not look
            assert connection.is_reusable
            assert not connection.is_quiet()
            await pool.aclose()

    run(main())


async def _whole(pool: EnginePool) -> Any:
    async with pool.post(PATH, b"{}", PATIENCE_S) as connection:
        await connection.read_all(100)
    return connection


def test_a_connection_that_lay_idle_too_long_is_not_used() -> None:
    async def main() -> None:
        async with serving(saying(sized(b"{}"))) as peer:
            pool = EnginePool(Endpoint(peer.url), max_idle_s=0.05)
            first = await _whole(pool)
            await asyncio.sleep(0.2)
            assert await _whole(pool) is not first
            await pool.aclose()

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        saying(then_close=True),
        saying(b"HTTP/1.1 200 OK\r\nContent-Le", then_close=True),
        saying(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"ok"', then_close=True),
        saying(*chunked(b'{"ok": 1}', end=False), then_close=True),
        saying(b"\x15\x03\x01 this is no HTTP\r\n\r\n"),
        saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\n", *[b"X-Filler: " + b"x" * 8000 + b"\r\n"] * 20),
    ],
    ids=["nothing", "half-head", "half-body", "open-chunks", "garbage", "upgrade", "endless-head"],
)
def test_a_broken_answer_means_the_engine_is_gone(answer: Callable[..., Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving(answer) as peer, client_of(peer.url) as client:
            with pytest.raises(EngineGone) as gone:
                await client.complete(PATH, BODY)
            assert not isinstance(gone.value, EngineNotReached)
            with pytest.raises(EngineGone):
                async with client.stream(PATH, BODY) as events:
                    async for _ in events:
                        pass

    run(main())


def test_nobody_listens(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as mute:
            mute.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{mute.getsockname()[1]}"
            for address in ({"url": url}, {"url": "http://e", "uds": str(tmp_path / "none")}):
                async with client_of(**address) as client:
                    with pytest.raises(EngineNotReached):
                        await client.complete(PATH, BODY)
        async with (
            serving(saying(sized(b"{}"))) as plain,
            client_of(plain.url.replace("http:", "https:")) as client,
        ):
            with pytest.raises(EngineNotReached):
                await client.complete(PATH, BODY)

    run(main())


@pytest.mark.parametrize("body", [b"\x00", b"[]", b"[" * 100_000])
def test_an_answer_that_is_no_object(body: bytes) -> None:
    async def main() -> None:
        async with serving(saying(sized(body))) as peer, client_of(peer.url) as client:
            with pytest.raises(EngineFailed) as failed:
                await client.complete(PATH, BODY)
            assert not isinstance(failed.value, EngineGone)

    run(main())


def test_an_answer_without_end_is_cut_off() -> None:
    async def endless(_: Peer, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 2**20)
            await writer.drain()

    async def main() -> None:
        async with serving(endless) as peer, client_of(peer.url) as client:
            with pytest.raises(EngineFailed, match="too large"):
                await client.complete(PATH, BODY)
            with pytest.raises(EngineFailed, match="no end"):
                async with client.stream(PATH, BODY) as events:
                    await anext(events)

    run(main())


def test_a_key_that_no_header_can_carry() -> None:
    async def main() -> None:
        with pytest.raises(SettingsError) as refused:
            EnginePool(Endpoint("http://127.0.0.1:1", api_key="a\r\nb: c"))
        assert "b: c" not in str(refused.value)

    run(main())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_events_are_whole_wherever_they_were_cut(size: int, line_end: bytes) -> None:
    sent = EVENTS.replace(b"\n", line_end)
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]

    async def main() -> None:
        async with (
            serving(saying(*chunked(*pieces))) as peer,
            client_of(peer.url) as client,
            client.stream(PATH, BODY) as events,
        ):
            got = [item async for item in events]
            assert b"".join(got) == EVENTS
            assert all(item.endswith(b"\n\n") for item in got)

    run(main())


def test_a_reader_that_takes_its_time_loses_nothing_when_the_engine_dies() -> None:
    async def main() -> None:
        first, second = b"data: 1\n\n", b"data: 2\n\n"
        answer = saying(*chunked(first, second, end=False), then_close=True)
        async with (
            serving(answer) as peer,
            client_of(peer.url) as client,
            client.stream(PATH, BODY) as events,
        ):
            got = await anext(events)
            assert await holds(lambda: peer.open == 0)
            with pytest.raises(EngineGone):
                while True:
                    got += await anext(events)
            assert got == first + second

    run(main())


@pytest.mark.parametrize("pieces", [(), (b"data: 1\n\n",)], ids=["no head", "mid-stream"])
def test_an_engine_that_says_nothing_is_a_timeout(pieces: tuple[bytes, ...]) -> None:
    async def silent(_: Peer, writer: asyncio.StreamWriter) -> None:
        if pieces:
            writer.writelines(chunked(*pieces, end=False))
        await asyncio.sleep(60)

    async def main() -> None:
        async with serving(silent) as peer, client_of(peer.url, timeout_s=0.5) as client:
            with pytest.raises(EngineTimeout):
                await client.complete(PATH, BODY)
            with pytest.raises(EngineTimeout):
                async with client.stream(PATH, BODY) as events:
                    async for _ in events:
                        pass

    run(main())


def test_the_time_is_up_also_for_who_begins_to_wait_afterwards() -> None:
    async def silent(_: Peer, writer: asyncio.StreamWriter) -> None:
        writer.writelines(chunked(b"x", end=False))
        await asyncio.sleep(60)

    async def main() -> None:
        async with serving(silent) as peer:
            pool = EnginePool(Endpoint(peer.url))
            async with pool.post(PATH, b"{}", PATIENCE_S) as connection:
                assert await connection.read() == b"x"
                connection.give(0.1)
                await asyncio.sleep(0.3)
                with pytest.raises(TimeoutError):
                    await connection.read()
            await pool.aclose()

    run(main())


def test_a_stream_may_take_longer_than_the_wait_for_one_event() -> None:
    async def steady(_: Peer, writer: asyncio.StreamWriter) -> None:
        for piece in chunked(*[b"data: x\n\n"] * 16):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.4)

    async def main() -> None:
        async with (
            serving(steady) as peer,
            client_of(peer.url, timeout_s=5.0) as client,
            client.stream(PATH, BODY) as events,
        ):
            assert b"".join([item async for item in events]).count(b"x") == 16

    run(main())


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "mid-stream"])
@pytest.mark.parametrize("streamed", [False, True])
def test_who_leaves_closes_the_connection(begun: bool, streamed: bool) -> None:
    async def main() -> None:
        async def slow(_: Peer, writer: asyncio.StreamWriter) -> None:
            if begun:
                writer.writelines(chunked(b"data: 1\n\n", end=False))
            await asyncio.sleep(60)

        async def ask(client: Any) -> None:
            if not streamed:
                await client.complete(PATH, BODY)
                return
            async with client.stream(PATH, BODY) as events:
                async for _ in events:
                    pass

        async with serving(slow) as peer, client_of(peer.url) as client:
            asking = asyncio.ensure_future(ask(client))
            assert await holds(lambda: len(peer.requests) == 1)
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await holds(lambda: peer.open == 0)

    run(main())


def test_a_slow_reader_stops_the_engine() -> None:
    event = b"data: " + b"x" * 2**16 + b"\n\n"
    count = 1000

    async def main() -> None:
        sent = 0

        async def flooding(_: Peer, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            for piece in chunked(*[event] * count):
                writer.write(piece)
                await writer.drain()
                sent += 1

        async with (
            serving(flooding) as peer,
            client_of(peer.url) as client,
            client.stream(PATH, BODY) as events,
        ):
            got = len(await anext(events))
            await asyncio.sleep(1)
            assert sent < count / 2
            async for item in events:
                got += len(item)
            assert got == count * len(event)

    run(main())
