"""One HTTP/1.1 connection to an engine: a request out, its answer back as it comes."""

from __future__ import annotations

import asyncio
import select
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

__all__ = ["Broken", "Connection", "NotReached", "TooLarge"]

_HIGH_WATER_BYTES = 256 * 2**10
_SERVER_ERROR = 500
_MAX_HEAD_BYTES = 64 * 2**10


class Broken(Exception):
    """The connection ended before the answer did, or what came is no HTTP answer."""


class NotReached(Exception):
    """There is no connection: nothing of the request was sent."""


class TooLarge(Exception):
    """The answer is larger than the caller takes."""


class Connection(asyncio.Protocol):
    """Speaks with one engine, one request at a time.

    A reader that is slower than the engine stops the engine: not more than a quarter of a mebibyte
    waits here. Times are watched by one timer a connection, which is only moved when it goes off:
    a stream of a thousand tokens costs no thousand timers.

    Attributes:
        status, headers: of the answer; names in lower case.
        idle_since_s: the loop's time at which it was last given back.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.idle_since_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s = 0.0
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._head_bytes = 0
        self._paused = False
        self._has_head = False
        self._complete = True
        self._clean = True
        self._lost: Exception | None = None

    async def send(self, head: bytes, body: bytes, timeout_s: float) -> None:
        """Sends a request and waits for the head of its answer.

        Raises:
            NotReached, Broken, TimeoutError
        """
        assert self._complete
        if self._transport is None:
            raise NotReached("it closed the connection before it was used") from self._lost
        self._parser = HttpResponseParser(self)
        self._chunks.clear()
        self._held_bytes = self._head_bytes = 0
        self._has_head = self._complete = False
        self._transport.write(head + body if len(body) < _HIGH_WATER_BYTES else head)
        if len(body) >= _HIGH_WATER_BYTES:
            self._transport.write(body)
        self.give(timeout_s)
        while not self._has_head:
            await self._changed()

    def give(self, timeout_s: float) -> None:
        """Whoever waits from now on waits until then at most."""
        self._deadline_s = self._loop.time() + timeout_s
        if self._timer is not None and self._timer.when() > self._deadline_s:
            self._timer.cancel()
            self._timer = None

    async def read(self) -> bytes:
        """What has come of the body since the last call; empty at its end.

        Raises:
            Broken, TimeoutError
        """
        while not self._chunks:
            if self._complete:
                return b""
            await self._changed()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held_bytes = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def read_all(self, max_bytes: int) -> bytes:
        """The body to its end.

        Raises:
            Broken, TimeoutError, TooLarge
        """
        parts: list[bytes] = []
        size = 0
        while part := await self.read():
            size += len(part)
            if size > max_bytes:
                raise TooLarge
            parts.append(part)
        return b"".join(parts)

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow: the answer is over, and the engine still listens."""
        transport = self._transport
        return (
            self._complete
            and self._clean
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def is_quiet(self) -> bool:
        """Whether nothing has come on the idle connection, not even its end.

        The event loop may not have looked yet, so the socket itself is asked.
        """
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """Closes at once; the engine notices that nobody wants the answer."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        if self._complete or self._parser is None:
            self._fail(Broken("it sent something unasked"))
            return
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            self._fail(Broken(str(exc)))
            return
        if self._head_bytes > _MAX_HEAD_BYTES and not self._has_head:
            self._fail(Broken("the head of its answer has no end"))
            return
        if self._held_bytes > _HIGH_WATER_BYTES and not self._paused and not self._complete:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clean = False
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._ends_with_connection() and exc is None:
            self._complete = True
        self._lost = self._lost or Broken(str(exc or "it closed the connection"))
        self._wake()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._clean = False
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._chunks.append(body)
            self._held_bytes += len(body)

    def on_message_complete(self) -> None:
        if not self._has_head:
            return  # 1xx: the answer is still to come
        assert self._parser is not None
        self._complete = True
        # uvicorn hangs up behind the 500 of an application that failed, without saying so.
        failed = self.status >= _SERVER_ERROR
        self._clean = self._clean and self._parser.should_keep_alive() and not failed

    def _ends_with_connection(self) -> bool:
        framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        return self._has_head and not framed

    async def _changed(self) -> None:
        """Returns when something has come."""
        if self._lost is not None:
            raise self._lost
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline_s, self._look_at_the_clock)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: Exception) -> None:
        self._lost = failure
        self._clean = False
        self.abort()
        self._wake()

    def _look_at_the_clock(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return  # nobody waits; who does next sets it again
        if self._loop.time() < self._deadline_s:
            self._timer = self._loop.call_at(self._deadline_s, self._look_at_the_clock)
        else:
            self._waiter.set_exception(TimeoutError())
