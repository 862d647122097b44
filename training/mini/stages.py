"""The curriculum: what each stage shows, what it weighs, and when it is done."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from training.mini.batches import Supply
from training.mini.losses import Weights
from training.mini.screens import ScreenStyle

PLAIN = ScreenStyle(layout="dense", sizes=(13, 15))


@dataclass(frozen=True, slots=True)
class Stage:
    """Train until `figure` (running mean) reaches `goal` or `minutes` of training have passed.

    `decay` lets the learning rate fall linearly to `floor` of its peak over the minutes. `places`
    lays the channel of `places` when the stage begins, `offsets` refines it (`install_offsets`).
    Each update sums the gradients of `gathered` batches.
    """

    name: str
    supply: Supply
    weights: Weights
    figure: str
    goal: float
    minutes: float
    peak_lr: float = 2e-3
    depth: int = 6
    decay: bool = False
    floor: float = 0.1
    places: bool = False
    offsets: bool = False
    gathered: int = 1
    seed: int = 1


COLOURED = ScreenStyle(fonts="few", layout="dense", sizes=(12, 16), coloured=True, bold_share=0.1)
CONTROLS = replace(COLOURED, layout="mixed", resized_share=0.3)
VARIED = replace(COLOURED, fonts="all", bold_share=0.2)
MIXED = replace(VARIED, layout="mixed", resized_share=0.3)
APPLICATIONS = replace(MIXED, sizes=(12, 17), tk_share=0.15, accents=0.35)
ENLARGED = replace(APPLICATIONS, sizes=(17, 23))
"""Text as it is seen where the model's processor scales a screenshot of pixel ratio 2 down."""

PAGES = os.environ.get("MINI_PAGES", "pages")

SCREENS = Supply(
    canvases=(
        *((256, 128, 16), (416, 256, 6), (512, 384, 4)),
        *((640, 384, 3), (640, 384, 3), (640, 416, 3)),
    ),
    styles=(COLOURED, CONTROLS, CONTROLS),
    per_screen=4,
    phrases=0.5,
    rendered=0.4,
    pages=PAGES,
)

WIDE = replace(
    SCREENS,
    canvases=(
        *((256, 128, 16), (256, 128, 16), (416, 256, 6), (416, 256, 6), (512, 384, 4)),
        *((640, 384, 3), (640, 384, 3), (640, 384, 3), (640, 384, 3), (640, 416, 3)),
        *((800, 608, 2), (864, 544, 2), (512, 928, 2)),
    ),
    styles=(VARIED, APPLICATIONS, APPLICATIONS, APPLICATIONS, ENLARGED),
    phrases=0.35,
    rendered=0.55,
    described=0.2,
)

EVERYTHING = replace(
    WIDE,
    styles=(
        replace(VARIED, fonts="wide"),
        *(replace(style, fonts="wide") for style in (MIXED, APPLICATIONS, APPLICATIONS, ENLARGED)),
    ),
    described=0.3,
)

LAST = replace(
    EVERYTHING,
    canvases=(
        *((256, 128, 16), (416, 256, 6), (416, 256, 6), (512, 384, 4)),
        *((640, 384, 3), (640, 384, 3), (640, 384, 3), (640, 384, 3), (640, 416, 3)),
        *((800, 608, 2), (800, 608, 2), (864, 544, 2), (512, 928, 2)),
    ),
    rendered=0.5,
    grain=2,
)

ON_EVERYTHING = Stage(
    name="everything",
    supply=EVERYTHING,
    weights=Weights(
        reading=1.0, place=0.3, where=0.3, pointing=0.5, answer=1.0, attention=0.7, look=0.3
    ),
    figure="hit",
    goal=0.999,
    minutes=50,
    peak_lr=3.5e-4,
    decay=True,
    floor=0.0,
    gathered=2,
    offsets=True,
    seed=2,
)

STAGES: tuple[Stage, ...] = (
    Stage(
        name="read-one",
        supply=Supply(canvases=((256, 128, 32),), styles=(PLAIN,)),
        weights=Weights(),
        figure="read",
        goal=0.72,
        minutes=20,
        depth=3,
    ),
    Stage(
        name="read-few",
        supply=Supply(
            canvases=((256, 128, 24), (192, 160, 24)),
            styles=(COLOURED, COLOURED, COLOURED, CONTROLS),
            rendered=0.15,
            pages=PAGES,
        ),
        weights=Weights(),
        figure="read",
        goal=0.76,
        minutes=18,
        depth=4,
    ),
    Stage(
        name="ground-small",
        supply=Supply(
            canvases=((256, 128, 20), (192, 160, 20), (320, 192, 10)),
            styles=(COLOURED, COLOURED, CONTROLS, CONTROLS),
            per_screen=2,
            rendered=0.3,
            pages=PAGES,
        ),
        weights=Weights(
            reading=1.0, place=0.3, where=2.0, spelling=0.3, pointing=0.6, answer=0.8, attention=0.5
        ),
        figure="hit",
        goal=0.85,
        minutes=15,
        peak_lr=1.5e-3,
        depth=4,
    ),
    Stage(
        name="ground-middle",
        supply=Supply(
            canvases=((256, 128, 20), (320, 192, 10), (416, 256, 6)),
            styles=(COLOURED, CONTROLS, CONTROLS),
            per_screen=2,
            rendered=0.35,
            pages=PAGES,
        ),
        weights=Weights(
            reading=1.0, place=0.3, where=1.0, spelling=0.1, pointing=0.5, answer=0.7, attention=0.7
        ),
        figure="hit",
        goal=0.75,
        minutes=10,
        peak_lr=1e-3,
        depth=4,
    ),
    Stage(
        name="ground-screen",
        supply=SCREENS,
        weights=Weights(
            reading=1.0, place=0.3, where=1.0, spelling=0.1, pointing=0.5, answer=1.0, attention=0.7
        ),
        figure="hit",
        goal=0.99,
        minutes=16,
        peak_lr=7e-4,
        depth=4,
        decay=True,
        places=True,
    ),
    Stage(
        name="polish",
        supply=replace(SCREENS, phrases=0.4, rendered=0.5),
        weights=Weights(reading=1.0, place=0.3, where=1.0, pointing=0.5, answer=1.0, attention=0.7),
        figure="hit",
        goal=0.99,
        minutes=9,
        peak_lr=4e-4,
        depth=4,
        decay=True,
        places=True,
    ),
    Stage(
        name="widen",
        supply=replace(SCREENS, styles=(VARIED, MIXED, MIXED), phrases=0.35, rendered=0.5),
        weights=Weights(reading=1.0, place=0.3, where=1.0, pointing=0.5, answer=1.0, attention=0.7),
        figure="hit",
        goal=0.99,
        minutes=9.5,
        peak_lr=5e-4,
        offsets=True,
    ),
    Stage(
        name="wide",
        supply=WIDE,
        weights=Weights(
            reading=1.0, place=0.3, where=0.3, pointing=0.5, answer=1.0, attention=0.7, look=0.2
        ),
        figure="hit",
        goal=0.995,
        minutes=70,
        peak_lr=5e-4,
        decay=True,
        floor=0.0,
        gathered=2,
        offsets=True,
    ),
    ON_EVERYTHING,
    replace(ON_EVERYTHING, name="last", supply=LAST, minutes=88, seed=3),
    replace(
        ON_EVERYTHING,
        name="describe",
        supply=replace(LAST, described=0.45, rendered=0.4),
        weights=replace(ON_EVERYTHING.weights, look=1.0),
        minutes=48,
        peak_lr=3e-4,
        seed=4,
    ),
)
