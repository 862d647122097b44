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
