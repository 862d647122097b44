"""The system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

MUCH_S = 150.0
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium_page(*, width: int, height: int, device_pixel_ratio: float = 1) -> Iterator[Page]:
    """An empty page of that size in CSS pixels."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "Chromium is missing; 'make system-packages' installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=FLAGS, timeout=MUCH_S * 1000
        )
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                device_scale_factor=device_pixel_ratio,
            )
            context.set_default_timeout(MUCH_S * 1000)
            yield context.new_page()
        finally:
            browser.close()
