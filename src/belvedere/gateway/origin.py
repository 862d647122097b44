"""Which hosts and web pages may talk to the server: no page of the open web, by any trick.

A browser can be made to send requests to a server on its own machine. Two checks stand against it.
`Host` must be a name of this server, so that a name which somebody points at 127.0.0.1 (DNS
rebinding) is refused. `Origin`, which browsers send and other clients do not, must be this server
itself or be allowed by the operator.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from belvedere.errors import PermissionDenied
from belvedere.settings import Settings

__all__ = ["LOOPBACK", "HostGuard", "allowed_hosts"]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ANY = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound
_ANY_ADDRESS = "(an address)"
_POLICY_VIOLATION = 1008


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """Names a request may have in ``Host``; ``None``: any, because a key is asked for anyway.

    A server that listens everywhere without a key takes addresses, which nobody can point
    elsewhere, and the names that the operator lists.
    """
    if settings.allowed_hosts:
        return frozenset(name.lower() for name in (*settings.allowed_hosts, *LOOPBACK))
    if settings.host in LOOPBACK:
        return LOOPBACK
    if settings.host in _ANY:
        has_key = settings.api_key is not None or bool(settings.api_keys)
        return None if has_key else frozenset({_ANY_ADDRESS, *LOOPBACK})
    return frozenset({settings.host.lower(), *LOOPBACK})


class HostGuard:
    """ASGI layer that refuses foreign hosts and origins, on HTTP and WebSocket alike.

    Args:
        hosts: see `allowed_hosts`.
        origins: origins besides the server's own, like ``https://tool.example``.
    """

    def __init__(
        self, app: ASGIApp, hosts: frozenset[str] | None, origins: Iterable[str] = ()
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        reason = self._objection(hosts, origins)
        if reason is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await _refuse(send, PermissionDenied(*reason))

    def _is_ours(self, name: str) -> bool:
        if self._hosts is None or name in self._hosts:
            return True
        return _ANY_ADDRESS in self._hosts and _is_address(name)

    def _objection(self, hosts: list[str], origins: list[str]) -> tuple[str] | None:
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_ours(_name(host)):
            listed = "allowed_hosts lists the names it answers to."
            return (f"The host {host[:100]!r} is not a name of this server; {listed}",)
        for origin in origins:
            own = _place(origin).lower() == host.lower() != ""
            if not own and origin.rstrip("/").lower() not in self._origins:
                return (f"Pages of {origin[:100]!r} may not use this server.",)
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _place(origin: str) -> str:
    """Host and port; of what is no origin nothing."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _name(host: str) -> str:
    """Without the port; of an IPv6 address without the brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


async def _refuse(send: Send, error: PermissionDenied) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
