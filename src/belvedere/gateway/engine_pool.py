"""The connections to one engine: dialled when needed, kept while they are good."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from belvedere.engines.base import Endpoint
from belvedere.errors import SettingsError
from belvedere.gateway.engine_connection import Connection, NotReached

__all__ = ["EnginePool"]

_CONNECT_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 512
_MAX_IDLE = 64
_MAX_IDLE_S = 3.0
"""Less than the 5 s after which uvicorn, and with it vLLM, hangs up on an idle client: a request
never meets an engine that is just hanging up, which would look like an engine that died of it."""


class EnginePool:
    """Keeps connections to `endpoint`, at most 512.

    No proxies, no redirects, no cookies; TLS with the system's certificates.

    Args:
        max_idle_s: how long a connection may have lain idle when it is used again.

    Raises:
        SettingsError: the key cannot be written into a header.
    """

    def __init__(self, endpoint: Endpoint, *, max_idle_s: float = _MAX_IDLE_S) -> None:
        parts = urlsplit(endpoint.base_url)
        self._uds = endpoint.uds
        self._host = parts.hostname or ""
        self._tls = _tls() if parts.scheme == "https" and endpoint.uds is None else None
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/")
        self._headers = _headers(parts.netloc, endpoint.api_key)
        self._max_idle_s = max_idle_s
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._room = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def aclose(self) -> None:
        """Closes every connection, also those in use."""
        self._idle.clear()
        for connection in self._all:
            connection.abort()
        await asyncio.sleep(0)

    @asynccontextmanager
    async def post(
        self, path: str, body: bytes, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Connection]:
        """A connection on which the head of the answer has come.

        It is closed, and the engine's work with it, when the block is left before the answer's end.

        Args:
            timeout_s: until the head has come; the caller gives the rest its own time.
            headers: further ones.

        Raises:
            NotReached, Broken, TimeoutError
        """
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        assert path.isascii() and path.isprintable() and " " not in path
        head = f"POST {self._prefix}{path} HTTP/1.1\r\n{more}{self._headers}{len(body)}\r\n\r\n"
        async with asyncio.timeout(timeout_s if self._room.locked() else None):
            await self._room.acquire()
        try:
            connection = self._kept() or await self._dial()
            try:
                await connection.send(head.encode("latin-1"), body, timeout_s)
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._room.release()

    def _kept(self) -> Connection | None:
        """The connection that was used last, if it is still good."""
        oldest_s = asyncio.get_running_loop().time() - self._max_idle_s
        while self._idle:
            connection = self._idle.pop()
            fresh = connection.idle_since_s > oldest_s
            if fresh and connection.is_reusable and connection.is_quiet():
                return connection
            self._drop(connection)
        return None

    def _give_back(self, connection: Connection) -> None:
        if not connection.is_reusable:
            self._drop(connection)
            return
        now_s = connection.idle_since_s = asyncio.get_running_loop().time()
        self._idle.append(connection)
        oldest_s = now_s - self._max_idle_s
        while len(self._idle) > _MAX_IDLE or self._idle[0].idle_since_s < oldest_s:
            self._drop(self._idle.popleft())

    def _drop(self, connection: Connection) -> None:
        self._all.discard(connection)
        connection.abort()

    async def _dial(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                if self._uds is not None:
                    _, connection = await loop.create_unix_connection(Connection, self._uds)
                else:
                    _, connection = await loop.create_connection(
                        Connection, self._host, self._port, ssl=self._tls
                    )
        except OSError as exc:
            raise NotReached("it does not accept connections") from exc
        except UnicodeError as exc:
            raise NotReached("its name is no host name") from exc
        self._all.add(connection)
        return connection


def _headers(host: str, api_key: str | None) -> str:
    """All of them but for the value of the last, the content's length."""
    key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise SettingsError(
            f"The key for {host!r} has characters that no HTTP header can carry.",
            remedy="Check it for line breaks and other invisible characters.",
        )
    return (
        f"host: {host.rpartition('@')[2]}\r\n{key}"
        "user-agent: belvedere\r\naccept: */*\r\naccept-encoding: identity\r\n"
        "content-type: application/json\r\ncontent-length: "
    )


def _tls() -> ssl.SSLContext:
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)
