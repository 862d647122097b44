# ruff: noqa: E501, RUF001  (a table of spellings)
"""Image URLs against real servers: hostile ones fail in time, inner ones are never reached."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import ipaddress
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from belvedere.errors import (
    ImageDownloadFailed,
    ImageError,
    ImageTooLarge,
    InvalidImageUrl,
    UnsupportedImage,
)
from belvedere.images.fetch import ImageFetcher
from belvedere.images.geometry import ImageGeometry, Size
from belvedere.images.guard import AddressPolicy, IPAddress, refusal
from belvedere.images.limits import ImageLimits
from belvedere.images.pipeline import ImagePipeline

PUBLIC_STAND_IN = "127.0.0.2"
"""The one loopback address the tests permit; every other one stays forbidden."""

POLICY = AddressPolicy(allowed_networks=(ipaddress.ip_network(f"{PUBLIC_STAND_IN}/32"),))
LIMITS = ImageLimits(
    max_encoded_bytes=100_000,
    fetch_timeout_s=60.0,
    connect_timeout_s=60.0,
    read_timeout_s=60.0,
    max_redirects=3,
)
HASTY = replace(LIMITS, fetch_timeout_s=3.0, read_timeout_s=1.5)

Reply = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A scripted HTTP server that keeps every request it got."""

    reply: Reply
    port: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            await self.reply(request, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    reply: Reply, host: str = PUBLIC_STAND_IN, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server(reply)
    listener = await asyncio.start_server(server.connected, host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


@asynccontextmanager
async def canary() -> AsyncIterator[Server]:
    """What must never be reached, on every other loopback address there is."""
    async with serving(answering(200, b"secret"), "127.0.0.1") as server:
        try:
            six = await asyncio.start_server(server.connected, "::1", server.port)
        except OSError:
            yield server
        else:
            async with six:
                yield server
        await asyncio.sleep(0.05)
        assert server.requests == []


def png(width: int = 64, height: int = 48) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(stream, "PNG")
    return stream.getvalue()


def response(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def answering(status: int, body: bytes = b"", *headers: str) -> Reply:
    async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(response(status, body, *headers))

    return reply


def redirecting(location: str) -> Reply:
    return answering(302, b"", f"Location: {location}")


class Names:
    """A resolver with fixed answers; a name's later answers may differ from its first."""

    def __init__(self, **answers: str | list[str]) -> None:
        self.answers = {f"{name}.test": answer for name, answer in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[IPAddress]:
        self.asked.append(host)
        answer = self.answers.get(host, PUBLIC_STAND_IN)
        text = answer if isinstance(answer, str) else answer.pop(0)
        return [ipaddress.ip_address(part) for part in text.split()]


def fetcher(names: Names | None = None, limits: ImageLimits = LIMITS, **more: Any) -> ImageFetcher:
    return ImageFetcher(limits, policy=POLICY, resolver=names or Names(), **more)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_an_image_is_fetched_by_name_from_the_checked_address() -> None:
    """The server sees the name; the environment's proxy and a second resolution play no part."""

    async def scenario() -> None:
        names = Names()
        async with serving(answering(200, png())) as server:
            url = f"http://images.test:{server.port}/a.png?b=c"
            assert await fetcher(names).fetch(url) == png()
            head, *lines = server.requests[0].decode().lower().split("\r\n")
            assert head == "get /a.png?b=c http/1.1"
            assert f"host: images.test:{server.port}" in lines
            assert "accept-encoding: identity" in lines
            assert names.asked == ["images.test"]

    run(scenario)


def test_the_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with canary() as proxy, serving(answering(200, png())) as server:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            assert await fetcher().fetch(f"http://images.test:{server.port}/") == png()

    run(scenario)


def test_the_next_address_is_tried() -> None:
    """All addresses were checked, so any of them may be dialled."""

    async def scenario() -> None:
        policy = AddressPolicy(allowed_networks=(ipaddress.ip_network("127.0.0.2/31"),))
        async with serving(answering(200, png())) as server:
            both = ImageFetcher(LIMITS, policy=policy, resolver=Names(a="127.0.0.3 127.0.0.2"))
            assert await both.fetch(f"http://a.test:{server.port}/") == png()

    run(scenario)


BYPASSES = [
    "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "127.1",
    "127.0.1", "0177.0.0.1", "017700000001", "127.0.0.01", "0", "0.0.0.0", "127.0.0.3", "127.255.255.254", "①②⑦.0.0.1",
    "１２７.0.0.1", "127。0。0。1", "ⓛocalhost", "ｌocalhost", "127.0.0.1%2f", "[::1]", "[::]", "[::127.0.0.1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "[::1%25lo]", "[::1%lo]", "[fe80::1]", "user@127.0.0.1", "user:pw@localhost", "good.com\\@127.0.0.1",
    "good.com%40127.0.0.1", "%31%32%37.0.0.1", "%6c%6f%63%61%6c%68%6f%73%74", "loc\u00adalhost", "localhost\t",
    "169.254.169.254", "100.100.100.200", "192.168.0.1", "10.0.0.1",
]  # fmt: skip


def test_the_canary_would_sing() -> None:
    """The control: with a policy that permits it, the canary is reached and counts."""

    async def scenario() -> None:
        async with serving(answering(200, b"secret"), "127.0.0.1") as target:
            open_policy = ImageFetcher(LIMITS, policy=AddressPolicy(allow_private=True))
            assert await open_policy.fetch(f"http://localhost:{target.port}/") == b"secret"
            assert len(target.requests) == 1

    run(scenario)


@pytest.mark.parametrize("host", BYPASSES)
def test_no_spelling_reaches_the_canary(host: str) -> None:
    """With the real resolver and the default policy; all refusals read the same."""

    async def scenario() -> None:
        async with canary() as target:
            for url in (f"http://{host}:{target.port}/", f"http://{host}:{target.port}"):
                with pytest.raises(InvalidImageUrl) as caught:
                    await ImageFetcher(LIMITS).fetch(url)
                assert caught.value.body() == refusal().body()

    run(scenario)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http://inner.test:{port}/",
        "http://mixed.test:{port}/",
        "http://2130706433:{port}/",
        "http://[::1]:{port}/",
        "http://images.test\\@127.0.0.1:{port}/",
        "http://user@127.0.0.1:{port}/",
        "\thttp://127.0.0.1:{port}/",
        "ftp://127.0.0.1:{port}/",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("hops", [1, 2])
def test_every_hop_is_checked(location: str, hops: int) -> None:
    async def scenario() -> None:
        names = Names(inner="127.0.0.1", mixed=f"{PUBLIC_STAND_IN} 127.0.0.1")
        async with canary() as target:
            async with serving(redirecting(location.format(port=target.port))) as last:
                onward = redirecting(f"http://images.test:{last.port}/")
                async with serving(onward) as first:
                    port = first.port if hops == 2 else last.port
                    with pytest.raises(InvalidImageUrl) as caught:
                        await fetcher(names).fetch(f"http://images.test:{port}/")
            assert caught.value.body() == refusal().body()
            assert len(last.requests) == 1

    run(scenario)


def test_a_rebinding_name_reaches_only_what_was_checked() -> None:
    """The first answer is permitted, each later one is the canary: one fetch asks once."""

    async def scenario() -> None:
        names = Names(rebind=[PUBLIC_STAND_IN, "127.0.0.1", "127.0.0.1"])
        async with (
            canary() as target,
            serving(answering(200, png()), port=target.port) as server,
        ):
            url = f"http://rebind.test:{target.port}/"
            assert await fetcher(names).fetch(url) == png()
            assert names.asked == ["rebind.test"]
            with pytest.raises(InvalidImageUrl):
                await fetcher(names).fetch(url)
            assert len(server.requests) == 1

    run(scenario)


def test_redirects_are_followed() -> None:
    async def scenario() -> None:
        async with serving(answering(200, png())) as last:
            first = redirecting(f"http://other.test:{last.port}/b.png")
            async with serving(first) as server:
                names = Names()
                assert await fetcher(names).fetch(f"http://images.test:{server.port}/") == png()
                assert names.asked == ["images.test", "other.test"]

    run(scenario)


async def drip_body(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(response(200, b"", "Content-Length: 5000"))
    await drip(writer)


async def drip_head(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    await drip(writer)


async def drip(writer: asyncio.StreamWriter) -> None:
    for _ in range(200):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silence(request: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def endless(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(response(200, b"", "Transfer-Encoding: chunked"))
    for _ in range(100):
        writer.write(b"2710\r\n" + bytes(10_000) + b"\r\n")
        await writer.drain()


async def endless_head(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000):
        writer.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        await writer.drain()


async def hang_up(request: bytes, writer: asyncio.StreamWriter) -> None:
    return


BOMB = gzip.compress(bytes(10_000_000))

HOSTILE: dict[str, tuple[Reply, type[ImageError]]] = {
    "404": (answering(404, png()), ImageDownloadFailed),
    "500": (answering(500, png()), ImageDownloadFailed),
    "204": (answering(204), ImageDownloadFailed),
    "206": (answering(206, png()), ImageDownloadFailed),
    "304": (answering(304), ImageDownloadFailed),
    "slow body": (drip_body, ImageDownloadFailed),
    "slow head": (drip_head, ImageDownloadFailed),
    "silence": (silence, ImageDownloadFailed),
    "hang-up": (hang_up, ImageDownloadFailed),
    "endless head": (endless_head, ImageDownloadFailed),
    "not HTTP": (lambda _, writer: _write(writer, b"SSH-2.0-x\r\n\r\n"), ImageDownloadFailed),
    "body cut": (answering(200, png(), "Content-Length: 5000"), ImageDownloadFailed),
    "gzip bomb": (answering(200, BOMB, "Content-Encoding: gzip"), ImageDownloadFailed),
    "gzip bomb, twice": (answering(200, BOMB, "content-encoding: br, gzip"), ImageDownloadFailed),
    "declared too long": (answering(200, b"", "Content-Length: 100001"), ImageTooLarge),
    "endless body": (endless, ImageTooLarge),
    "redirect loop": (redirecting("/"), ImageDownloadFailed),
    "redirect to nowhere": (answering(302), ImageDownloadFailed),
}


SLOW = ("slow body", "slow head", "silence")


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_servers_fail_in_time(name: str) -> None:
    reply, kind = HOSTILE[name]

    async def scenario() -> None:
        async with serving(reply) as server:
            limits = HASTY if name in SLOW else LIMITS
            with pytest.raises(ImageError) as caught:
                async with asyncio.timeout(HASTY.fetch_timeout_s + 60):
                    await fetcher(limits=limits).fetch(f"http://images.test:{server.port}/")
            assert type(caught.value) is kind
            assert "images.test" not in str(caught.value)
            expected = LIMITS.max_redirects + 1 if name == "redirect loop" else 1
            assert len(server.requests) == expected

    run(scenario)


def test_nobody_listens() -> None:
    async def scenario() -> None:
        with socket.socket() as mute:
            mute.bind((PUBLIC_STAND_IN, 0))
            with pytest.raises(ImageDownloadFailed):
                await fetcher().fetch(f"http://images.test:{mute.getsockname()[1]}/")

    run(scenario)


def test_a_slow_resolver_counts_too() -> None:
    async def never(host: str, port: int) -> Sequence[IPAddress]:
        await asyncio.sleep(30)
        return ()

    async def scenario() -> None:
        with pytest.raises(ImageDownloadFailed):
            await ImageFetcher(HASTY, resolver=never).fetch("http://images.test/")

    run(scenario)


def test_at_most_so_many_downloads_at_once() -> None:
    async def scenario() -> None:
        running = peak = 0
        pair = asyncio.Barrier(2)

        async def slow(request: bytes, writer: asyncio.StreamWriter) -> None:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await pair.wait()
            await asyncio.sleep(0.02)
            writer.write(response(200, png()))
            running -= 1

        limits = ImageLimits(max_fetches=2)
        async with serving(slow) as server:
            shared = fetcher(limits=limits)
            url = f"http://images.test:{server.port}/"
            assert await asyncio.gather(*(shared.fetch(url) for _ in range(8))) == [png()] * 8
        assert peak == 2

    run(scenario)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for images.test in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    folder = tmp_path_factory.mktemp("tls")
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=images.test", "-addext", "subjectAltName=DNS:images.test"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run([openssl, *options.split(), *names, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())
    return both


def test_tls_verifies_the_name(certificate: Path) -> None:
    """The connection goes to the address, SNI and the certificate check keep the name."""

    async def scenario() -> None:
        seen: list[str | None] = []
        server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_tls.load_cert_chain(certificate)
        server_tls.sni_callback = lambda _socket, name, _context: seen.append(name)
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with serving(answering(200, png()), tls=server_tls) as server:
            good = f"https://images.test:{server.port}/"
            assert await fetcher(ssl_context=trusting).fetch(good) == png()
            assert seen == ["images.test"]
            with pytest.raises(ImageDownloadFailed):
                await fetcher(ssl_context=trusting).fetch(f"https://other.test:{server.port}/")
            with pytest.raises(ImageDownloadFailed):
                await fetcher().fetch(good)
            assert len(server.requests) == 1

    run(scenario)


GEOMETRY = ImageGeometry(16, 2, 65_536, 512_000)


def test_the_pipeline_takes_urls() -> None:
    async def scenario() -> None:
        async with (
            serving(answering(200, png(320, 240), "Content-Type: text/html")) as server,
            ImagePipeline(fetcher=fetcher()) as pipeline,
        ):
            url = f"http://images.test:{server.port}/"
            image = await pipeline.prepare(url, geometry=GEOMETRY)
            assert (image.original_size, image.seen_size) == (Size(320, 240), Size(320, 256))
            assert image.times.fetch_ms > 0

    run(scenario)


def test_a_page_instead_of_an_image() -> None:
    async def scenario() -> None:
        async with (
            serving(answering(200, b"<!doctype html><html>")) as server,
            ImagePipeline(fetcher=fetcher()) as pipeline,
        ):
            with pytest.raises(UnsupportedImage):
                await pipeline.prepare(f"http://images.test:{server.port}/", geometry=None)

    run(scenario)


def test_urls_can_be_switched_off() -> None:
    async def scenario() -> None:
        async with canary() as target, ImagePipeline() as pipeline:
            with pytest.raises(InvalidImageUrl, match="ALLOW_REMOTE_IMAGES"):
                await pipeline.prepare(f"http://127.0.0.1:{target.port}/", geometry=None)

    run(scenario)


def test_a_url_in_base64_is_not_fetched() -> None:
    """Only the reference itself is a URL; what it contains is data."""

    async def scenario() -> None:
        async with canary() as target, ImagePipeline(fetcher=fetcher()) as pipeline:
            inner = base64.b64encode(f"http://127.0.0.1:{target.port}/".encode()).decode()
            with pytest.raises(ImageError):
                await pipeline.prepare(f"data:image/png;base64,{inner}", geometry=None)

    run(scenario)


def test_a_cancelled_fetch_closes_its_connection() -> None:
    async def scenario() -> None:
        started, closed = asyncio.Event(), asyncio.Event()

        async def watched(request: bytes, writer: asyncio.StreamWriter) -> None:
            started.set()
            try:
                await drip_head(request, writer)
            except OSError:
                closed.set()

        async with serving(watched) as server:
            task = asyncio.create_task(fetcher().fetch(f"http://images.test:{server.port}/"))
            await asyncio.wait_for(started.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(closed.wait(), 30)

    run(scenario)
