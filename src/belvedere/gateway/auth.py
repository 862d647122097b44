"""Who may ask: the bearer key, compared in constant time on the route itself."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from starlette.requests import HTTPConnection

from belvedere.errors import AuthenticationFailed, PermissionDenied, SettingsError
from belvedere.gateway.keys import Caller
from belvedere.gateway.origin import LOOPBACK
from belvedere.gateway.state import gateway_of
from belvedere.settings import Settings

__all__ = ["authenticate", "caller_of", "check_bind", "require_admin", "require_key"]

_MAX_KEY_CHARS = 4096


async def require_key(request: HTTPConnection) -> None:
    """Refuses a request without an accepted key; a dependency of every route but liveness.

    Raises:
        AuthenticationFailed: keys are configured and the request has none of them.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    key = given.strip() if scheme.lower() == "bearer" else None
    request.state.caller = authenticate(request, key)


async def require_admin(request: HTTPConnection) -> None:
    """Refuses a request whose key may only use models, not manage them.

    Raises:
        AuthenticationFailed, PermissionDenied.
    """
    await require_key(request)
    if caller_of(request).role != "admin":
        raise PermissionDenied(
            f"The key {caller_of(request).name!r} may not load or unload models.",
            remedy="Use a key with the role admin.",
        )


def authenticate(request: HTTPConnection, key: str | None) -> Caller:
    """Whose `key` it is. Where no key is configured, whoever sends one is a tenant of its own.

    Raises:
        AuthenticationFailed: nobody's.
    """
    ring = gateway_of(request).keys
    caller = ring.caller(key[:_MAX_KEY_CHARS] if key is not None else None)
    if caller is None:
        raise AuthenticationFailed(
            "The API key is missing or wrong.",
            remedy="Send 'Authorization: Bearer <key>'.",
        )
    if ring.is_open and key is not None:
        return replace(caller, tenant=hashlib.sha256(key.encode("latin-1", "replace")).digest())
    return caller


def caller_of(request: HTTPConnection) -> Caller:
    """Who sent this; the route must depend on `require_key` or `require_admin`."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


def check_bind(settings: Settings) -> None:
    """Refuses to listen beyond loopback without a key.

    Raises:
        SettingsError: `host` is not loopback, there is no key and `insecure` is off.
    """
    if settings.host in LOOPBACK or settings.insecure:
        return
    if settings.api_key is not None or settings.api_keys:
        return
    raise SettingsError(
        f"Listening on {settings.host!r} would let everyone on the network in without a key.",
        remedy="Set --api-key (or API_KEY), or say --insecure if that is what you want.",
    )
