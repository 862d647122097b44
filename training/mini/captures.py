"""Screenshots by real Chromium with the place of every text, and windows cut from them.

`python -m training.mini.captures --out FOLDER --pages 120 --seed 1` fills a cache of PNG and JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from training.mini.pages import training_page
from training.mini.screens import Label, Screen, resized

WINDOWS_PER_PAGE = 60
POOL = 6

READ_TEXTS = """
() => {
  const out = [];
  const sight = document.createElement('canvas').getContext('2d');
  const boxOf = r => [r.left + scrollX, r.top + scrollY, r.right + scrollX, r.bottom + scrollY];
  const kindOf = e => {
    if (!e) return null;
    const t = e.tagName;
    if (e.getAttribute('role') === 'tab') return 'tab';
    if (t === 'BUTTON' || e.getAttribute('role') === 'button') return 'button';
    if (t === 'A') return 'link';
    if (t === 'LABEL') return 'checkbox';
    return 'text';
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || ['STYLE', 'SCRIPT', 'TITLE'].includes(parent.tagName)) continue;
    const control = parent.closest('button,a,label,[role=tab],[role=button]');
    const running = !!parent.closest('p') && !control;
    const range = document.createRange();
    let line = null;
    const flush = () => { if (line && line.text.trim()) out.push(line); line = null; };
    for (let i = 0; i < node.data.length; i++) {
      range.setStart(node, i); range.setEnd(node, i + 1);
      const r = range.getBoundingClientRect();
      if (!r.width) continue;
      if (line && Math.abs(line.box[1] - (r.top + scrollY)) > 3) flush();
      if (!line) line = {text: '', box: boxOf(r), centres: [], kind: kindOf(control) || 'text',
        target: control ? boxOf(control.getBoundingClientRect()) : null, named: !running};
      line.text += node.data[i];
      line.centres.push((r.left + r.right) / 2 + scrollX);
      line.box[2] = r.right + scrollX;
    }
    flush();
  }
  for (const e of document.querySelectorAll('input:not([type])')) {
    const text = e.value || e.placeholder; if (!text) continue;
    const s = getComputedStyle(e), r = e.getBoundingClientRect();
    sight.font = `${s.fontStyle} ${s.fontWeight} ${s.fontSize} ${s.fontFamily}`;
    let x = r.left + scrollX + parseFloat(s.borderLeftWidth) + parseFloat(s.paddingLeft);
    const size = parseFloat(s.fontSize), y = (r.top + r.bottom) / 2 + scrollY, centres = [];
    const start = x;
    for (let i = 0; i < text.length; i++) {
      const end = start + sight.measureText(text.slice(0, i + 1)).width;
      centres.push((x + end) / 2); x = end;
    }
    if (x > r.right + scrollX) continue;
    out.push({text, box: [start, y - size * 0.6, x, y + size * 0.6], centres, kind: 'field',
      target: boxOf(r), named: true});
  }
  return out;
}
"""


@contextmanager
def browser() -> Iterator:
    """A headless Chromium of the system."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        chromium = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def labels_of(page) -> list[Label]:
    """Every line of text on the page that is loaded, in CSS px of the whole page."""
    labels = []
    for found in page.evaluate(READ_TEXTS):
        lead = len(found["text"]) - len(found["text"].lstrip())
        text = found["text"].strip()
        centres = tuple(found["centres"][lead : lead + len(text)])
        box, target = tuple(found["box"]), tuple(found["target"] or found["box"])
        labels.append(Label(text, found["kind"], box, target, centres, found["named"]))
    return [label for label in labels if label.text.isascii()]


def capture(
    page, html: str, full: bool, pixel_ratio: float = 1.0
) -> tuple[Image.Image, list[Label]]:
    """Render HTML; labels are in px of the screenshot, `pixel_ratio` is the device's."""
    page.set_content(html)
    shot = page.screenshot(full_page=full)
    labels = [label.scaled(pixel_ratio, pixel_ratio) for label in labels_of(page)]
    return Image.open(io.BytesIO(shot)).convert("RGB"), labels


class Cutter:
    """Cuts windows from cached pages, a few pages at a time."""

    def __init__(self, rng: random.Random, folder: str) -> None:
        self.rng = rng
        self.files = sorted(Path(folder).glob("*.png"))
        if not self.files:
            raise FileNotFoundError(f"no captured pages in {folder!r}; run training.mini.captures")
        self.pool: list[tuple[Image.Image, list[Label], float]] = []
        self.cuts = 0

    def cut(self, width: int, height: int) -> Screen:
        """A window that the model sees as width x height.

        Pages of device pixel ratio 1 most often keep their size, those of ratio 2 are scaled down
        by 1.3 to 2, as a screenshot of such a device is.
        """
        self._refresh()
        image, labels, ratio = self.rng.choice(self.pool)
        scale = 1.0 if self.rng.random() < 0.5 else self.rng.uniform(0.9, 1.2)
        scale = scale if ratio == 1.0 else self.rng.uniform(1.3, 2.0)
        sy = scale * (1.0 if self.rng.random() < 0.4 else self.rng.uniform(0.95, 1.05))
        w, h = min(round(width * scale), image.width), min(round(height * sy), image.height)
        x, y = self.rng.randint(0, image.width - w), self.rng.randint(0, image.height - h)
        near = [_moved(label, x, y) for label in labels if _touches(label, x, y, w, h)]
        return resized(image.crop((x, y, x + w, y + h)), near, width, height)

    def _refresh(self) -> None:
        self.cuts += 1
        if len(self.pool) < POOL or self.cuts % (WINDOWS_PER_PAGE // POOL) == 0:
            file = self.rng.choice(self.files)
            stored = json.loads(file.with_suffix(".json").read_text())
            labels = [Label(**item) for item in stored]
            ratio = 2.0 if file.stem.endswith("x2") else 1.0
            fresh = (Image.open(file).convert("RGB"), labels, ratio)
            self.pool = [*self.pool[-POOL + 1 :], fresh]


def _moved(label: Label, x: int, y: int) -> Label:
    boxes = [(b[0] - x, b[1] - y, b[2] - x, b[3] - y) for b in (label.text_box, label.target_box)]
    centres = tuple(centre - x for centre in label.centres)
    return Label(label.text, label.kind, boxes[0], boxes[1], centres, label.named)


def _touches(label: Label, x: int, y: int, width: int, height: int) -> bool:
    box = label.text_box
    box = (
        *(min(box[0], label.target_box[0]), min(box[1], label.target_box[1])),
        *(max(box[2], label.target_box[2]), max(box[3], label.target_box[3])),
    )
    return box[2] > x and box[0] < x + width and box[3] > y and box[1] < y + height


def main() -> None:
    """Command line: fill the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pixel-ratio", type=int, choices=(1, 2), default=1)
    parser.add_argument("--special", type=float, default=0.0, help="share of unusual sections")
    parser.add_argument(
        "--fonts", choices=("all", "wide"), default="all", help="fonts of every second page"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    ratio = options.pixel_ratio
    with browser() as chromium:
        viewport = {"width": 1200, "height": 800}
        page = chromium.new_page(viewport=viewport, device_scale_factor=ratio)
        for number in range(options.pages):
            rng = random.Random(options.seed * 100_000 + number)
            fonts = "few" if rng.random() < 0.5 else options.fonts
            html = training_page(rng, fonts, (12, 17), options.special)
            image, labels = capture(page, html, full=True, pixel_ratio=ratio)
            ending = "-x2" if ratio == 2 else ""
            file = options.out / f"{options.seed}-{number:04d}{ending}.png"
            file.with_suffix(".json").write_text(json.dumps([asdict(item) for item in labels]))
            image.save(file)


if __name__ == "__main__":
    main()
