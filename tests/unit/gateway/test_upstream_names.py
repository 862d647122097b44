"""Every model of every upstream is a replica of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from belvedere.gateway.upstreams import Upstreams
from belvedere.router.router import Router
from belvedere.settings import Settings

HOST = "http://127.0.0.1:9"
LISTING = b'{"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]}'


def replicas(*upstreams: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Served name, model there and base URL of all that the router is given."""

    async def main() -> set[tuple[str, str, str]]:
        settings, router = Settings.model_validate({"upstreams": upstreams}), Router()
        async with Upstreams(settings, router).following():
            return {
                (one.model.name, one.engine_model or "", one.endpoint.base_url)
                for one in router.replicas
            }

    return asyncio.run(main())


@pytest.mark.parametrize("path", ["", "/a", "/a/v1"])
def test_servers_behind_one_host_share_a_model(path: str) -> None:
    models = {"m": "m"}
    found = replicas(
        {"url": f"{HOST}{path}", "models": models}, {"url": f"{HOST}/b", "models": models}
    )
    assert found == {("m", "m", f"{HOST}{path.removesuffix('/v1')}"), ("m", "m", f"{HOST}/b")}


def test_one_model_may_have_two_names() -> None:
    found = replicas({"url": HOST, "models": {"fast": "m", "cheap": "m"}})
    assert found == {("fast", "m", HOST), ("cheap", "m", HOST)}


async def lists(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A vLLM server that only says which models it has."""
    await reader.readuntil(b"\r\n\r\n")
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(LISTING)}\r\n\r\n"
    writer.write(head.encode() + LISTING)
    await writer.drain()
    writer.close()


def test_what_a_server_says_of_a_named_model_is_learned_when_it_answers() -> None:
    """Such a model is there before: a tenant's prompts must not stay without their salt."""

    async def main() -> None:
        server = await asyncio.start_server(lists, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        router, upstream = Router(), {"url": url, "models": {"served": "m"}}
        upstreams = Upstreams(Settings.model_validate({"upstreams": [upstream]}), router)
        async with upstreams.following(), asyncio.timeout(60):
            (replica,) = router.replicas
            assert not replica.model.takes_cache_salt
            while upstreams.statuses[0].state != "ready":
                await asyncio.sleep(0.01)
        assert router.replicas == (replica,)
        assert (replica.model.takes_cache_salt, replica.model.max_model_len) == (True, 4096)
        assert router.model("served") == replica.model
        server.close()

    asyncio.run(main())
