"""A gateway on a real socket in front of scripted engines."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import uvicorn

from belvedere.engines.base import Endpoint
from belvedere.gateway.app import create_app
from belvedere.gateway.server import bind
from belvedere.gateway.state import Gateway
from belvedere.gateway.web import drop_idle_readers, web_config
from belvedere.images.cache import LruCache
from belvedere.images.pipeline import ImagePipeline
from belvedere.router.replica import Model, Replica
from belvedere.router.router import Router
from belvedere.settings import Settings
from belvedere.testing import FakeEngine
from tests.integration.serving import wait_until

FAKE = Model(name="fake", created_s=0)


@contextmanager
def deaf() -> Iterator[str]:
    """URL of a port whose connections never come about: its queue is full."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"


@contextmanager
def gateway_for(
    *engines: FakeEngine,
    model: Model = FAKE,
    on_gateway: Callable[[Gateway], None] = lambda _: None,
    **settings: object,
) -> Iterator[httpx2.Client]:
    """The gateway in a thread of its own; yields a client of it.

    Args:
        on_gateway: is given the gateway before it serves.
    """
    sock = bind("127.0.0.1", 0)
    loop_ready = threading.Event()
    stop: list[uvicorn.Server] = []
    chosen = Settings(**settings)

    async def serve() -> None:
        router = Router()
        for index, engine in enumerate(engines):
            router.add(Replica(f"r{index}", model, Endpoint(engine.url), lambda: "ready"))
        async with ImagePipeline(cache=LruCache(chosen.image_cache_bytes)) as pipeline:
            gateway = Gateway(chosen, router, pipeline, dict)
            on_gateway(gateway)
            drop_idle_readers(sock, chosen.slow_reader_timeout_s)
            server = uvicorn.Server(web_config(create_app(gateway), chosen))
            stop.append(server)
            loop_ready.set()
            await server.serve(sockets=[sock])
            await gateway.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert loop_ready.wait(60)
    host, port = sock.getsockname()
    try:
        with httpx2.Client(base_url=f"http://{host}:{port}", timeout=60) as client:
            assert wait_until(lambda: stop[0].started)
            yield client
    finally:
        stop[0].should_exit = True
        thread.join(60)
        sock.close()
        assert not thread.is_alive()
