"""Image files built by hand, where Pillow cannot write them or would hide what is in them."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def raw_png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2, extra: bytes = b""
) -> bytes:
    """`rows` are the unfiltered samples; `extra` are chunks between IHDR and IDAT."""
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    idat = chunk(b"IDAT", zlib.compress(filtered))
    return PNG_MAGIC + ihdr(width, height, depth, colour) + extra + idat + chunk(b"IEND", b"")


def claimed_png(width: int, height: int) -> bytes:
    """A tiny PNG that claims a size and has almost no data."""
    idat = chunk(b"IDAT", zlib.compress(b""))
    return PNG_MAGIC + ihdr(width, height) + idat + chunk(b"IEND", b"")


def saved(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    """An image in which every pixel, side and channel differs."""
    horizontal = Image.linear_gradient("L").rotate(90).resize((width, height))
    vertical = Image.linear_gradient("L").resize((width, height))
    diagonal = Image.radial_gradient("L").resize((width, height))
    return Image.merge("RGB", (horizontal, vertical, diagonal))


def noise(width: int, height: int, *, sigma: float = 80, mode: str = "RGB") -> Image.Image:
    """No two pixels have anything to do with each other; the same ones each time.

    Normally distributed around 128, as Pillow's `effect_noise`, which cannot be seeded.
    """
    spread = NormalDist(128, sigma)
    levels = [spread.inv_cdf((level + 0.5) / 256) for level in range(256)]
    table = bytes(min(255, max(0, round(value))) for value in levels)
    samples = random.Random(1).randbytes(width * height * len(mode)).translate(table)
    return Image.frombytes(mode, (width, height), samples)


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block with nothing but the orientation."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return magic + struct.pack(order + "IH", 8, 1) + entry + struct.pack(order + "I", 0)


def matrix_profile(columns: Sequence[Sequence[float]], gamma: float, name: str) -> bytes:
    """An ICC profile of an RGB display: D50-adapted primaries and one gamma."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    text = name.encode() + b"\0"
    desc = b"desc" + struct.pack(">II", 0, len(text)) + text + bytes(78)
    tags = [(b"desc", desc), (b"cprt", b"text\0\0\0\0none\0"), (b"wtpt", _xyz(0.9642, 1, 0.8249))]
    for letter, column in zip(b"rgb", columns, strict=True):
        tags += [(bytes([letter]) + b"XYZ", _xyz(*column)), (bytes([letter]) + b"TRC", curve)]
    table, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags:
        padded = content + bytes(-len(content) % 4)
        offset = 132 + 12 * len(tags) + len(body)
        table += tag + struct.pack(">II", offset, len(content))
        body += padded
    size = 128 + len(table) + len(body)
    head = struct.pack(">I", size) + b"none\x02\x40\0\0mntrRGB XYZ " + bytes(12) + b"acsp"
    head += bytes(28) + _xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + table + body


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in (x, y, z)))
