"""Whatever is sent as an image, the gateway answers 200 or 400, and nothing piles up.

``make soak`` runs the random ones for longer: ``SOAK_EXAMPLES`` says how many each.
"""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from belvedere.images.geometry import ImageGeometry
from belvedere.router.replica import Model
from belvedere.testing import FakeEngine, Script
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until

CHAT = "/v1/chat/completions"
GROUNDER = Model("fake", 0, ImageGeometry(16, 2, 65_536, 512_000))
CODES = {
    "image_parse_error",
    "image_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
    "invalid_base64_image",
    "invalid_image_url",
    "failed_to_download_image",
}
EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "80"))
random_input = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with (
        FakeEngine(Script(tokens=1)) as engine,
        gateway_for(engine, model=GROUNDER, media_bytes=10**6) as client,
    ):
        yield client


def saved(image_format: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    noise = Image.merge("RGB", [Image.effect_noise((90, 70), 60) for _ in range(3)])
    noise.convert(mode).save(stream, image_format, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def claimed_png(width: int, height: int) -> bytes:
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    idat = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + ihdr + idat + chunk(b"IEND", b"")


def as_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def ask(client: httpx2.Client, reference: str) -> httpx2.Response:
    part = {"type": "image_url", "image_url": {"url": reference}}
    return client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})


def check(response: httpx2.Response) -> None:
    """An answer, or a refusal that names the part and says nothing of the inside."""
    if response.status_code == 200:
        return
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] in CODES
    assert error["param"] == "messages.0.content.0.image_url"
    assert not any(word in error["message"] for word in ("Traceback", "vips", "PIL", "object at"))


SOUND = [
    saved("PNG"),
    saved("PNG", "RGBA"),
    saved("PNG", "P"),
    saved("PNG", "L"),
    saved("JPEG"),
    saved("JPEG", "CMYK"),
    saved("WEBP"),
    saved("GIF"),
    saved("BMP"),
    saved("TIFF", compression="tiff_deflate"),
]


@given(st.sampled_from(SOUND), st.data())
@random_input
def test_damaged_files(client: httpx2.Client, sample: bytes, draw: st.DataObject) -> None:
    data = bytearray(sample[: draw.draw(st.integers(1, len(sample)))])
    for _ in range(draw.draw(st.integers(0, 8))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    check(ask(client, as_url(bytes(data))))


@given(st.sampled_from(SOUND[:2]), st.data())
@random_input
def test_damage_behind_a_sound_checksum(
    client: httpx2.Client, sample: bytes, draw: st.DataObject
) -> None:
    """The checksums are made to fit, so that the decoder itself meets the damage."""
    start = sample.index(b"IDAT") + 4
    length = int.from_bytes(sample[start - 8 : start - 4], "big")
    body = bytearray(sample[start : start + length])
    for _ in range(draw.draw(st.integers(1, 6))):
        body[draw.draw(st.integers(0, len(body) - 1))] = draw.draw(st.integers(0, 255))
    kept = bytes(body[: draw.draw(st.integers(0, len(body)))])
    check(ask(client, as_url(sample[: start - 8] + chunk(b"IDAT", kept) + sample[-12:])))


@given(st.text(st.characters(codec="utf-8"), max_size=80), st.sampled_from(["", "data:", "http"]))
@random_input
def test_any_reference(client: httpx2.Client, text: str, prefix: str) -> None:
    response = ask(client, prefix + text)
    assert response.status_code == 400
    check(response)


@given(st.binary(max_size=300), st.sampled_from(["", "\n", "%0A", "=", " "]), st.integers(0, 400))
@random_input
def test_any_payload(client: httpx2.Client, data: bytes, extra: str, place: int) -> None:
    text = base64.b64encode(data).decode()
    response = ask(client, f"data:image/png;base64,{text[:place]}{extra}{text[place:]}")
    assert response.status_code == 400
    check(response)


BAD: list[str] = [
    *(as_url(data[: len(data) // 2]) for data in SOUND if data[:2] != b"BM"),
    as_url(claimed_png(30_000, 30_000)),
    as_url(claimed_png(0, 0)),
    as_url(claimed_png(1, 20_000)),
    as_url(b"%PDF-1.7"),
    as_url(b"<svg/>"),
    as_url(b"hello"),
    "data:image/png;base64,%%%",
    "data:image/png;base64,",
    "file:///etc/passwd",
    "http://127.0.0.1:9/a.png",
    "http://0x7f.1/a.png",
]


def test_a_thousand_bad_images_leave_nothing_behind(client: httpx2.Client) -> None:
    """Memory, descriptors and threads of the whole process stay flat; a good image is served."""
    process = psutil.Process()
    client.headers["connection"] = "close"  # both ends of kept connections are in this process

    def send(reference: str) -> int:
        return ask(client, reference).status_code

    def open_files() -> int:
        return int(process.num_fds())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, BAD * 15)) == {400}
        used_bytes, files, threads = process.memory_info().rss, open_files(), process.num_threads()
        assert set(pool.map(send, BAD * (1000 // len(BAD) + 1))) == {400}
        assert process.memory_info().rss - used_bytes < 20 * 1024**2
        assert wait_until(lambda: open_files() - files <= 2)
        assert wait_until(lambda: process.num_threads() - threads <= 2)
    assert ask(client, as_url(SOUND[0])).status_code == 200
