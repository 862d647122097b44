"""The socket and the loop that ``belvedere serve`` runs on."""

from __future__ import annotations

import asyncio
import socket

import httpx2
from fastapi import FastAPI

from belvedere.gateway import event_loop
from belvedere.gateway.server import bind
from belvedere.gateway.web import web_config
from belvedere.settings import Settings


def test_a_client_gives_up_an_idle_connection_before_the_server_does() -> None:
    """Otherwise a request may be sent on a connection that the server is just closing."""
    kept_s = httpx2.Limits().keepalive_expiry
    assert kept_s is not None
    assert web_config(FastAPI(), Settings()).timeout_keep_alive >= 2 * kept_s


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Head and body of an answer are two writes: held back by Nagle they would take 40 ms."""
    off: list[int] = []

    async def main() -> None:
        done = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            off.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            done.set()

        sock = bind("127.0.0.1", 0)
        server = await asyncio.start_server(serve, sock=sock)
        _, writer = await asyncio.open_connection(*sock.getsockname())
        async with asyncio.timeout(20):
            await done.wait()
        writer.close()
        server.close()

    asyncio.run(main())
    event_loop.run(main())
    assert all(off)
    assert len(off) == 2
