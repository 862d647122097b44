"""The clients over real sockets: the shipped model, and servers that are no Belvedere."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from belvedere.agent import (
    AsyncGroundingAgent,
    AsyncMAIUIClient,
    AsyncNavigationAgent,
    Calibration,
    GroundingAgent,
    GroundingOptions,
    HistoryWindow,
    MAIUIClient,
    NavigationAgent,
    NavigationOptions,
    Region,
    Zoom,
)
from belvedere.agent import actions as a
from belvedere.errors import (
    ActionError,
    AuthenticationFailed,
    BelvedereError,
    ImageError,
    InvalidRequest,
    PermissionDenied,
    RateLimited,
    ServerUnreachable,
    Unavailable,
    UsageError,
)
from tests.integration.answering import Answer, AnsweringServer, Body, image_count, texts
from tests.integration.serving import RunningServer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LOGIN = EXAMPLES / "login.png"
ROWS: list[dict[str, Any]] = json.loads((EXAMPLES / "examples.json").read_text("utf-8"))


def point(x: object, y: object) -> str:
    return f'<answer>{{"coordinate":[{x},{y}]}}</answer>'


def use(**arguments: object) -> str:
    call = json.dumps({"name": "mobile_use", "arguments": arguments})
    return f"<thinking>\nPlan.\n</thinking>\n<tool_call>\n{call}\n</tool_call>"


def screenshot(width: int = 1000, height: int = 500, colour: str = "white") -> bytes:
    stream = BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()


def sent_image(body: Body) -> Image.Image:
    urls = [
        part["image_url"]["url"]
        for message in body["messages"]
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    return Image.open(BytesIO(base64.b64decode(urls[-1].partition(",")[2])))


@pytest.mark.engine
class TestShippedModel:
    @pytest.mark.parametrize("row", ROWS, ids=lambda row: row["image"])
    def test_a_click_inside_the_element(self, server: RunningServer, row: dict[str, Any]) -> None:
        with MAIUIClient(server.url) as client:
            found = client.ground(EXAMPLES / row["image"], row["instruction"])
        left, top, right, bottom = row["box"]
        assert left <= found.action.x < right
        assert top <= found.action.y < bottom
        assert str(found.action) == f"pyautogui.click({found.action.x}, {found.action.y})"
        with Image.open(EXAMPLES / row["image"]) as shown:
            assert found.screen_size == shown.size
        assert found.seen_size is not None
        assert all(side % 32 == 0 for side in found.seen_size)
        assert found.confidence is not None
        assert 0 < found.confidence <= 1
        assert found.attempts == 1

    def test_asynchronous_is_the_same(self, server: RunningServer) -> None:
        async def both() -> list[a.Click]:
            async with AsyncMAIUIClient(server.url) as client:
                asked = (client.get_action(LOGIN, "Click the Login button") for _ in range(2))
                return list(await asyncio.gather(*asked))

        with MAIUIClient(server.url) as client:
            expected = client.get_action(LOGIN.read_bytes(), "Click the Login button")
        assert asyncio.run(both()) == [expected, expected]

    def test_a_second_look_is_mapped_back(self, server: RunningServer) -> None:
        """The part around Login is asked about at its own size, and the click still hits."""
        options = GroundingOptions(zoom=Zoom(share=0.75, enlarge=1.0))
        with MAIUIClient(server.url, options=options) as client:
            found = client.ground(LOGIN, "Click the Login button")
        left, top, right, bottom = ROWS[0]["box"]
        assert found.region is not None
        assert found.region.size == (480, 300)
        assert found.attempts == 2
        assert left <= found.action.x < right
        assert top <= found.action.y < bottom

    def test_shrunk_by_the_client(self, server: RunningServer) -> None:
        with MAIUIClient(server.url, options=GroundingOptions(max_pixels=200_000)) as client:
            found = client.ground(LOGIN, "Click the Login button")
        assert found.screen_size == (640, 400)
        assert found.seen_size == (544, 352)

    def test_a_model_that_only_grounds_cannot_navigate(self, server: RunningServer) -> None:
        """Whatever it writes instead is no action, and the history stays empty."""
        options = NavigationOptions(attempts=2, max_tokens=24)
        with (
            NavigationAgent(server.url, "Log in", options=options) as agent,
            pytest.raises(ActionError, match="None of 2 answers was usable"),
        ):
            agent.act(LOGIN)
        assert agent.turns == ()


class TestGrounding:
    def test_another_server(self) -> None:
        with AnsweringServer(point(500, 300)) as other, MAIUIClient(other.url) as client:
            found = client.ground(screenshot(), "Click Save")
        assert str(found.action) == "pyautogui.click(501, 150)"
        assert found.seen_size is None
        (body,) = other.bodies
        assert body["model"] == "MAI-UI-2B"
        assert body["temperature"] == 0
        assert texts(body)[1:] == [("user", "Click Save\n"), ("user", "IMAGE")]
        assert sent_image(body).size == (1000, 500)

    def test_a_turned_photograph_counts_as_it_is_shown(self) -> None:
        stream, exif = BytesIO(), Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (400, 200)).save(stream, "JPEG", exif=exif)
        with AnsweringServer(point(999, 999)) as other, MAIUIClient(other.url) as client:
            found = client.ground(stream.getvalue(), "Click it")
        assert found.screen_size == (200, 400)
        assert found.action == a.Click(199, 399)

    def test_it_asks_again_and_then_names_the_last_reason(self) -> None:
        with (
            AnsweringServer(
                "I see no button.",
                point(
                    1,
                    2,
                )
                + point(3, 4),
                point(5000, 1),
            ) as other,
            MAIUIClient(other.url) as client,
            pytest.raises(ActionError, match=r"None of 3 answers .* outside 0\.\.999") as refusal,
        ):
            client.get_action(screenshot(), "Click Save")
        assert refusal.value.exit_code == 6
        assert [body["temperature"] for body in other.bodies] == [0, 0.4, 0.4]
        assert [body.get("seed") for body in other.bodies] == [None, 1, 2]

    def test_the_second_answer_may_be_usable(self) -> None:
        with AnsweringServer("Hm.", point(0, 0)) as other, MAIUIClient(other.url) as client:
            found = client.ground(screenshot(), "Click Save")
        assert found.action == a.Click(0, 0)
        assert found.attempts == 2

    @pytest.mark.parametrize(
        "answer", [Answer(None), Answer(point(1, 1), finish_reason="length")], ids=["none", "cut"]
    )
    def test_no_text_and_half_a_text_are_no_answer(self, answer: Answer) -> None:
        with (
            AnsweringServer(answer) as other,
            MAIUIClient(other.url, options=GroundingOptions(attempts=1)) as client,
            pytest.raises(ActionError),
        ):
            client.get_action(screenshot(), "Click Save")
        assert len(other.bodies) == 1

    def test_pixels_of_the_seen_image(self) -> None:
        """Qwen2.5-VL on a server that tells nothing: the client chooses the size that is seen."""

        def corner(body: Body) -> str:
            assert "The screen's resolution is 1988x1008." in texts(body)[0][1]
            assert sent_image(body).size == (1988, 1008)
            call = {"action": "left_click", "coordinate": [994, 252]}
            text = json.dumps({"name": "computer_use", "arguments": call})
            return f"<tool_call>\n{text}\n</tool_call>"

        with (
            AnsweringServer(corner, models=["Qwen2.5-VL-7B-Instruct"]) as other,
            GroundingAgent(other.url) as agent,
        ):
            found = agent.ground(screenshot(2000, 1000), "Click Save")
        assert found.protocol == "qwen2.5-vl"
        assert found.action == a.Click(1000, 250)

    def test_the_server_knows_best_how_its_model_writes(self) -> None:
        """A Belvedere that serves a model of another convention says so with each image."""
        image = {
            "original_size": [1000, 500],
            "seen_size": [992, 512],
            "coordinates": {"space": "relative", "max": 100},
        }
        with (
            AnsweringServer(point(50, 100), block={"images": [image]}) as other,
            MAIUIClient(other.url) as client,
        ):
            found = client.ground(screenshot(), "Click Save")
        assert found.action == a.Click(500, 499)
        assert found.seen_size == (992, 512)

    @pytest.mark.parametrize(
        "block",
        [
            "yes",
            {"images": []},
            {"images": [5]},
            {"images": [{"original_size": ["a", "b"], "seen_size": None}]},
            {"images": [{"original_size": [0, -1], "seen_size": [0, 0], "coordinates": "x"}]},
            {
                "images": [
                    {
                        "original_size": None,
                        "seen_size": None,
                        "coordinates": {"space": "polar", "max": "r"},
                    }
                ]
            },
        ],
    )
    def test_a_strange_block_changes_nothing(self, block: object) -> None:
        with (
            AnsweringServer(point(500, 300), block=block) as other,
            MAIUIClient(other.url) as client,
        ):
            assert client.get_action(screenshot(), "Click Save") == a.Click(501, 150)

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (401, AuthenticationFailed),
            (403, PermissionDenied),
            (422, InvalidRequest),
            (429, RateLimited),
            (500, ServerUnreachable),
            (503, Unavailable),
        ],
    )
    def test_a_refusal_keeps_its_meaning(self, status: int, error: type[BelvedereError]) -> None:
        with (
            AnsweringServer("", refusal=(status, {"retry-after": "7"})) as other,
            MAIUIClient(other.url) as client,
            pytest.raises(error, match="Not now") as refusal,
        ):
            client.get_action(screenshot(), "Click Save")
        assert refusal.value.retry_after_s == (7 if status in (401, 403, 429, 503) else None)
        assert len(other.bodies) == 1

    def test_several_models_must_be_told_apart(self) -> None:
        with AnsweringServer(point(1, 1), models=["one", "two"]) as other:
            with MAIUIClient(other.url) as client, pytest.raises(UsageError, match="one, two"):
                client.get_action(screenshot(), "Click Save")
            with MAIUIClient(other.url, model="two") as client:
                client.get_action(screenshot(), "Click Save")
        assert [body["model"] for body in other.bodies] == ["two"]

    @pytest.mark.parametrize(
        ("image", "instruction", "error"),
        [
            (b"", "Click", ImageError),
            (b"no image", "Click", ImageError),
            (screenshot(), "  ", UsageError),
            ("/missing.png", "Click", UsageError),
        ],
        ids=["empty", "text", "no instruction", "no file"],
    )
    def test_bad_input_is_never_sent(
        self, image: bytes, instruction: str, error: type[Exception]
    ) -> None:
        async def asynchronous() -> None:
            async with AsyncMAIUIClient(other.url) as client:
                await client.get_action(image, instruction)

        with AnsweringServer(point(1, 1)) as other:
            with MAIUIClient(other.url) as client, pytest.raises(error):
                client.get_action(image, instruction)
            with pytest.raises(error):
                asyncio.run(asynchronous())
        assert other.bodies == []

    def test_nobody_there(self) -> None:
        async def asynchronous() -> None:
            async with AsyncGroundingAgent("http://127.0.0.1:9", model="m") as client:
                await client.get_action(screenshot(), "Click Save")

        with MAIUIClient("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachable):
            client.get_action(screenshot(), "Click Save")
        with pytest.raises(ServerUnreachable):
            asyncio.run(asynchronous())

    def test_a_slow_server_is_given_up(self) -> None:
        with (
            AnsweringServer(point(1, 1), delay_s=30) as other,
            MAIUIClient(other.url, timeout_s=0.3) as client,
            pytest.raises(ServerUnreachable, match="in time"),
        ):
            client.get_action(screenshot(), "Click Save")


class TestConfidence:
    SURE = Answer(point(500, 300), 0.9, {"505": 0.05, "100": 0.05})
    UNSURE = Answer(point(500, 300), 0.3, {"100": 0.7})

    def test_mass_around_the_point(self) -> None:
        with AnsweringServer(self.SURE) as other, MAIUIClient(other.url) as client:
            found = client.ground(screenshot(), "Click Save")
        assert found.confidence == pytest.approx(0.95 * 0.9)

    def test_calibrated(self) -> None:
        options = GroundingOptions(calibration=Calibration(((0.0, 0.5), (0.855, 0.6), (1.0, 1.0))))
        with (
            AnsweringServer(self.SURE) as other,
            MAIUIClient(other.url, options=options) as client,
        ):
            assert client.ground(screenshot(), "Click").confidence == pytest.approx(0.6)

    def test_a_server_without_log_probabilities(self) -> None:
        """It refuses them by name once; then the client leaves them out."""
        with (
            AnsweringServer(point(500, 300), logprobs=False) as other,
            MAIUIClient(other.url) as client,
        ):
            found = [client.ground(screenshot(), "Click Save") for _ in range(2)]
        assert [one.confidence for one in found] == [None, None]
        assert [one.attempts for one in found] == [1, 1]
        assert ["logprobs" in body for body in other.bodies] == [True, False, False]

    def test_an_unsure_answer_is_asked_again_then_refused(self) -> None:
        options = GroundingOptions(min_confidence=0.5)
        with (
            AnsweringServer(self.UNSURE) as other,
            MAIUIClient(other.url, options=options) as client,
            pytest.raises(ActionError, match="9% sure"),
        ):
            client.get_action(screenshot(), "Click Save")
        assert len(other.bodies) == 3

    def test_a_surer_second_answer_is_taken(self) -> None:
        options = GroundingOptions(min_confidence=0.5)
        with (
            AnsweringServer(self.UNSURE, self.SURE) as other,
            MAIUIClient(other.url, options=options) as client,
        ):
            assert client.ground(screenshot(), "Click Save").attempts == 2

    def test_not_asked_for(self) -> None:
        options = GroundingOptions(confidence=False, min_confidence=0.9)
        with AnsweringServer(self.SURE) as other, MAIUIClient(other.url, options=options) as client:
            assert client.ground(screenshot(), "Click Save").confidence is None
        assert "logprobs" not in other.bodies[0]


class TestZoom:
    def test_around_the_first_answer(self) -> None:
        with (
            AnsweringServer(point(900, 500), point(500, 500)) as other,
            MAIUIClient(other.url, options=GroundingOptions(zoom=Zoom(0.5, 2.0))) as client,
        ):
            found = client.ground(screenshot(), "Click Save")
        assert found.region == Region(500, 125, 500, 250)
        assert found.action == a.Click(750, 250)
        assert found.attempts == 2
        assert found.screen_size == (1000, 500)
        assert sent_image(other.bodies[1]).size == (992, 512)

    def test_an_unusable_second_look_leaves_the_first_answer(self) -> None:
        with (
            AnsweringServer(point(500, 500), "Nothing here.") as other,
            MAIUIClient(other.url, options=GroundingOptions(zoom=Zoom())) as client,
        ):
            found = client.ground(screenshot(), "Click Save")
        assert (found.action, found.region, found.attempts) == (a.Click(501, 250), None, 2)

    def test_only_where_the_first_answer_is_unsure(self) -> None:
        options = GroundingOptions(zoom=Zoom(below=0.5))
        for first, asked in ((TestConfidence.SURE, 1), (TestConfidence.UNSURE, 2)):
            with AnsweringServer(first, point(1, 1)) as other:
                with MAIUIClient(other.url, options=options) as client:
                    client.ground(screenshot(), "Click Save")
                assert len(other.bodies) == asked

    def test_neither_look_is_sure_enough(self) -> None:
        options = GroundingOptions(zoom=Zoom(), min_confidence=0.5)
        with (
            AnsweringServer(TestConfidence.UNSURE) as other,
            MAIUIClient(other.url, options=options) as client,
            pytest.raises(ActionError, match="sure"),
        ):
            client.ground(screenshot(), "Click Save")
        assert len(other.bodies) == 2


class TestNavigation:
    def test_history_as_trained(self) -> None:
        answers = [
            use(action="click", coordinate=[500, 500]),
            use(action="ask_user", text="Which é?"),
            use(action="swipe", direction="up"),
            use(action="terminate", status="success"),
        ]
        with (
            AnsweringServer(*answers) as other,
            NavigationAgent(
                other.url, "Order one", options=NavigationOptions(ask_user=True)
            ) as agent,
        ):
            steps = []
            for colour in ("red", "green", "blue", "white"):
                steps.append(agent.act(screenshot(colour=colour)))
                if isinstance(steps[-1].action, a.AskUser):
                    agent.tell("The first.")
        assert [step.action for step in steps] == [
            a.Click(501, 250),
            a.AskUser("Which é?"),
            a.Swipe("up"),
            a.Terminate("success"),
        ]
        assert [image_count(body) for body in other.bodies] == [1, 2, 3, 3]
        said = texts(other.bodies[3])
        assert "ask_user" in said[0][1]
        assert said[1] == ("user", "Order one")
        assert said[2][1] == (
            "<thinking>\nPlan.\n</thinking>\n<tool_call>\n"
            '{"name":"mobile_use","arguments":{"action":"click","coordinate":[500,500]}}\n'
            "</tool_call>"
        )
        assert "Which \\u00e9?" in said[4][1]
        assert said[5] == ("user", "The first.")
        assert [word for _, word in said].count("IMAGE") == 3

    def test_tools(self) -> None:
        tool = {"name": "search", "description": "Finds.", "parameters": {"type": "object"}}
        call = '<tool_call>\n{"name":"search","arguments":{"q":"tea"}}\n</tool_call>'
        options = NavigationOptions(tools=[tool])
        with (
            AnsweringServer(call, use(action="answer", text="Green.")) as other,
            NavigationAgent(other.url, "Find tea", options=options) as agent,
        ):
            assert agent.act(screenshot()).action == a.ToolCall("search", {"q": "tea"})
            agent.tell("Green tea.")
            assert agent.act(screenshot()).action == a.Answer("Green.")
        assert json.dumps(tool) in texts(other.bodies[0])[0][1]
        assert ("user", "Green tea.") in texts(other.bodies[1])

    def test_an_unusable_answer_leaves_the_history_as_it_was(self) -> None:
        with (
            AnsweringServer("no", "no", "no", use(action="wait")) as other,
            NavigationAgent(other.url, "Wait") as agent,
        ):
            with pytest.raises(ActionError, match="None of 3"):
                agent.act(screenshot())
            assert agent.turns == ()
            assert agent.act(screenshot()).action == a.Wait()
        assert len(agent.turns) == 1

    def test_blocks_keep_the_prefix_cache(self) -> None:
        """The same steps with screenshots dropped one by one, and in blocks of four."""

        def computed(window: HistoryWindow) -> tuple[int, int]:
            options = NavigationOptions(window=window)
            with (
                AnsweringServer(use(action="click", coordinate=[5, 5])) as other,
                NavigationAgent(other.url, "Work", options=options) as agent,
            ):
                steps = [agent.act(screenshot(colour=f"#0000{index:02x}")) for index in range(24)]
            counts = [(step.prompt_tokens or 0, step.cached_tokens or 0) for step in steps[4:]]
            return sum(all_ - cached for all_, cached in counts), max(c for c, _ in counts)

        trained, _ = computed(HistoryWindow(3))
        blocks, longest = computed(HistoryWindow(3, block=4))
        assert blocks < 0.7 * trained
        assert longest < 3000

    def test_asynchronous_is_the_same(self) -> None:
        async def go() -> list[a.Action]:
            async with AsyncNavigationAgent(other.url, "Log in") as agent:
                first = await agent.act(LOGIN)
                agent.tell("Go on.")
                second = await agent.act(LOGIN)
                agent.reset("Log out")
                return [first.action, second.action, (await agent.act(LOGIN)).action]

        answers = [use(action="click", coordinate=[0, 0]), use(action="wait"), use(action="wait")]
        with AnsweringServer(*answers) as other:
            assert asyncio.run(go()) == [a.Click(0, 0), a.Wait(), a.Wait()]
        assert ("user", "Go on.") in texts(other.bodies[1])
        assert texts(other.bodies[2])[1:] == [("user", "Log out"), ("user", "IMAGE")]

    def test_computer_use_navigates_too(self) -> None:
        call = {"action": "key", "keys": ["ctrl", "s"]}
        text = json.dumps({"name": "computer_use", "arguments": call})
        with (
            AnsweringServer(f"<tool_call>\n{text}\n</tool_call>", models=["qwen3-vl-8b"]) as other,
            NavigationAgent(other.url, "Save") as agent,
        ):
            assert agent.act(screenshot()).action == a.Key(("ctrl", "s"))
            agent.act(screenshot())
        assert [word for _, word in texts(other.bodies[1])[1:3]] == ["IMAGE", "Save"]

    @pytest.mark.parametrize("task", ["", "  "])
    def test_a_task_is_needed(self, task: str) -> None:
        with pytest.raises(UsageError):
            NavigationAgent("http://127.0.0.1:9", task)

    def test_nothing_to_reply_to(self) -> None:
        with NavigationAgent("http://127.0.0.1:9", "Log in") as agent, pytest.raises(UsageError):
            agent.tell("Yes.")


def test_the_event_loop_is_never_blocked() -> None:
    """While large screenshots are decoded and encoded, a ticker goes on.

    Between two ticks the loop's thread has little of the processor time that all threads have:
    unlike time on the clock, that does not grow while the machine does something else.
    """
    large = screenshot(4000, 3000)

    async def go() -> float:
        longest_s, done = 0.0, asyncio.Event()

        async def tick() -> None:
            nonlocal longest_s
            while not done.is_set():
                before_s = time.thread_time()
                await asyncio.sleep(0.005)
                longest_s = max(longest_s, time.thread_time() - before_s)

        ticking = asyncio.create_task(tick())
        options = GroundingOptions(max_pixels=8_000_000, zoom=Zoom())
        async with AsyncMAIUIClient(other.url, options=options) as client:
            await asyncio.gather(*(client.ground(large, "Click Save") for _ in range(3)))
        done.set()
        await ticking
        return longest_s

    with AnsweringServer(point(5, 5)) as other:
        started_s = time.process_time()
        longest_s = asyncio.run(go())
        whole_s = time.process_time() - started_s
    assert longest_s < whole_s / 2


def test_a_cancelled_question_ends_at_once() -> None:
    async def go() -> float:
        async with AsyncMAIUIClient(other.url) as client:
            asking = asyncio.create_task(client.get_action(screenshot(), "Click Save"))
            while not other.bodies:
                assert not asking.done(), asking
                await asyncio.sleep(0.01)
            started_s = time.perf_counter()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            return time.perf_counter() - started_s

    with AnsweringServer(point(1, 1), delay_s=60) as other:
        assert asyncio.run(go()) < 30


def test_a_refused_request_says_why() -> None:
    with (
        AnsweringServer(point(1, 1), logprobs=False) as other,
        MAIUIClient(other.url + "/nowhere", model="m") as client,
        pytest.raises(InvalidRequest),
    ):
        client.get_action(screenshot(), "Click Save")
