"""Render `examples/*.html` with Chromium and find the targets.

`python -m training.mini.examples` writes the screenshots and examples.json;
`python -m training.mini.examples --check [--overlays FOLDER]` asks the shipped model.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from training.mini.captures import browser, capture
from training.mini.evaluate import SCREEN, SHIPPED, Grounder, Rate, Trial, is_hit
from training.mini.protocol import SCALE, parse_answer
from training.mini.screens import Label, Screen

FOLDER = Path("examples")


@dataclass(frozen=True, slots=True)
class Example:
    """A page, what to ask, and the text of the element that is meant; `viewport` in CSS px."""

    page: str
    instruction: str
    text: str
    viewport: tuple[int, int] = SCREEN
    pixel_ratio: int = 1

    def shot(self, chromium: object) -> tuple[Image.Image, list[Label]]:
        """The page as Chromium draws it."""
        width, height = self.viewport
        page = chromium.new_page(
            viewport={"width": width, "height": height}, device_scale_factor=self.pixel_ratio
        )
        html = (FOLDER / f"{self.page}.html").read_text(encoding="utf-8")
        shot = capture(page, html, full=False, pixel_ratio=self.pixel_ratio)
        page.close()
        return shot


EXAMPLES = (
    Example("login", "Click the Login button", "Login"),
    Example("mail", "Click Settings", "Settings"),
    Example("editor", "Open the History tab", "History"),
    Example("monitor", "Click Download logs", "Download logs", (800, 600)),
    Example("phone", "Tap the Checkout button", "Checkout", (360, 640), 2),
    Example("tk", "Press Reverse order", "Reverse order"),
)


def render() -> None:
    """Write one PNG per page and the targets' boxes, in px of the screenshot."""
    entries = []
    with browser() as chromium:
        for example in EXAMPLES:
            image, labels = example.shot(chromium)
            image.save(FOLDER / f"{example.page}.png", optimize=True)
            (target,) = [label for label in labels if label.text == example.text]
            box = [round(edge) for edge in target.target_box]
            name = f"{example.page}.png"
            entries.append({"image": name, "instruction": example.instruction, "box": box})
    (FOLDER / "examples.json").write_text(json.dumps(entries, indent=2) + "\n")


def check(model: Path, overlays: Path | None) -> bool:
    """Ask the model about every example; print each point and whether it lies in the box."""
    grounder = Grounder(model, torch.float32)
    right = True
    for entry in json.loads((FOLDER / "examples.json").read_text()):
        image = Image.open(FOLDER / entry["image"]).convert("RGB")
        box = tuple(entry["box"])
        trial = Trial(image, entry["instruction"], Label("", "", box, box, ()), False)
        (reply,) = grounder.replies([trial])
        right = is_hit(reply, trial) and right
        print(entry["image"], entry["instruction"], reply.split("\n")[1:2], is_hit(reply, trial))
        if overlays and (point := parse_answer(reply)):
            overlays.mkdir(parents=True, exist_ok=True)
            _overlay(image, point, box).save(overlays / entry["image"])
    return right


def check_every_label(model: Path) -> Rate:
    """Ask for each label of each page with "Click ..."; print what was missed."""
    grounder = Grounder(model, torch.float32)
    hits = total = 0
    with browser() as chromium:
        for example in EXAMPLES:
            image, labels = example.shot(chromium)
            page_hits, page_total = hits, total
            for label in Screen(np.asarray(image), tuple(labels)).queries():
                trial = Trial(image, f"Click {label.text}", label, False)
                (reply,) = grounder.replies([trial])
                hits, total = hits + is_hit(reply, trial), total + 1
                if not is_hit(reply, trial):
                    print("missed", example.page, label.text, parse_answer(reply))
            print(f"{example.page}: {hits - page_hits} of {total - page_total}", flush=True)
    return Rate(hits, total)


def _overlay(image: Image.Image, point: tuple[int, int], box: tuple) -> Image.Image:
    x, y = point[0] / SCALE * image.width, point[1] / SCALE * image.height
    draw = ImageDraw.Draw(image)
    draw.rectangle(box, outline="red")
    draw.line((x - 9, y, x + 9, y), fill="magenta", width=2)
    draw.line((x, y - 9, x, y + 9), fill="magenta", width=2)
    return image


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--overlays", type=Path)
    parser.add_argument("--every", action="store_true", help="ask for every label on the pages")
    options = parser.parse_args()
    if options.every:
        rate = check_every_label(options.model)
        print(f"{rate.hits} of {rate.targets}")
        return
    if options.check:
        raise SystemExit(0 if check(options.model, options.overlays) else 1)
    render()


if __name__ == "__main__":
    main()
