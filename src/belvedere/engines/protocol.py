"""What gateways and their supervisor say to each other: JSON objects, one a line.

A gateway asks ``{"id": 1, "op": ...}`` and gets ``{"reply": 1, "error": null}``, or an error with
``message`` and ``remedy``:

=======  ==================  =====================================================================
op       fields              effect
=======  ==================  =====================================================================
start    spec                begins an engine; refused while one of that name is alive
stop     name, drain         ends an engine, with or without letting its requests finish
forget   name                removes a ``stopped`` or ``failed`` engine from the table
sleep    name, level, abort  lets an engine sleep; ``abort`` cuts its running requests off
wake     name                wakes it again
check    name                a request ran into its timeout: look closely at the engine
linger   seconds             how long engines stay up when the last gateway dies
bye                          leaves; the reply's ``stopping`` says whether everything ends now
=======  ==================  =====================================================================

The supervisor says without being asked: first ``{"hello": {"version", "pid", "stopping"}}`` and the
whole table, ended by ``{"complete": true}``; then every change as ``{"engine": status}``, with
``"spec"`` beside it when the gateway has not seen it yet, or as ``{"forgotten": name}``; at the end
``{"stopping": true}``. Several changes of one engine may arrive as one. A reply comes after the
changes that its request made.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["MESSAGE_LIMIT_BYTES", "PROTOCOL_VERSION", "SOCKET_NAME", "decode", "encode"]

PROTOCOL_VERSION = 3
SOCKET_NAME = "supervisor.sock"
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message on a line.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        message = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message
