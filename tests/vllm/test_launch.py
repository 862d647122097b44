"""``belvedere serve --engine vllm``: from the plan, down the ladder, to a click and a report.

The server is that of ``conftest.py``: vLLM refuses its first start and names a length.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere import MAIUIClient
from tests.integration.serving import RunningServer, clean_environment
from tests.vllm.conftest import ASKED

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def replica(server: RunningServer) -> dict[str, Any]:
    (found,) = httpx2.get(f"{server.url}/health").json()["replicas"]
    return dict(found)


def test_the_ladder_says_its_step_and_reaches_a_length_that_fits(vllm: RunningServer) -> None:
    told = "".join(vllm.stderr)
    assert f"the model's max seq len ({ASKED})" in told
    view = replica(vllm)
    assert view["state"] == "ready"
    (change,) = view["report"]["changes"]
    assert change in told
    length = int(change.split()[1])
    # 10,240 bytes a token (2 x 5 layers x 4 heads x 64 x 4 bytes) in one GiB
    assert 0.95 * (1 << 30) / 10_240 < length < (1 << 30) / 10_240
    assert change == f"--max-model-len {length} instead of {ASKED}"


@pytest.mark.parametrize("row", ROWS, ids=[row["image"] for row in ROWS])
def test_the_click_is_right(vllm: RunningServer, row: dict[str, Any]) -> None:
    with MAIUIClient(vllm.url) as client:
        action = client.ground(EXAMPLES / row["image"], row["instruction"]).action
    left, top, right, bottom = row["box"]
    assert left <= action.x < right
    assert top <= action.y < bottom


def test_the_phases_of_the_start_were_told(vllm: RunningServer) -> None:
    told = "".join(vllm.stderr)
    for words in ("loading weights", "setting up the KV cache", "warming up"):
        assert words in told
    assert {"weights", "kv cache", "warmup"} <= replica(vllm)["phase_s"].keys()


def test_plan_and_report_agree_and_stand_side_by_side(vllm: RunningServer) -> None:
    report = replica(vllm)["report"]
    assert report["planned"]["kv_tokens"] == pytest.approx(report["reported"]["kv_tokens"], rel=0.1)
    assert report["reported"]["kv_bytes"] == 1 << 30
    assert report["deviations"] == []
    shown = subprocess.run(
        [sys.executable, "-m", "belvedere", "status", "--url", vllm.url],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=True,
    ).stdout
    assert "planned" in shown
    assert f"{report['reported']['kv_tokens']:,}" in shown
    assert f"changed: {report['changes'][0]}" in shown


def test_the_engine_is_behind_its_key_on_a_private_socket(vllm: RunningServer) -> None:
    """Its key is not on any command line, and it listens on no port."""
    (server,) = vllm.running("vllm.entrypoints.openai.api_server")[:1]
    argv = server.cmdline()
    key = server.environ()["VLLM_API_KEY"]
    assert key not in " ".join(argv)
    socket = argv[argv.index("--uds") + 1]
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=socket)) as http:
        assert http.get("http://engine/v1/models").status_code == 401
        known = http.get("http://engine/v1/models", headers={"authorization": f"Bearer {key}"})
        assert known.json()["data"][0]["id"] == "mini"
    listening = [
        connection
        for process in vllm.running("vllm")
        for connection in process.net_connections(kind="tcp")
        if connection.status == "LISTEN" and not connection.laddr.ip.startswith("127.")
    ]
    assert listening == []
