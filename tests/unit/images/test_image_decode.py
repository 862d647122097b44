"""Each accepted kind of image has golden pixels; each bad one an error of its own."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import (
    PNG_MAGIC,
    chunk,
    claimed_png,
    exif,
    gradient,
    ihdr,
    matrix_profile,
    noise,
    raw_png,
    saved,
)
from PIL import Image, ImageCms, ImageOps

from belvedere.errors import (
    BelvedereError,
    EmptyImage,
    ImageError,
    ImageTooLarge,
    UnsupportedImage,
)
from belvedere.images import vips
from belvedere.images.decode import decode, inspect, ready_decoders
from belvedere.images.limits import ImageLimits

LIMITS = ImageLimits()
RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)


def decoded(data: bytes) -> Image.Image:
    return decode(inspect(data, LIMITS), LIMITS).pixels.to_pillow()


def first_pixel(data: bytes) -> object:
    return decoded(data).getpixel((0, 0))


def palette_png(transparency: bytes) -> bytes:
    extra = chunk(b"PLTE", bytes(RED + GREEN)) + chunk(b"tRNS", transparency)
    return raw_png(2, 1, b"\0\1", colour=3, extra=extra)


def gif(*colours: tuple[int, int, int]) -> bytes:
    first, *others = (Image.new("RGB", (4, 4), colour) for colour in colours)
    return saved(first, "GIF", save_all=True, append_images=others)


def animation(image_format: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), BLUE)]
    return saved(
        frames[0], image_format, save_all=True, append_images=frames[1:], duration=9, lossless=True
    )


GOLDEN: dict[str, tuple[bytes, object]] = {
    "RGB PNG": (raw_png(1, 1, bytes((10, 20, 30))), (10, 20, 30)),
    "grey PNG": (raw_png(1, 1, b"\x4d", colour=0), (77, 77, 77)),
    "1-bit PNG, white": (raw_png(1, 1, b"\x80", depth=1, colour=0), WHITE),
    "1-bit PNG, black": (raw_png(1, 1, b"\x00", depth=1, colour=0), BLACK),
    "2-bit grey PNG": (raw_png(1, 1, b"\x80", depth=2, colour=0), (170, 170, 170)),
    "16-bit grey PNG": (
        raw_png(1, 1, struct.pack(">H", 40000), depth=16, colour=0),
        (156, 156, 156),
    ),
    "16-bit RGB PNG": (
        raw_png(1, 1, struct.pack(">HHH", 40000, 65535, 300), depth=16),
        (156, 255, 1),
    ),
    "16-bit RGBA PNG": (
        raw_png(1, 1, struct.pack(">HHHH", 40000, 0, 0, 65535), depth=16, colour=6),
        (156, 0, 0),
    ),
    "16-bit grey and alpha PNG": (
        raw_png(1, 1, struct.pack(">HH", 40000, 65535), depth=16, colour=4),
        (156, 156, 156),
    ),
    "RGBA PNG, opaque": (raw_png(1, 1, bytes((9, 8, 7, 255)), colour=6), (9, 8, 7)),
    "RGBA PNG, clear": (raw_png(1, 1, bytes((9, 8, 7, 0)), colour=6), WHITE),
    "RGBA PNG, half": (raw_png(1, 1, bytes((255, 0, 0, 128)), colour=6), (255, 127, 127)),
    "grey and alpha PNG, half": (raw_png(1, 1, bytes((0, 128)), colour=4), (127, 127, 127)),
    "RGB PNG with a clear colour": (
        raw_png(1, 1, bytes(RED), extra=chunk(b"tRNS", b"\0\xff\0\0\0\0")),
        WHITE,
    ),
    "palette PNG": (
        raw_png(1, 1, b"\1", colour=3, extra=chunk(b"PLTE", bytes(RED + GREEN))),
        GREEN,
    ),
    "palette PNG, clear": (palette_png(b"\x00"), WHITE),
    "palette PNG, half": (palette_png(b"\x80"), (255, 127, 127)),
    "CMYK JPEG, no ink": (saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), WHITE),
    "CMYK JPEG, key only": (saved(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"), BLACK),
    "CMYK JPEG, magenta and yellow": (
        saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100),
        RED,
    ),
    "CMYK TIFF": (saved(Image.new("CMYK", (2, 2), (255, 0, 255, 0)), "TIFF"), GREEN),
    "grey JPEG": (saved(Image.new("L", (8, 8), 99), "JPEG", quality=100), (99, 99, 99)),
    "RGB JPEG": (saved(Image.new("RGB", (8, 8), "white"), "JPEG"), WHITE),
    "GIF": (gif(BLUE), BLUE),
    "animated GIF": (gif(RED, BLUE, GREEN), RED),
    "animated WebP": (animation("WEBP"), RED),
    "animated PNG": (animation("PNG"), RED),
    "lossy WebP": (saved(Image.new("RGB", (16, 16), "white"), "WEBP"), WHITE),
    "lossless WebP": (saved(Image.new("RGB", (3, 5), BLUE), "WEBP", lossless=True), BLUE),
    "WebP with alpha": (saved(Image.new("RGBA", (3, 5), (0, 0, 0, 0)), "WEBP"), WHITE),
    "BMP": (saved(Image.new("RGB", (3, 5), GREEN), "BMP"), GREEN),
    "1-bit BMP": (saved(Image.new("1", (3, 5), 1), "BMP"), WHITE),
    "TIFF": (saved(Image.new("RGB", (3, 5), BLUE), "TIFF", compression="tiff_lzw"), BLUE),
    "16-bit grey TIFF": (saved(Image.new("I;16", (2, 2), 40000), "TIFF"), (156, 156, 156)),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_pixels(name: str) -> None:
    """Every accepted kind of file shows the colour that a viewer would show."""
    data, pixel = GOLDEN[name]
    assert first_pixel(data) == pixel


def in_png(orientation: int) -> bytes:
    image = gradient()
    return raw_png(
        64,
        48,
        image.tobytes(),
        extra=chunk(b"eXIf", exif(orientation, "<" if orientation % 2 else ">")),
    )


def in_webp(orientation: int) -> bytes:
    return saved(gradient(), "WEBP", lossless=True, exif=b"Exif\0\0" + exif(orientation))


def in_jpeg(orientation: int) -> bytes:
    return saved(
        gradient(), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0" + exif(orientation)
    )


def in_tiff(orientation: int) -> bytes:
    return saved(gradient(), "TIFF", tiffinfo={0x0112: orientation})


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("build", [in_png, in_webp, in_jpeg, in_tiff])
def test_exif_orientation(build: Callable[[int], bytes], orientation: int) -> None:
    """The image stands upright for each of the eight orientations, in each format with EXIF."""
    data = build(orientation)
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened)
    assert decoded(data).tobytes() == expected.convert("RGB").tobytes()
    assert decoded(data).size == ((48, 64) if orientation >= 5 else (64, 48))


@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*" + bytes(20), exif(9), exif(0), exif(6)[:-9]],
)
def test_damaged_exif_is_ignored(block: bytes) -> None:
    data = raw_png(64, 48, gradient().tobytes(), extra=chunk(b"eXIf", block))
    assert decoded(data).tobytes() == gradient().tobytes()


def test_servers_can_silence_the_decoder() -> None:
    """Pillow warns about this EXIF block; pytest would make that an error."""
    data = saved(gradient(), "JPEG", exif=b"Exif\0\0" + exif(1)[:-9])
    with warnings.catch_warnings():
        ready_decoders()
        assert decoded(data).size == (64, 48)


QUIET = """
import logging, sys, zlib
sys.path.insert(0, {folder!r})
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from belvedere.images import vips
from belvedere.images.decode import ready_decoders
from image_files import PNG_MAGIC, chunk, gradient, ihdr, raw_png, saved
ready_decoders()
logging.disable(logging.DEBUG)
cut = PNG_MAGIC + ihdr(64, 48) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
for data in (cut, saved(gradient())[:500], raw_png(64, 48, gradient().tobytes(),
             extra=chunk(b"iCCP", b"secret\\0\\0x")), b"", b"secret"):
    vips.decode_png(data, 64, 48, 3)
"""


def test_libvips_says_nothing_of_what_it_met(request: pytest.FixtureRequest) -> None:
    """Not on stderr and not in the log: senders would choose the words."""
    script = QUIET.format(folder=str(request.path.parent))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=500
    )
    assert done.stderr == ""
    assert "secret" not in done.stdout
    assert "WARNING" not in done.stdout


P3_TO_XYZ = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
XYZ_TO_SRGB = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)


def srgb_of_p3(colour: tuple[int, int, int]) -> list[float]:
    """Source: the colorimetric formula; D50 matrices of Display P3 and sRGB (Lindbloom)."""
    linear = [(value / 255) ** 2.2 for value in colour]
    xyz = [sum(P3_TO_XYZ[c][row] * linear[c] for c in range(3)) for row in range(3)]
    out = [min(1.0, max(0.0, sum(row[i] * xyz[i] for i in range(3)))) for row in XYZ_TO_SRGB]
    return [255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055) for v in out]


@pytest.mark.parametrize("colour", [(200, 100, 50), (120, 180, 90), (60, 60, 200), (255, 255, 255)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile_is_applied(colour: tuple[int, int, int], mode: str) -> None:
    """Display P3 pixels become the sRGB pixels that look the same."""
    profile = matrix_profile(P3_TO_XYZ, 2.2, "Display P3")
    image = Image.new("RGB", (4, 4), colour)
    image = image.quantize() if mode == "P" else image.convert(mode)
    data = saved(image, icc_profile=profile)
    pixel = first_pixel(data)
    assert pixel == pytest.approx(srgb_of_p3(colour), abs=3)
    assert pixel != colour or colour == WHITE


def test_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decoded(saved(gradient(), icc_profile=profile)).tobytes() == gradient().tobytes()


@pytest.mark.parametrize(
    "profile",
    [b"x", bytes(128), matrix_profile(P3_TO_XYZ, 2.2, "cut")[:150]],
    ids=["a byte", "zeros", "cut off"],
)
def test_broken_profile_is_ignored(profile: bytes) -> None:
    assert decoded(saved(gradient(), icc_profile=profile)).tobytes() == gradient().tobytes()


def test_profile_of_another_colour_space_is_ignored() -> None:
    profile = matrix_profile(P3_TO_XYZ, 2.2, "RGB profile on grey")
    assert first_pixel(saved(Image.new("L", (4, 4), 77), icc_profile=profile)) == (77, 77, 77)


def test_one_pixel_is_an_image() -> None:
    """The processor enlarges it; only the ratio counts."""
    assert decoded(raw_png(1, 1, bytes(RED))).size == (1, 1)


def bad_idat_crc() -> bytes:
    """Sound pixels, of which Pillow does not verify the checksum."""
    good = saved(gradient())
    return good[:-16] + bytes(4) + good[-12:]


def damaged_idat() -> bytes:
    good = saved(gradient())
    at = good.index(b"IDAT") + 30
    return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]


def short_idat() -> bytes:
    """Well-formed chunks around half of the compressed pixels."""
    packed = zlib.compress(gradient(400, 300).tobytes())
    idat = chunk(b"IDAT", packed[: len(packed) // 2])
    return PNG_MAGIC + ihdr(400, 300) + idat + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1024**2)) for _ in range(80)) + packer.flush()
    return raw_png(1, 1, bytes(RED), extra=chunk(b"zTXt", b"Comment\0\0" + packed))


def many_frames() -> bytes:
    good = gif(RED)
    frame = good[good.index(b",", 13) : -1]
    return good[:-1] + frame * LIMITS.max_frames + b";"


def long_apng() -> bytes:
    return raw_png(1, 1, bytes(RED), extra=chunk(b"acTL", struct.pack(">II", 10**6, 0)))


JPEG = saved(gradient(400, 300), "JPEG")
WEBP = saved(gradient(400, 300), "WEBP")

REJECTED: dict[str, tuple[Callable[[], bytes], type[ImageError]]] = {
    "no bytes": (lambda: b"", EmptyImage),
    "too many bytes": (lambda: PNG_MAGIC + bytes(LIMITS.max_encoded_bytes), ImageTooLarge),
    "PNG IDAT cut": (lambda: saved(gradient(400, 300))[:3000], ImageError),
    "PNG short IDAT": (short_idat, ImageError),
    "PNG bad CRC in IDAT": (bad_idat_crc, ImageError),
    "PNG damaged IDAT": (damaged_idat, ImageError),
    "PNG bad CRC in IHDR": (
        lambda: PNG_MAGIC + chunk(b"IHDR", bytes(13), crc=1) + chunk(b"IEND", b""),
        ImageError,
    ),
    "PNG without IHDR": (lambda: PNG_MAGIC + chunk(b"IEND", b""), ImageError),
    "PNG without IDAT": (lambda: PNG_MAGIC + ihdr(4, 4) + chunk(b"IEND", b""), ImageError),
    "PNG magic only": (lambda: PNG_MAGIC, ImageError),
    "PNG chunk length 4 GiB": (lambda: PNG_MAGIC + b"\xff" * 40, ImageError),
    "PNG 80 MB zTXt": (text_bomb, ImageError),
    "PNG invalid colour type": (
        lambda: PNG_MAGIC + ihdr(4, 4, 8, 5) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        ImageError,
    ),
    "0x0": (lambda: claimed_png(0, 0), ImageError),
    "0x5": (lambda: claimed_png(0, 5), ImageError),
    "30000x30000": (lambda: claimed_png(30000, 30000), ImageTooLarge),
    "2**31 a side": (lambda: claimed_png(2**31, 2**31), ImageTooLarge),
    "1x20000": (lambda: claimed_png(1, 20000), ImageTooLarge),
    "1x201": (lambda: claimed_png(1, 201), ImageTooLarge),
    "side 40000": (lambda: claimed_png(40000, 1000), ImageTooLarge),
    "BMP 30000x30000": (
        lambda: (
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 30000, 30000, 1, 24, *[0] * 6)
        ),
        ImageTooLarge,
    ),
    "GIF 30000x30000": (
        lambda: b"GIF89a" + struct.pack("<HH", 30000, 30000) + gif(RED)[10:],
        ImageTooLarge,
    ),
    "GIF frame outside": (
        lambda: b"GIF89a" + bytes(7) + b"," + b"\xff" * 8 + bytes(9),
        ImageTooLarge,
    ),
    "GIF without frame": (lambda: gif(RED)[:12], ImageError),
    "GIF 1001 frames": (many_frames, ImageTooLarge),
    "APNG 10**6 frames": (long_apng, ImageTooLarge),
    "WebP 16M x 16M": (
        lambda: b"RIFF\0\0\0\0WEBPVP8X" + b"\n\0\0\0" + b"\0\0\0\0" + b"\xff" * 6,
        ImageTooLarge,
    ),
    "WebP cut": (lambda: WEBP[: len(WEBP) // 2], ImageError),
    "WebP of 14 bytes": (lambda: WEBP[:14], ImageError),
    "JPEG cut": (lambda: JPEG[: len(JPEG) // 2], ImageError),
    "JPEG magic only": (lambda: b"\xff\xd8\xff", ImageError),
    "TIFF magic only": (lambda: b"II*\0", ImageError),
    "TIFF cut": (lambda: saved(gradient(), "TIFF")[:60], ImageError),
    "BMP magic only": (lambda: b"BM", ImageError),
    "32-bit TIFF": (lambda: saved(Image.new("F", (2, 2), 0.5), "TIFF"), UnsupportedImage),
    "SVG": (lambda: b'<?xml version="1.0"?><svg xmlns="a"/>', UnsupportedImage),
    "SVG after a byte order mark": (lambda: b"\xef\xbb\xbf\n <SVG/>", UnsupportedImage),
    "HTML": (lambda: b"<!DOCTYPE html><html></html>", UnsupportedImage),
    "XML": (lambda: b"<?xml version='1.0'?><a/>", UnsupportedImage),
    "PDF": (lambda: b"%PDF-1.7\n", UnsupportedImage),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic" + bytes(12), UnsupportedImage),
    "AVIF": (lambda: b"\0\0\0\x18ftypavif" + bytes(12), UnsupportedImage),
    "MP4": (lambda: b"\0\0\0\x18ftypisom" + bytes(12), UnsupportedImage),
    "icon": (lambda: b"\0\0\1\0" + bytes(20), UnsupportedImage),
    "ZIP": (lambda: b"PK\x03\x04" + bytes(20), UnsupportedImage),
    "text": (lambda: b"hello", UnsupportedImage),
    "noise": (lambda: bytes(range(200, 256)), UnsupportedImage),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0", UnsupportedImage),
    "RIFF that is a WAV": (lambda: b"RIFF\0\0\0\0WAVEfmt ", UnsupportedImage),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_with_its_own_error(name: str) -> None:
    """A bad image is a 400 of the documented code, and its text is ours."""
    build, kind = REJECTED[name]
    with pytest.raises(ImageError) as caught:
        decoded(build())
    assert type(caught.value) is kind
    assert caught.value.status == 400
    text = str(caught.value.body())
    assert not re.search(r"(?<!\d)0x[0-9a-f]{5}|object at|PIL|BytesIO|Traceback|broken PNG", text)


def test_unsupported_names_what_is_and_what_would_be() -> None:
    with pytest.raises(UnsupportedImage) as caught:
        inspect(b"%PDF-1.7", LIMITS)
    assert "PDF" in str(caught.value)
    assert "PNG, JPEG, WebP, GIF, BMP and TIFF" in str(caught.value)


@pytest.mark.parametrize("image_format", ["TIFF", "GIF", "WEBP", "PNG"])
def test_frames_are_counted_and_the_first_is_used(image_format: str) -> None:
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE))
    data = saved(first, image_format, save_all=True, append_images=others)
    assert inspect(data, ImageLimits(max_frames=3)).format.name == image_format
    with pytest.raises(ImageTooLarge, match="more than 2 frames"):
        inspect(data, ImageLimits(max_frames=2))


BOMBS = """
import resource, struct, sys, zlib
sys.path.insert(0, {folder!r})
from test_image_decode import LIMITS, REJECTED, decoded
from belvedere.errors import ImageError
from image_files import raw_png
decoded(raw_png(1, 1, bytes(3)))
bombs = [REJECTED[name][0]() for name in ("30000x30000", "2**31 a side", "BMP 30000x30000",
         "GIF 30000x30000", "GIF frame outside", "WebP 16M x 16M", "PNG 80 MB zTXt")]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in bombs:
    try:
        decoded(data)
    except ImageError:
        continue
    raise SystemExit("accepted")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_take_no_memory(request: pytest.FixtureRequest) -> None:
    """A header that claims gigapixels costs less than 50 MB of resident memory."""
    script = BOMBS.format(folder=str(request.path.parent))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=500
    )
    assert int(done.stdout) < 50 * 1024


def noisy(mode: str, size: tuple[int, int] = (61, 47)) -> Image.Image:
    return noise(*size, sigma=60, mode=mode)


SCREENSHOTS: dict[str, bytes] = {
    "RGB": saved(noisy("RGB")),
    "RGB, best compression": saved(gradient(), optimize=True),
    "RGB, one row": saved(noisy("RGB", (50, 1))),
    "RGB with text": raw_png(64, 48, gradient().tobytes(), extra=chunk(b"tEXt", b"Software\0x")),
    "RGB with gamma": raw_png(64, 48, gradient().tobytes(), extra=chunk(b"gAMA", b"\0\1\x11\x70")),
    "RGB with background": raw_png(64, 48, gradient().tobytes(), extra=chunk(b"bKGD", bytes(6))),
    "RGB with bytes after the end": saved(gradient()) + b"<script>",
    "RGBA": saved(noisy("RGBA")),
    "RGBA, opaque": saved(gradient().convert("RGBA")),
}


@pytest.mark.parametrize("name", SCREENSHOTS)
def test_both_decoders_agree(name: str) -> None:
    """libvips decodes these, to the same pixels as Pillow, bit for bit."""
    data = SCREENSHOTS[name]
    image = inspect(data, LIMITS)
    assert image.header.channels == (4 if "RGBA" in name else 3)
    by_pillow = decode(replace(image, header=replace(image.header, channels=0)), LIMITS).pixels
    assert decode(image, LIMITS).pixels == by_pillow
    width, height, channels = image.header.width, image.header.height, image.header.channels
    assert vips.decode_png(data, width, height, channels) is not None


OTHERS = {
    "profile": saved(gradient(), icc_profile=b"x"),
    "orientation": raw_png(64, 48, gradient().tobytes(), extra=chunk(b"eXIf", exif(6))),
    "clear colour": raw_png(64, 48, gradient().tobytes(), extra=chunk(b"tRNS", bytes(6))),
    "animation": animation("PNG"),
    "16 bit": raw_png(1, 1, bytes(6), depth=16),
    "grey": saved(gradient().convert("L")),
    "palette": saved(gradient().convert("P")),
    "compressed text": raw_png(1, 1, bytes(3), extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(b""))),
    "JPEG": saved(gradient(), "JPEG"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_left_to_pillow(name: str) -> None:
    assert inspect(OTHERS[name], LIMITS).header.channels == 0


@pytest.mark.parametrize(
    ("data", "width", "height", "channels"),
    [(saved(gradient()), 64, 48, 4), (saved(gradient()), 48, 64, 3), (b"", 1, 1, 3),
     (saved(gradient(), "JPEG"), 64, 48, 3), (saved(gradient())[:400], 64, 48, 3),
     (raw_png(1, 1, bytes(6), depth=16), 1, 1, 3)],
)  # fmt: skip
def test_what_libvips_refuses_is_none(data: bytes, width: int, height: int, channels: int) -> None:
    assert vips.decode_png(data, width, height, channels) is None


SAMPLES = [
    saved(gradient()),
    saved(noisy("RGBA")),
    saved(gradient(), "JPEG", exif=b"Exif\0\0" + exif(6)),
    saved(gradient(), "WEBP"),
    saved(gradient().convert("P"), "GIF"),
    saved(gradient(), "BMP"),
    saved(gradient(), "TIFF", compression="tiff_deflate"),
    animation("PNG"),
    animation("WEBP"),
    saved(gradient(), icc_profile=matrix_profile(P3_TO_XYZ, 2.2, "P3")),
]


@given(st.sampled_from(SAMPLES), st.data())
@settings(
    max_examples=int(os.environ.get("SOAK_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_mutated_files_decode_or_are_rejected(sample: bytes, draw: st.DataObject) -> None:
    """No damage to a file raises anything but an image error."""
    data = bytearray(sample[: draw.draw(st.integers(4, len(sample)))])
    for _ in range(draw.draw(st.integers(0, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        decoded(bytes(data))
    except BelvedereError as exc:
        assert isinstance(exc, ImageError)
