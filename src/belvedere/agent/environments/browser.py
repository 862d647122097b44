"""A page in Chromium, driven by Playwright.

Playwright runs in a thread of its own, so that what the page says (the Esc key, a new tab) is heard
while the model thinks.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from belvedere.agent.actions import (
    Action,
    Click,
    DoubleClick,
    Drag,
    Key,
    LongPress,
    Move,
    Open,
    Point,
    Scroll,
    Swipe,
    SystemButton,
    TripleClick,
    Type,
)
from belvedere.agent.closing import Closing
from belvedere.agent.coordinates import Screen
from belvedere.agent.environments.base import Scene, Screenshot, Target, png_size
from belvedere.agent.environments.browser_hands import Hands
from belvedere.agent.environments.browser_thread import BrowserThread
from belvedere.agent.environments.playwright_errors import quiet
from belvedere.agent.stopping import StopSwitch
from belvedere.errors import EnvironmentFailed, MissingExtra, NotSupported

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page, Route

__all__ = ["FLAGS", "BrowserEnvironment"]

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""A browser that asks no host but those of its pages."""

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_START_TIMEOUT_S = 120.0
_CALL_TIMEOUT_S = 60.0
_LOAD_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 30.0
_SETTLE_TIMEOUT_S = 10.0
_SETTLE_S = 0.1
_RELEASE_TIMEOUT_S = 0.15
_STOP = "__belvedereEsc"
_ESC_SCRIPT = f"""
addEventListener('keydown', (event) => {{
  if (event.key === 'Escape' && event.isTrusted && window.{_STOP}) window.{_STOP}();
}}, true);
"""

T = TypeVar("T")


class BrowserEnvironment(Closing):
    """The front tab of a browser of its own, without the user's cookies.

    Places of the device are CSS pixels of the viewport. Pressing Esc on the page throws the switch.

    Args:
        url: opened first.
        allows: asked for every page that would be opened; others are not requested.
        program: Chromium or Chrome; found on the PATH when ``None``.

    Raises:
        MissingExtra: Playwright is not installed.
        EnvironmentFailed: the browser does not start, or the page does not load.
    """

    def __init__(
        self,
        url: str,
        *,
        switch: StopSwitch,
        size: tuple[int, int] = (1280, 800),
        pixel_ratio: float = 1.0,
        headless: bool = True,
        allows: Callable[[str], bool] | None = None,
        program: str | None = None,
    ) -> None:
        self._switch = switch
        self._home = url
        self._size, self._pixel_ratio, self._headless = size, pixel_ratio, headless
        self._allows = allows
        self._program = program or os.environ.get("CHROMIUM") or _installed()
        self._hands = Hands(lambda: self._page)
        self._pages: list[Page] = []
        self._describe = _script("page_target.js")
        self._thread = BrowserThread(switch)
        try:
            self._thread.wait(self._open, _START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the browser."""
        if self._thread.is_over:
            return
        with suppress(Exception):  # a browser that is gone cannot be closed
            self._thread.start(self._close).result(_CLOSE_TIMEOUT_S)
        self._thread.end(_CLOSE_TIMEOUT_S)

    def screenshot(self) -> Screenshot:
        png, points = self._look(self._see)
        return Screenshot(png, Screen(png_size(png), points))

    def scene(self, place: Point | None) -> Scene:
        return self._look(lambda: self._scene(place))

    def perform(self, action: Action) -> None:
        longer_s = len(getattr(action, "text", "")) / 50 + getattr(action, "duration_s", 0.0)
        self._thread.wait(lambda: self._perform(action), _CALL_TIMEOUT_S + longer_s)

    def release(self) -> None:
        """In the browser's thread, behind what was cancelled there and may have pressed more."""
        if not self._thread.is_over:
            with suppress(EnvironmentFailed):
                self._thread.result(self._thread.start(self._hands.release), _RELEASE_TIMEOUT_S)

    def on_page(self, work: Callable[[Page], Awaitable[T]]) -> T:
        """What `work` returns for the front page; it runs in the browser's thread."""

        async def call() -> T:
            return await work(self._page)

        return self._thread.wait(call, _CALL_TIMEOUT_S)

    def _look(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Looks again where the tab was closed, or led elsewhere, in the middle of it."""
        try:
            return self._thread.wait(work, _CALL_TIMEOUT_S)
        except EnvironmentFailed:
            if not self._pages:
                raise
            self._switch.sleep(_SETTLE_S)
            return self._thread.wait(work, _CALL_TIMEOUT_S)

    # The browser's own thread from here on.

    @property
    def _page(self) -> Page:
        if not self._pages:
            raise EnvironmentFailed("The last tab of the browser is closed.")
        return self._pages[-1]

    async def _open(self) -> None:
        try:
            from playwright.async_api import async_playwright
        except ImportError as exc:
            raise MissingExtra(
                "Driving a browser needs Playwright.", remedy="pip install 'belvedere[agent]'"
            ) from exc
        self._playwright = await async_playwright().start()
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's rule for root
        self._browser = await self._playwright.chromium.launch(
            executable_path=self._program, headless=self._headless, args=[*FLAGS, *root]
        )
        width, height = self._size
        context = await self._browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=self._pixel_ratio
        )
        await self._prepare(context)
        await self._go(await context.new_page(), self._home)

    async def _prepare(self, context: BrowserContext) -> None:
        context.set_default_timeout(_LOAD_TIMEOUT_S * 1000)
        context.on("page", self._on_page)
        await context.expose_binding(_STOP, self._on_escape)
        await context.add_init_script(_ESC_SCRIPT)
        if self._allows is not None:
            await context.route("**/*", self._on_request)

    def _on_page(self, page: Page) -> None:
        self._pages.append(page)
        page.on("close", lambda closed: self._pages.remove(closed))

    def _on_escape(self, *_: object) -> None:
        if not self._hands.escaped():
            self._switch.throw("the Esc key")

    async def _on_request(self, route: Route) -> None:
        request = route.request
        page = request.is_navigation_request()
        with quiet():  # a tab that is just being opened has no frame yet, and it shows a page
            page = page and request.frame.parent_frame is None
        if page and self._allows is not None and not self._allows(request.url):
            await route.fulfill(status=204)  # no content: the page that is shown stays
        else:
            await route.continue_()

    async def _close(self) -> None:
        if browser := getattr(self, "_browser", None):
            await browser.close()
        if playwright := getattr(self, "_playwright", None):
            await playwright.stop()

    async def _see(self) -> tuple[bytes, tuple[float, float]]:
        page = self._page
        png = await page.screenshot(type="png", scale="device")
        if page.viewport_size is not None:
            return png, (page.viewport_size["width"], page.viewport_size["height"])
        width, height = await page.evaluate("[innerWidth, innerHeight]")
        return png, (width, height)

    async def _scene(self, place: Point | None) -> Scene:
        page = self._page
        found = await self._target(page, place)
        return Scene(kind="browser", url=page.url, target=Target(**found) if found else None)

    async def _target(self, page: Page, place: Point | None) -> dict[str, Any] | None:
        """The element at a place, looked for in frames within frames too."""
        frame: Any = page
        where = [place.x, place.y] if place else [None, None]
        for _ in range(8):
            found = await frame.evaluate_handle(self._describe, where)
            inner = (await found.get_properties()).get("frame")
            element = inner.as_element() if inner else None
            if element is None:
                value: dict[str, Any] | None = await found.json_value()
                return value
            left, top = await found.evaluate("(one) => [one.left, one.top]")
            if place is not None:
                where = [where[0] - left, where[1] - top]
            frame = await element.content_frame()
        return None

    async def _perform(self, action: Action) -> None:
        page, hands = self._page, self._hands
        match action:
            case Click() | DoubleClick() | TripleClick():
                await hands.click(page, action)
            case LongPress():
                await hands.long_press(page, action)
            case Move():
                await page.mouse.move(action.x, action.y)
            case Type():
                await hands.type(page, action.text)
            case Key():
                await hands.keys(action.keys)
            case Scroll():
                await hands.scroll(page, action.at, action.dx_px, action.dy_px)
            case Swipe():
                width, height = self._size
                across, down = {"up": (0, 1), "down": (0, -1), "left": (1, 0), "right": (-1, 0)}[
                    action.direction
                ]
                await hands.scroll(page, action.at, across * width / 2, down * height / 2)
            case Drag():
                await hands.drag(page, action)
            case Open():
                await self._go(page, _address(action.app))
            case SystemButton():
                await self._system(page, action)
            case _:
                raise NotSupported(f"A browser cannot perform {action.kind!r}.")
        await self._settle()

    async def _go(self, page: Page, url: str) -> None:
        if self._allows is not None and not self._allows(url):
            raise EnvironmentFailed("The policy does not allow this page.")
        await page.goto(url)

    async def _system(self, page: Page, action: SystemButton) -> None:
        match action.button:
            case "back":
                await page.go_back()
            case "home":
                await page.goto(self._home)
            case "enter":
                await self._hands.keys(("enter",))
            case _:
                raise NotSupported(f"A browser has no button {action.button!r}.")

    async def _settle(self) -> None:
        """Lets handlers run, and a page that is being loaded become one that can be seen."""
        await asyncio.sleep(_SETTLE_S)
        with quiet():
            await self._page.wait_for_load_state("load", timeout=_SETTLE_TIMEOUT_S * 1000)


def _installed() -> str | None:
    return next((path for name in _PROGRAMS if (path := shutil.which(name))), None)


def _script(name: str) -> str:
    file = resources.files("belvedere.agent.environments") / name
    return file.read_text(encoding="utf-8").strip()


def _address(name: str) -> str:
    """The URL that a name means; a browser has no other apps."""
    if name.lower().startswith(("http://", "https://")):
        return name
    if "." in name and " " not in name and "/" not in name.partition(".")[0]:
        return f"https://{name}"
    raise NotSupported(f"{name!r} is not the address of a page.")
