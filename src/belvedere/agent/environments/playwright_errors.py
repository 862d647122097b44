"""Playwright's failures as ours."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from belvedere.errors import EnvironmentFailed

__all__ = ["quiet", "translated"]

T = TypeVar("T")


async def translated(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Playwright's failures as ours; its words may hold secrets of a page and stay inside.

    `work` is called here, so that nothing of it exists where this is cancelled before it begins.
    """
    try:
        return await work()
    except Exception as exc:
        if not type(exc).__module__.startswith("playwright."):
            raise
        words = str(exc).splitlines()[0]
        found = next((known for known in _KNOWN if known in words), "")
        raise EnvironmentFailed(
            f"The browser failed{f' ({found})' if found else ''}.",
            remedy=_KNOWN.get(found) or "Check the page and the browser.",
        ) from exc


_KNOWN = {
    "ERR_CONNECTION_REFUSED": "Nothing listens there.",
    "ERR_NAME_NOT_RESOLVED": "There is no such host.",
    "ERR_FILE_NOT_FOUND": "There is no such file.",
    "ERR_UNSAFE_PORT": "Browsers do not open this port.",
    "invalid URL": "Check the URL.",
    "Executable doesn't exist": "Install Chromium, or name its program in CHROMIUM.",
    "Timeout": "The page takes too long.",
    "has been closed": "The tab or the browser was closed.",
}
"""What Playwright's messages say, and what to do about it."""


@contextmanager
def quiet() -> Iterator[None]:
    """A page that loads for ever, or was closed, can still be looked at."""
    try:
        yield
    except Exception as exc:
        if not type(exc).__module__.startswith("playwright."):
            raise
