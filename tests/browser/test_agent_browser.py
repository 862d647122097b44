"""A real Chromium: what is typed, hit, held, refused and let go."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from playwright.async_api import Page

from belvedere.agent.actions import (
    Click,
    DoubleClick,
    Drag,
    Key,
    LongPress,
    Move,
    Open,
    Point,
    Scroll,
    SystemButton,
    TripleClick,
    Type,
)
from belvedere.agent.environments import Screenshot
from belvedere.agent.environments.browser import BrowserEnvironment
from belvedere.agent.policy import Policy
from belvedere.agent.runner import Decision, Runner
from belvedere.agent.stopping import Stop, StopSwitch
from belvedere.errors import EnvironmentFailed, NotSupported
from tests.browser.pages import REPORT, Pages
from tests.integration.serving import wait_until
from tests.unit.agent.screens import ListedActions

MUCH_S = 60.0
STYLE = """<!doctype html><meta charset="utf-8"><style>
  body { margin: 0; } * { box-sizing: border-box; font: 14px "DejaVu Sans"; }
  .at { position: absolute; width: 120px; height: 40px; } </style>"""


def at(left: int, top: int) -> str:
    return f'class="at" style="left: {left}px; top: {top}px"'


FORM = f"""{STYLE}{REPORT}
<form action="javascript:void 0"><input id="name" {at(20, 20)} placeholder="Name">
<input id="pw" type="password" {at(160, 20)}><button id="go" {at(20, 80)}>Go on</button></form>
<form role="search" action="javascript:void 0"><button id="find" {at(160, 80)}>Find</button></form>
<button id="bin" {at(300, 80)} aria-label="Delete it">x</button>
<a id="away" href="http://localhost:{{port}}/away" {at(20, 140)}>Elsewhere</a>
<a id="near" href="/near" {at(160, 140)}>Near</a>
<a id="tab" href="/near" target="_blank" {at(300, 140)}>New tab</a>
<textarea id="text" {at(20, 200)}></textarea>"""
NEAR = f"{STYLE}{REPORT}<h1>Near</h1>"
FRAMES = f"""{STYLE}<iframe {at(100, 50)} srcdoc='{STYLE.replace("'", "")}
  <button id="inner" style="position: absolute; left: 10px; top: 5px">Pay now</button>'></iframe>
<div id="host" {at(300, 50)}></div><script>
  const root = document.getElementById('host').attachShadow({{ mode: 'open' }});
  root.innerHTML = '<button style="width: 100px; height: 30px">Send</button>';</script>"""
MOVING = f"""{STYLE}{REPORT}<button id="first" {at(20, 20)}>Buy</button>
<button id="second" {at(300, 200)}>Other</button>"""


@pytest.fixture
def pages() -> Iterator[Pages]:
    """A server for each test: what the browser of another one still reports does not reach it."""
    with Pages(form=FORM, near=NEAR, away=NEAR, frames=FRAMES, moving=MOVING) as pages:
        yield pages


def open_page(pages: Pages, name: str = "form", **options: Any) -> BrowserEnvironment:
    options = {"switch": StopSwitch(), "size": (480, 320), **options}
    return BrowserEnvironment(f"{pages.url}/{name}", **options)


def value(browser: BrowserEnvironment, script: str) -> Any:
    async def read(page: Page) -> Any:
        return await page.evaluate(script)

    return browser.on_page(read)


SWAP = """() => { document.getElementById('first').style.left = '300px';
  document.getElementById('second').style.cssText = 'left: 20px; top: 20px'; }"""

HOSTILE = "héllo ☃ 中文 😀 $(reboot) `x` {Enter} %s \\n +ctrl \"quoted\" <b>'x'</b>"


def test_what_is_typed_is_literal(pages: Pages) -> None:
    with open_page(pages) as browser:
        browser.perform(Click(80, 40))
        browser.perform(Type(HOSTILE))
        assert value(browser, "document.getElementById('name').value") == HOSTILE
        browser.perform(Click(80, 220))
        browser.perform(Type("one\ntwo"))
        assert value(browser, "document.getElementById('text').value") == "one\ntwo"
        browser.perform(Key(("ctrl", "a")))
        browser.perform(Key(("backspace",)))
        assert value(browser, "document.getElementById('text').value") == ""


@pytest.mark.parametrize("pixel_ratio", [1, 1.5, 2, 3])
def test_pixels_of_the_screenshot_become_places_of_the_page(
    pages: Pages, pixel_ratio: float
) -> None:
    """The middle of a button in the picture is the middle of the button in the page."""
    switch = StopSwitch()
    with open_page(pages, pixel_ratio=pixel_ratio, switch=switch) as browser:
        shot = browser.screenshot()
        assert shot.screen.pixels == (480 * pixel_ratio, 320 * pixel_ratio)
        assert shot.screen.pixel_ratio == (pixel_ratio, pixel_ratio)
        agent = ListedActions([Click(round(80 * pixel_ratio), round(100 * pixel_ratio))])
        runner = Runner(agent, browser, switch=switch, live=True, approve=lambda action, why: True)
        assert runner.run().reason == "done"
        assert wait_until(lambda: "click go" in pages.events)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((80, 40), {"role": "input", "text": "Name"}),
        ((200, 40), {"role": "input", "secret": True}),
        ((80, 100), {"role": "button", "text": "Go on", "submits": True}),
        ((200, 100), {"role": "button", "text": "Find", "submits": False}),
        ((350, 100), {"role": "button", "text": "Delete it"}),
        ((200, 160), {"role": "a", "text": "Near"}),
    ],
)
def test_it_knows_what_is_under_a_point(
    place: tuple[int, int], expected: dict[str, object], pages: Pages
) -> None:
    with open_page(pages) as browser:
        target = browser.scene(Point(*place)).target
    assert target is not None
    assert {name: getattr(target, name) for name in expected} == expected


def test_it_looks_into_frames_and_shadows(pages: Pages) -> None:
    with open_page(pages, "frames") as browser:
        inner = browser.scene(Point(130, 70)).target
        shadow = browser.scene(Point(320, 60)).target
        policy = Policy()
        kinds = [
            policy.judge(
                Click(1, 1), browser.scene(place), place=place, instruction="x", typed=False
            ).kind
            for place in (Point(130, 70), Point(320, 60))
        ]
    assert inner is not None
    assert inner.text == "Pay now"
    assert shadow is not None
    assert shadow.text == "Send"
    assert kinds == ["confirm", "confirm"]


def test_a_password_is_known_as_one_by_the_focus(pages: Pages) -> None:
    with open_page(pages) as browser:
        browser.perform(Click(200, 40))
        target = browser.scene(None).target
    assert target is not None
    assert target.secret


def test_clicks_of_every_kind(pages: Pages) -> None:
    with open_page(pages) as browser:
        value(
            browser,
            """() => { window.seen = []; for (const kind of ['dblclick', 'contextmenu'])
            addEventListener(kind, (event) => window.seen.push(kind)); }""",
        )
        browser.perform(Click(350, 250, button="right"))
        browser.perform(DoubleClick(350, 250))
        wanted = ["contextmenu", "dblclick"]
        assert wait_until(lambda: value(browser, "window.seen") == wanted)
        browser.perform(Click(80, 220))
        browser.perform(Type("some words here"))
        browser.perform(TripleClick(60, 212))
        selected = "getSelection().toString()"
        assert wait_until(lambda: value(browser, selected) == "some words here")


def test_scrolling_and_dragging(pages: Pages) -> None:
    with open_page(pages) as browser:
        value(
            browser,
            """() => { document.body.style.height = '3000px'; window.moves = [];
            for (const kind of ['mousedown', 'mousemove', 'mouseup']) addEventListener(kind,
              (event) => window.moves.push([kind, event.clientX, event.clientY])); }""",
        )
        browser.perform(Drag(Point(300, 220), Point(400, 300)))
        assert wait_until(lambda: "mouseup" in [one[0] for one in value(browser, "window.moves")])
        moves = value(browser, "window.moves")
        assert [kind for kind, *_ in moves if kind != "mousemove"] == ["mousedown", "mouseup"]
        assert moves[-1] == ["mouseup", 400, 300]
        browser.perform(Scroll(0, 500, at=Point(240, 160)))
        assert wait_until(lambda: value(browser, "scrollY") == 500)


def test_pages_of_other_hosts_are_never_asked_for(pages: Pages) -> None:
    """The link's host is this same server under another name: it would count the request."""
    with open_page(pages, allows=lambda url: "127.0.0.1" in url) as browser:
        browser.perform(Click(80, 160))
        assert value(browser, "location.pathname") == "/form"
        value(browser, f"() => {{ location.href = 'http://localhost:{pages.port}/away'; }}")
        with pytest.raises(EnvironmentFailed, match="policy"):
            browser.perform(Open(f"http://localhost:{pages.port}/away"))
        browser.perform(Click(200, 160))
        assert wait_until(lambda: browser.scene(None).url == f"{pages.url}/near")
    assert "/away" not in pages.asked


def test_a_new_tab_shows_a_page_that_is_allowed(pages: Pages) -> None:
    """Its request comes before the tab itself is known."""
    with open_page(pages, allows=lambda url: "127.0.0.1" in url) as browser:
        browser.perform(Click(350, 160))
        assert wait_until(lambda: browser.scene(None).url == f"{pages.url}/near")


def test_a_new_tab_asks_for_no_page_that_is_not_allowed(pages: Pages) -> None:
    judged: list[str] = []

    def allows(url: str) -> bool:
        judged.append(url)
        return not url.endswith("/near")

    with open_page(pages, allows=allows) as browser:
        browser.perform(Click(350, 160))
        assert wait_until(lambda: f"{pages.url}/near" in judged)
    assert "/near" not in pages.asked


def test_the_policy_stops_before_a_link_that_leads_away(pages: Pages) -> None:
    switch = StopSwitch()
    policy = Policy.model_validate({"allow": {"domains": ["127.0.0.1"]}})
    with open_page(pages, switch=switch) as browser:
        agent = ListedActions([Click(80, 160)])
        outcome = Runner(agent, browser, policy=policy, switch=switch, live=True).run()
    assert outcome.reason == "refused"
    assert "localhost" in outcome.message
    assert "/away" not in pages.asked


def test_new_tabs_are_followed_and_left(pages: Pages) -> None:
    with open_page(pages) as browser:
        browser.perform(Click(350, 160))
        assert wait_until(lambda: browser.scene(None).url == f"{pages.url}/near")
        value(browser, "() => { setTimeout(() => window.close(), 50); }")
        assert wait_until(lambda: browser.scene(None).url == f"{pages.url}/form")


def test_back_and_home(pages: Pages) -> None:
    with open_page(pages) as browser:
        browser.perform(Click(200, 160))
        assert wait_until(lambda: browser.scene(None).url == f"{pages.url}/near")
        browser.perform(SystemButton("back"))
        assert browser.scene(None).url == f"{pages.url}/form"
        browser.perform(SystemButton("home"))
        assert browser.scene(None).url == f"{pages.url}/form"
        with pytest.raises(NotSupported):
            browser.perform(SystemButton("menu"))
        with pytest.raises(NotSupported):
            browser.perform(Open("Calculator"))


async def press_escape(page: Page) -> None:
    """As a person does: not through the environment."""
    await page.keyboard.press("Escape")


def test_the_persons_escape_stops_the_agents_does_not(pages: Pages) -> None:
    switch = StopSwitch()
    with open_page(pages, switch=switch) as browser:
        browser.perform(Key(("esc",)))
        assert wait_until(lambda: "keyup Escape" in pages.events)
        browser.perform(Click(80, 40))
        assert switch.cause is None
        with suppress(Stop):  # it may stop even this call
            browser.on_page(press_escape)
        assert wait_until(lambda: switch.cause == "the Esc key")
        for beginning in (browser.screenshot, lambda: browser.perform(Click(80, 100))):
            with pytest.raises(Stop):
                beginning()
        assert "click go" not in pages.events


def test_escape_on_the_page_stops_a_thinking_model(pages: Pages) -> None:
    switch, thinking, leave = StopSwitch(), threading.Event(), threading.Event()

    class Thinking(ListedActions):
        def decide(self, shot: Screenshot) -> Decision:
            thinking.set()
            leave.wait(MUCH_S)
            return super().decide(shot)

    with open_page(pages, switch=switch) as browser:

        def person() -> None:
            thinking.wait(MUCH_S)
            loop = browser._thread.loop  # a person needs no permission of the environment
            loop.call_soon_threadsafe(loop.create_task, press_escape(browser._page))

        threading.Thread(target=person, daemon=True).start()
        outcome = Runner(Thinking([Click(80, 100)]), browser, switch=switch, live=True).run()
    leave.set()
    assert outcome.reason == "killed"
    assert not [event for event in pages.events if event.startswith("click")]


def occupy(browser: BrowserEnvironment, busy: threading.Event, leave: threading.Event) -> None:
    """The browser's thread does nothing else until `leave`."""

    def wait() -> None:
        busy.set()
        leave.wait(MUCH_S)

    browser._thread.loop.call_soon_threadsafe(wait)


def test_a_stop_before_the_browser_began_leaves_nothing_half_done(pages: Pages) -> None:
    """The browser's thread is busy until the switch was thrown: the work is never begun."""
    busy, leave = threading.Event(), threading.Event()
    begun: list[Page] = []

    class AfterOneCheck(StopSwitch):
        def check(self) -> None:
            super().check()
            if busy.is_set():
                self.throw("a test")

    async def work(page: Page) -> None:
        begun.append(page)

    with open_page(pages, switch=AfterOneCheck()) as browser:
        occupy(browser, busy, leave)
        assert busy.wait(MUCH_S)
        with pytest.raises(Stop):
            browser.on_page(work)
        leave.set()
    gc.collect()  # would tell of a coroutine that nobody awaited
    assert begun == []


def test_what_is_pressed_at_the_very_stop_is_let_go(pages: Pages) -> None:
    """When `release` is called nothing is down yet; the browser's thread presses before that."""
    with open_page(pages) as browser:
        browser.perform(Move(80, 100))
        busy, leave = threading.Event(), threading.Event()
        occupy(browser, busy, leave)
        assert busy.wait(MUCH_S)
        browser._thread.start(lambda: browser._hands._press("mouse", "left"))
        browser.release()
        leave.set()
        assert wait_until(lambda: "mouseup go" in pages.events)
    assert "mousedown go" in pages.events


def test_what_is_held_is_let_go_when_it_is_stopped(pages: Pages) -> None:
    switch = StopSwitch()

    def person() -> None:
        wait_until(lambda: "mousedown go" in pages.events)
        switch.throw("a test")

    threading.Thread(target=person, daemon=True).start()
    with open_page(pages, switch=switch) as browser:
        agent = ListedActions([LongPress(80, 100, MUCH_S)])
        outcome = Runner(
            agent, browser, switch=switch, live=True, approve=lambda action, why: True
        ).run()
        assert wait_until(lambda: "mouseup go" in pages.events)
    assert outcome.reason == "killed"


def test_a_button_that_moved_while_the_model_thought_is_not_hit_by_its_successor(
    pages: Pages,
) -> None:
    """Between the screenshot and the click another button comes to lie where the first was."""
    switch = StopSwitch()
    with open_page(pages, "moving", switch=switch) as browser:

        class Slow(ListedActions):
            def decide(self, shot: Screenshot) -> Decision:
                if not self.asked:
                    loop = browser._thread.loop
                    moved = browser._page.evaluate(SWAP)
                    done = threading.Event()
                    loop.call_soon_threadsafe(
                        lambda: loop.create_task(moved).add_done_callback(lambda _: done.set())
                    )
                    done.wait(MUCH_S)
                    self.asked += 1
                    return Decision(Click(80, 40), "Click it")
                return Decision(Click(360, 40), "Click it")

        outcome = Runner(
            Slow([Click(80, 40)]), browser, switch=switch, live=True, approve=lambda *_: True
        ).run()
        assert outcome.reason == "done"
        assert wait_until(lambda: "click first" in pages.events)
    assert "click second" not in pages.events


def test_a_page_or_browser_that_is_not_there_is_one_error(pages: Pages) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens there
        port = deaf.getsockname()[1]
        with pytest.raises(EnvironmentFailed, match="ERR_CONNECTION_REFUSED"):
            BrowserEnvironment(f"http://127.0.0.1:{port}/", switch=StopSwitch())
    with pytest.raises(EnvironmentFailed, match="The browser failed"):
        BrowserEnvironment(pages.url, switch=StopSwitch(), program="/bin/false")
    with open_page(pages) as browser:
        browser.on_page(lambda page: page.close())
        with pytest.raises(EnvironmentFailed, match="last tab"):
            browser.screenshot()
