"""What an agent saw, thought and did: a folder that grows with every step.

::

    DIR/trajectory.jsonl     one object a line: "start", then a "step" each, then "end"
    DIR/screens/HASH.png     screenshots, named by the first 32 digits of their SHA-256

Lines and files are only added, in an order in which a line never names a file that does not exist
yet. A run that dies leaves a trajectory that ends early, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from belvedere._version import __version__
from belvedere.agent.actions import Action, from_dict, to_dict
from belvedere.agent.closing import Closing
from belvedere.agent.coordinates import Screen
from belvedere.agent.environments.base import Screenshot
from belvedere.agent.journal import Journal, read_journal
from belvedere.agent.secrets import MASK, Secrets
from belvedere.errors import ActionError, InputFileError

__all__ = [
    "Recorder",
    "Step",
    "Trajectory",
    "check_unused",
    "is_masked",
    "read_trajectory",
    "recorded_fields",
]

FORMAT = 1
_FILE = "trajectory.jsonl"
_SCREENS = "screens"


@dataclass(slots=True)
class Step:
    """One look at the screen, and what came of it; filled in while it happens.

    Attributes:
        number: from 1.
        instruction: what this step was to do.
        screenshot: what the model was shown.
        action: in pixels of the screenshot; ``None`` when the model gave none that is usable.
        thinking: the model's reasoning, where it gave one.
        answer: the model's whole text.
        confidence: probability of the point, 0..1, where it is known.
        verdict: the policy's: ``perform``, ``confirm`` or ``refuse``, and why.
        confirmed: what the person said who was asked.
        performed: whether the action was done, to its end.
        error: why not, when it failed.
        retries: earlier tries of this step that were thrown away, and why.
        url: of the page.
        secret: what is typed is not written down.
        times_ms: model, screenshot, check, perform.
    """

    number: int
    instruction: str
    screenshot: Screenshot | None = None
    action: Action | None = None
    thinking: str | None = None
    answer: str | None = None
    confidence: float | None = None
    verdict: str | None = None
    why: str | None = None
    confirmed: bool | None = None
    performed: bool = False
    error: str | None = None
    retries: list[str] = field(default_factory=list)
    url: str | None = None
    secret: bool = False
    times_ms: dict[str, float] = field(default_factory=dict)


_PLAIN = [one.name for one in fields(Step) if one.name not in ("screenshot", "action")]


class Recorder(Closing):
    """Writes a trajectory into a folder, which is made if need be.

    Args:
        start: what is known before the first step: the task, the environment, the model.

    Raises:
        InputFileError: the folder holds a trajectory already, or cannot be written.
    """

    def __init__(self, folder: Path, start: Mapping[str, Any], secrets: Secrets) -> None:
        self.folder = folder
        self._secrets = secrets
        check_unused(folder)
        try:
            (folder / _SCREENS).mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise InputFileError(
                f"{str(folder)!r} cannot be written ({exc.strerror}).", remedy="Choose another."
            ) from exc
        self._journal = Journal(folder / _FILE)
        head = {"format": FORMAT, "belvedere": __version__, "started": _now()}
        self._write("start", {**head, **start})

    def close(self) -> None:
        self._journal.close()

    def step(self, step: Step) -> None:
        """Saves a step: its screenshot, then its line."""
        row = recorded_fields(step)
        row["screen"] = self._screen(step.screenshot) if step.screenshot else None
        self._write("step", row)

    def end(self, reason: str, message: str, **more: Any) -> None:
        """Saves how it ended."""
        self._write("end", {"reason": reason, "message": message, "ended": _now(), **more})

    def _write(self, kind: str, row: Mapping[str, Any]) -> None:
        self._journal.append({"kind": kind, **self._secrets.clean(row)})

    def _screen(self, shot: Screenshot) -> dict[str, Any]:
        digest = hashlib.sha256(shot.png).hexdigest()
        path = self.folder / _SCREENS / f"{digest[:32]}.png"
        if not path.exists():
            partial = path.with_suffix(".part")
            partial.write_bytes(shot.png)
            partial.replace(path)
        return {"file": f"{_SCREENS}/{path.name}", **asdict(shot.screen)}


def recorded_fields(step: Step) -> dict[str, Any]:
    """All of a step but its screenshot, as JSON values; what is typed into a secret is masked."""
    row = {name: getattr(step, name) for name in _PLAIN}
    row["action"] = to_dict(step.action) if step.action else None
    if step.secret:
        row |= {"action": {"action": "type", "text": MASK}, "answer": MASK, "thinking": MASK}
    return row


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A recorded run.

    Attributes:
        start: the first line.
        steps: in order.
        end: the last line; ``None`` when the run died.
    """

    folder: Path
    start: Mapping[str, Any]
    steps: tuple[Step, ...]
    end: Mapping[str, Any] | None

    @property
    def task(self) -> str:
        """What the run was to do."""
        return str(self.start.get("task", ""))


def check_unused(folder: Path) -> None:
    """Raises `InputFileError` when the folder holds a trajectory already."""
    if (folder / _FILE).exists():
        raise InputFileError(
            f"{str(folder)!r} holds a trajectory already.", remedy="Choose another folder."
        )


def read_trajectory(folder: Path) -> Trajectory:
    """Reads what `Recorder` wrote, also of a run that died or still goes on.

    Raises:
        InputFileError: no trajectory is there, it is of a later format, or it was damaged.
    """
    rows = list(read_journal(folder / _FILE))
    if not rows or rows[0].get("kind") != "start":
        raise InputFileError(f"{str(folder)!r} holds no trajectory.", remedy="Check the path.")
    if rows[0].get("format") != FORMAT:
        raise InputFileError(
            f"The trajectory {str(folder)!r} has format {rows[0].get('format')!r}; "
            f"this version reads {FORMAT}."
        )
    try:
        steps = tuple(_step(folder, row) for row in rows if row.get("kind") == "step")
    except (KeyError, TypeError, ValueError, ActionError) as exc:
        raise InputFileError(f"The trajectory {str(folder)!r} is damaged.") from exc
    end = rows[-1] if rows[-1].get("kind") == "end" else None
    return Trajectory(folder, rows[0], steps, end)


def _step(folder: Path, row: Mapping[str, Any]) -> Step:
    step = Step(**{name: row[name] for name in _PLAIN})
    step.action = from_dict(row["action"]) if row["action"] else None
    if (screen := row["screen"]) is not None:
        step.screenshot = Screenshot(_png(folder, screen["file"]), _geometry(screen))
    return step


def _geometry(screen: Mapping[str, Any]) -> Screen:
    pixels, points, origin = (tuple(screen[name]) for name in ("pixels", "points", "origin"))
    return Screen(pixels, points, origin)


def _png(folder: Path, name: str) -> bytes:
    """A screenshot; the name is checked, since a trajectory may come from somebody else."""
    path = folder / _SCREENS / Path(name).name
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise InputFileError(f"The screenshot {str(path)!r} cannot be read.") from exc
    if not hashlib.sha256(data).hexdigest().startswith(path.stem):
        raise InputFileError(f"The screenshot {str(path)!r} was changed after the run.")
    return data


def is_masked(action: Action | None) -> bool:
    """Whether a recorded action lost its text to redaction, so that it cannot be repeated."""
    return action is not None and MASK in str(to_dict(action))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
