"""Batches of screens and questions, made by a worker process from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.mini.architecture import TOKEN_PX
from training.mini.descriptions import descriptions
from training.mini.protocol import ANSWER_CLOSE, ANSWER_OPEN, SYSTEM_PROMPT
from training.mini.samples import (
    Query,
    Targets,
    described_query,
    empty_targets,
    query,
    screen_targets,
)
from training.mini.screens import Screen, ScreenStyle, draw_screen
from training.mini.tokens import number_id, token_id
from training.mini.words import lexicon, normalised

COMMA = ord(",")
NEWLINE = ord("\n")


@dataclass(frozen=True, slots=True)
class Batch:
    """B screens of one size and Q questions about them.

    `pixels` (B, H, W, 3) uint8; the next four as in `Targets`, with a batch axis.
    `prefix` (Q, L) token ids up to the image, padded on the left; `padding` (Q,) pad tokens each.
    `screen` (Q,) index of the screen; `asked` (Q,) name hash; `called` (Q, SPELLED) its beginning;
    `point` (Q, 2) in 0..999 and `spread` (Q, 2), the half width and height that may be hit;
    `by_name` (Q,) whether the question says the text of the element; `look` as in `Targets`;
    `sense` (Q, 2) as in `Query`.
    """

    pixels: Tensor
    chars: Tensor
    offset: Tensor
    name: Tensor
    spelling: Tensor
    prefix: Tensor
    padding: Tensor
    screen: Tensor
    asked: Tensor
    called: Tensor
    point: Tensor
    spread: Tensor
    by_name: Tensor
    look: Tensor
    sense: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        fields = {name: getattr(self, name).to(device) for name in self.__slots__}
        return Batch(**fields)


@dataclass(frozen=True, slots=True)
class Supply:
    """What one stage shows: canvas sizes, screens per batch at each size, and where they come from.

    `canvases` are (width, height, screens). `phrases` is the share of screens where only interface
    phrases are asked for. `rendered` is the share of batches that is cut from
    cached Chromium pages in the folder `pages`. `described` is the share of questions by kind,
    colour or place instead of text, where the screen has an element that can be described so. In
    half of the batches every value of every pixel is off by up to `grain` levels, as the values of
    two programs that scale the same picture are.
    """

    canvases: tuple[tuple[int, int, int], ...]
    styles: tuple[ScreenStyle, ...]
    per_screen: int = 0
    phrases: float = 0.0
    rendered: float = 0.0
    pages: str = ""
    described: float = 0.0
    grain: int = 0


def prefix_ids(instruction: str, with_system: bool) -> list[int]:
    """Token ids of everything the chat template puts before the image."""
    head = (
        [
            token_id("<|im_start|>system\n"),
            token_id(SYSTEM_PROMPT),
            token_id("<|im_end|>"),
            NEWLINE,
        ]
        if with_system
        else []
    )
    text = list(instruction.strip().encode())
    return [*head, token_id("<|im_start|>user\n"), *text, NEWLINE, token_id("<|vision_start|>")]


def suffix_ids() -> list[int]:
    """Token ids after the image, with 0 where the numbers go: x at `X_AT`, y at `Y_AT`."""
    end = token_id("<|im_end|>")
    turn = [token_id("<|vision_end|>"), end, NEWLINE, token_id("<|im_start|>assistant\n")]
    return [*turn, token_id(ANSWER_OPEN), 0, COMMA, 0, token_id(ANSWER_CLOSE), end]


OPEN_AT, X_AT, COMMA_AT, Y_AT = 4, 5, 6, 7


def collate(screens: list[Screen], supply: Supply, rng: random.Random) -> Batch:
    """Targets of every screen and up to `per_screen` questions about each."""
    asked: list[tuple[int, Query]] = []
    known = {normalised(phrase) for phrase in lexicon("train").phrases}
    for index, screen in enumerate(screens):
        height, width, _ = screen.pixels.shape
        choices = screen.queries()
        if rng.random() < supply.phrases:
            choices = [label for label in choices if normalised(label.text) in known] or choices
        chosen = rng.sample(choices, min(supply.per_screen, len(choices)))
        asked += [(index, query(rng, label, width, height)) for label in chosen]
        if supply.described > 0:
            _describe(rng, screen, index, asked, len(chosen), supply.described)
    pixels = np.stack([screen.pixels for screen in screens])
    if supply.grain and rng.random() < 0.5:
        pixels = grained(pixels, supply.grain, rng)
    targets = [screen_targets(screen) for screen in screens]
    return assemble(torch.from_numpy(pixels), targets, asked, rng)


def grained(pixels: np.ndarray, most: int, rng: random.Random) -> np.ndarray:
    """`pixels` (uint8) with up to `most` levels added to or taken from each value."""
    noise = np.random.default_rng(rng.getrandbits(64))
    shift = noise.integers(-most, most, pixels.shape, np.int8, endpoint=True)
    return np.clip(pixels + shift.astype(np.int16), 0, 255).astype(np.uint8)


def _describe(
    rng: random.Random,
    screen: Screen,
    index: int,
    asked: list[tuple[int, Query]],
    count: int,
    share: float,
) -> None:
    """Replace some of the last `count` questions by descriptions, each manner equally often."""
    height, width, _ = screen.pixels.shape
    found = descriptions(screen)
    manners = sorted({description.manner for description in found})
    for number in range(len(asked) - count, len(asked)):
        if manners and rng.random() < share:
            manner = rng.choice(manners)
            chosen = rng.choice([item for item in found if item.manner == manner])
            asked[number] = (index, described_query(rng, chosen, width, height))


def assemble(
    pixels: Tensor, targets: list[Targets], asked: list[tuple[int, Query]], rng: random.Random
) -> Batch:
    """Tensors of a batch; `asked` pairs the index of a screen with a question about it."""
    prefixes = [prefix_ids(item.instruction, rng.random() < 0.5) for _, item in asked]
    longest = max((len(ids) for ids in prefixes), default=1)
    pad = token_id("<|endoftext|>")
    padded = [[pad] * (longest - len(ids)) + ids for ids in prefixes]
    spans = [item.span for _, item in asked]
    rows, columns = (side // TOKEN_PX for side in pixels.shape[1:3])
    targets = targets or [empty_targets(rows, columns)] * len(pixels)
    return Batch(
        pixels=pixels,
        chars=torch.from_numpy(np.stack([item.chars for item in targets])),
        offset=torch.from_numpy(np.stack([item.offset for item in targets])),
        name=torch.from_numpy(np.stack([item.name for item in targets])),
        spelling=torch.from_numpy(np.stack([item.spelling for item in targets])),
        prefix=torch.tensor(padded, dtype=torch.long).view(len(asked), longest),
        padding=torch.tensor([longest - len(ids) for ids in prefixes], dtype=torch.long),
        screen=torch.tensor([index for index, _ in asked], dtype=torch.long),
        asked=torch.tensor([item.name for _, item in asked], dtype=torch.long),
        called=torch.tensor([item.spelling for _, item in asked], dtype=torch.long),
        point=torch.tensor([item.point for _, item in asked], dtype=torch.long).view(-1, 2),
        spread=torch.tensor(
            [((s[2] - s[0]) / 2, (s[3] - s[1]) / 2) for s in spans], dtype=torch.float32
        ).view(-1, 2),
        by_name=torch.tensor([item.by_name for _, item in asked], dtype=torch.bool),
        look=torch.from_numpy(np.stack([item.look for item in targets])),
        sense=torch.tensor([item.sense for _, item in asked], dtype=torch.long).view(-1, 2),
    )


def sequence(batch: Batch, row: int, image_tokens: int) -> Tensor:
    """The token ids of one question with its answer, as transformers would see them."""
    suffix = torch.tensor(suffix_ids())
    suffix[X_AT], suffix[Y_AT] = (number_id(value) for value in batch.point[row].tolist())
    image = torch.full((image_tokens,), token_id("<|image_pad|>"))
    return torch.cat([batch.prefix[row, int(batch.padding[row]) :], image, suffix])


class Stream(IterableDataset):
    """An endless, seeded stream of batches."""

    def __init__(self, supply: Supply, seed: int) -> None:
        self.supply, self.seed = supply, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = random.Random(self.seed * 1000 + (worker.id if worker else 0))
        cutter = self._cutter(rng) if self.supply.rendered > 0 else None
        while True:
            width, height, count = rng.choice(self.supply.canvases)
            if cutter is not None and rng.random() < self.supply.rendered:
                screens = [cutter.cut(width, height) for _ in range(count)]
            else:
                style = rng.choice(self.supply.styles)
                screens = [draw_screen(rng, width, height, style) for _ in range(count)]
            yield collate(screens, self.supply, rng)

    def _cutter(self, rng: random.Random):
        from training.mini.captures import Cutter

        return Cutter(rng, self.supply.pages)


def batches(supply: Supply, seed: int, workers: int = 1) -> Iterator[Batch]:
    """Batches from `workers` processes; 0 makes them in this process."""
    options = {"prefetch_factor": 4} if workers else {}
    return iter(DataLoader(Stream(supply, seed), batch_size=None, num_workers=workers, **options))
