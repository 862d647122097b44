"""Free fonts from Debian packages: which are trained on, which are held out."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from typing import Literal

from PIL import ImageFont

FontSet = Literal["one", "few", "all", "wide", "held_out"]

FEW = ("DejaVu Sans", "Liberation Sans", "Roboto", "Open Sans")
ALL = (*FEW, "Inter", "Noto Sans", "Cantarell", "FreeSans", "Nimbus Sans")
WIDE = (
    *(*ALL, *ALL),
    *("Cabin", "Karla", "Andika", "Play", "DejaVu Sans Condensed", "Noto Sans Display"),
    *("DejaVu Serif", "Liberation Serif", "Noto Serif", "URW Gothic", "DejaVu Sans Mono"),
)
"""Each family of ALL twice as often as the others, which are there to teach new shapes."""

HELD_OUT = ("Lato", "Carlito")
FAMILIES: dict[FontSet, tuple[str, ...]] = {
    "one": ("DejaVu Sans",),
    "few": FEW,
    "all": ALL,
    "wide": WIDE,
    "held_out": HELD_OUT,
}


@dataclass(frozen=True, slots=True)
class Face:
    """A sized font with the advance width of each printable ASCII character, in px."""

    font: ImageFont.FreeTypeFont
    ascent: int
    descent: int
    advances: dict[str, float]

    def width(self, text: str) -> float:
        """Advance width of `text` in px."""
        return sum(self.advances[char] for char in text)

    def centres(self, text: str, x0: float) -> tuple[float, ...]:
        """Horizontal centre of each character when the text starts at `x0`, in px."""
        places: list[float] = []
        for char in text:
            advance = self.advances[char]
            places.append(x0 + advance / 2)
            x0 += advance
        return tuple(places)


@cache
def font_file(family: str, bold: bool) -> str:
    """The file fontconfig chooses for a family."""
    pattern = f"{family}:style={'Bold' if bold else 'Regular'}"
    command = ["fc-match", "-f", "%{file}|%{family}", pattern]
    path, found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
        "|"
    )
    if family not in found:
        raise FileNotFoundError(f"font {family!r} is not installed (fontconfig offers {found!r})")
    return path


@cache
def face(family: str, size_px: int, bold: bool = False) -> Face:
    """Load a font once per size, in px."""
    font = ImageFont.truetype(
        font_file(family, bold), size_px, layout_engine=ImageFont.Layout.BASIC
    )
    ascent, descent = font.getmetrics()
    advances = {chr(code): font.getlength(chr(code)) for code in range(32, 127)}
    return Face(font, ascent, descent, advances)
