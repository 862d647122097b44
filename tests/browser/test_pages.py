"""What a person sees in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

from tests.browser.chromium import chromium_page
from tests.integration.serving import RunningServer

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium_page(width=900, height=900) as page:
        yield page


def test_the_api_page_lists_the_routes_and_asks_no_other_host(
    server: RunningServer, page: Page
) -> None:
    asked: set[str] = set()
    errors: list[str] = []
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server.url}/docs")
    page.wait_for_selector("details")
    page.get_by_text("/v1/chat/completions", exact=True).first.click()
    for words in (page.get_by_text("list of Message"), page.get_by_text("0 … 2", exact=True)):
        words.first.wait_for(state="visible")
    assert asked == {urlsplit(server.url).netloc}
    assert errors == []
