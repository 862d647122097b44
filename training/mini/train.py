"""Train the mini model: `python -m training.mini.train --run FOLDER [--export FOLDER]`.

Resumable: the run's folder keeps the newest state and the log (CSV). A new run can also start from
trained weights: `--from src/belvedere/mini --stage wide`.
"""

from __future__ import annotations

import argparse
import csv
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Qwen3VLForConditionalGeneration

from training.mini.architecture import build_model, write_folder
from training.mini.batches import Batch, batches
from training.mini.heads import Heads
from training.mini.initialise import initialise
from training.mini.install_offsets import WIDER, install_offsets
from training.mini.install_places import install_places
from training.mini.losses import learn
from training.mini.optimiser import Optimisers
from training.mini.places import found_channel, freeze_places, keep_clear
from training.mini.stages import STAGES, Stage

SAVE_EVERY_S = 120.0
LOG_EVERY_S = 15.0
WARM_UP_STEPS = 50
OFFSET_BATCHES = 36
SETTLED_STEPS = 200
"""A running mean of fewer steps proves nothing, after a resumption neither."""
SETTLING_STEPS = 250
"""Steps in which only the throw-away heads learn, where weights come from an exported folder."""

FIGURES = (
    *("read", "spelt", "named", "pointed", "looked", "hit"),
    *("reading_loss", "place_loss", "where_loss", "spelling_loss", "naming_loss", "pointing_loss"),
    *("attention_loss", "frame_loss", "x_loss", "y_loss", "hit_described"),
    *("kinds", "look_loss", "sense_loss"),
)


@dataclass
class Progress:
    """Where a run stands: the stage, the seconds it was trained, all steps and all seconds.

    `settling` counts down the steps in which only the heads learn.
    """

    stage: int = 0
    stage_s: float = 0.0
    stage_steps: int = 0
    total_s: float = 0.0
    total_steps: int = 0
    settling: int = 0


def larger(stage: Stage, factor: int) -> Stage:
    """The same stage with `factor` times as many screens in each batch."""
    canvases = tuple((width, height, factor * n) for width, height, n in stage.supply.canvases)
    return replace(stage, supply=replace(stage.supply, canvases=canvases))


class Trainer:
    """Model, heads and optimisers of one run, with their state on disk."""

    def __init__(
        self, folder: Path, device: torch.device, seed: int, *, bfloat16: bool = True
    ) -> None:
        self.folder, self.device, self.bfloat16 = folder, device, bfloat16
        folder.mkdir(parents=True, exist_ok=True)
        self.model: Qwen3VLForConditionalGeneration = build_model(seed)
        initialise(self.model, seed)
        self.heads = Heads(self.model.config.text_config.hidden_size)
        self.model.to(device)
        self.heads.to(device)
        self.progress = Progress()
        self.recent: dict[str, float] = {}
        self.optimisers = self._fresh_optimisers(STAGES[0])
        self.stopping = False
        self.place_rows: torch.Tensor | None = None
        if (folder / "state.pt").exists():
            self._load()

    def stop(self, *_: object) -> None:
        """Signal handler: finish the step, save, leave."""
        self.stopping = True

    def _fresh_optimisers(self, stage: Stage) -> Optimisers:
        named = [*self.model.named_parameters(), *self.heads.named_parameters(prefix="heads")]
        return Optimisers(named, stage.peak_lr)

    def start_from(self, folder: Path, stage: str) -> None:
        """Begin a new run at `stage` with the weights of an exported folder and fresh heads."""
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.place_rows = found_channel(self.model)
        if self.place_rows is not None:
            freeze_places(self.model)
        index = next(index for index, item in enumerate(STAGES) if item.name == stage)
        self.progress = Progress(stage=index, settling=SETTLING_STEPS)

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        own = self.heads.state_dict()
        if not own.keys() >= state["heads"].keys():
            raise ValueError(f"{self.folder} was written by other heads than these")
        self.heads.load_state_dict({**own, **state["heads"]})
        self.optimisers.load_state_dict(state["optimisers"])
        self.progress = Progress(**state["progress"])
        self.place_rows = state.get("place_rows")
        if self.place_rows is not None:
            freeze_places(self.model)

    def save(self) -> None:
        """Write the state so that a kill at any time leaves a whole one."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": self.optimisers.state_dict(),
            "progress": vars(self.progress),
            "place_rows": self.place_rows,
        }
        torch.save(state, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")

    def run(self, workers: int, factor: int = 1) -> None:
        """All stages from where the run stands, with `factor` times as many screens in a batch."""
        while self.progress.stage < len(STAGES) and not self.stopping:
            stage = larger(STAGES[self.progress.stage], factor)
            self.optimisers.peak_lr = stage.peak_lr
            self._run_stage(stage, workers)
            if not self.stopping:
                self.progress.stage += 1
                self.progress.stage_s, self.progress.stage_steps = 0.0, 0
            self.save()

    def _run_stage(self, stage: Stage, workers: int) -> None:
        self.recent = {}
        stream = batches(stage.supply, stage.seed + self.progress.total_steps, workers)
        saved = logged = started = time.monotonic()
        for number, batch in enumerate(stream):
            if stage.places and self.place_rows is None:
                self._install_places(stage, batch.to(self.device))
            if stage.offsets and self.place_rows is not None and len(self.place_rows) < WIDER:
                self._install_offsets(stage, stream)
            self._step(stage, batch.to(self.device))
            now = time.monotonic()
            self.progress.stage_s += now - started
            self.progress.total_s += now - started
            started = now
            reached = self.recent.get(stage.figure, 0.0) >= stage.goal
            done = self.progress.stage_s > 60 * stage.minutes
            done = done or (reached and number > SETTLED_STEPS)
            if now - logged > LOG_EVERY_S or done:
                self._log(stage)
                logged = now
            if now - saved > SAVE_EVERY_S:
                self.save()
                saved = now
            if done or self.stopping:
                return

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _install_places(self, stage: Stage, batch: Batch) -> None:
        def run() -> object:
            return learn(self.model, self.heads, batch, stage.weights, stage.depth)

        self.place_rows = install_places(self.model, batch, run, stage.depth)
        freeze_places(self.model)

    def _install_offsets(self, stage: Stage, stream: Iterator[Batch]) -> None:
        def run(batch: Batch) -> object:
            with torch.no_grad(), self._autocast():
                return learn(self.model, self.heads, batch, stage.weights, stage.depth)

        some = [batch.to(self.device) for batch in islice(stream, OFFSET_BATCHES)]
        self.place_rows = install_offsets(self.model, self.place_rows, some, run)

    def _step(self, stage: Stage, batch: Batch) -> None:
        with self._autocast():
            outcome = learn(self.model, self.heads, batch, stage.weights, stage.depth)
        (outcome.loss / stage.gathered).backward()
        self.progress.stage_steps += 1
        self.progress.total_steps += 1
        for name, value in outcome.figures.items():
            self.recent[name] = 0.97 * self.recent.get(name, value) + 0.03 * value
        if self.progress.settling:
            self.progress.settling -= 1
            self.model.zero_grad()
        if self.progress.stage_steps % stage.gathered == 0:
            self._update(stage)

    def _update(self, stage: Stage) -> None:
        factor = min(1.0, self.progress.stage_steps / WARM_UP_STEPS)
        if stage.decay:
            left = 1 - self.progress.stage_s / (60 * stage.minutes)
            factor *= stage.floor + (1 - stage.floor) * max(0.0, left)
        self.optimisers.step(factor)
        if self.place_rows is not None:
            keep_clear(self.model, self.place_rows)

    def _log(self, stage: Stage) -> None:
        path = self.folder / "log.csv"
        new = not path.exists()
        row = [stage.name, self.progress.total_steps, round(self.progress.total_s, 1)]
        row += [round(self.recent[key], 4) if key in self.recent else "" for key in FIGURES]
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["stage", "step", "seconds", *FIGURES])
            writer.writerow(row)
        shown = " ".join(f"{k}={self.recent[k]:.3f}" for k in FIGURES if k in self.recent)
        print(f"{row[0]} step {row[1]} {row[2]:.0f} s {shown}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of states and logs")
    parser.add_argument("--from", dest="start", type=Path, help="exported folder to start from")
    parser.add_argument("--stage", default=STAGES[-1].name, help="first stage after --from")
    parser.add_argument("--export", type=Path, help="write the model folder here and stop")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--float32", action="store_true", help="no bfloat16: some CPUs are faster so"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw screens")
    parser.add_argument("--batch", type=int, default=1, help="times as many screens (for a GPU)")
    options = parser.parse_args()
    device = torch.device(options.device)
    trainer = Trainer(options.run, device, options.seed, bfloat16=not options.float32)
    if options.export:
        write_folder(trainer.model, options.export)
        return
    if options.start and not (options.run / "state.pt").exists():
        trainer.start_from(options.start, options.stage)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, trainer.stop)
    trainer.run(options.workers, options.batch)


if __name__ == "__main__":
    main()
