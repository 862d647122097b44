"""The shortest way to a click: `MAIUIClient`, and the same for an event loop."""

from __future__ import annotations

from belvedere.agent.grounding import (
    AsyncGroundingAgent,
    Grounding,
    GroundingAgent,
    check_instruction,
)
from belvedere.agent.protocols.loader import DEFAULT

__all__ = ["AsyncMAIUIClient", "Grounding", "MAIUIClient", "check_instruction"]


class MAIUIClient(GroundingAgent):
    """Asks a MAI-UI model where to click, whatever name it is served under.

    >>> client = MAIUIClient("http://localhost:8000")            # doctest: +SKIP
    >>> print(client.get_action("screenshot.png", "Click the login button"))  # doctest: +SKIP
    pyautogui.click(500, 300)

    Arguments and errors are those of `GroundingAgent`.
    """

    _protocol = DEFAULT


class AsyncMAIUIClient(AsyncGroundingAgent):
    """`MAIUIClient` for an event loop: ``await client.get_action(...)``."""

    _protocol = DEFAULT
