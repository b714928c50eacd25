"""Rounds: training on preferences again and again, each time on new candidates of the model that came of it before.

round-1/, round-2/, …   of each round what a run of one round leaves, and round.json, without which it is not over;
                        its candidates are drawn from the weights `good` of the round before, which are those that
                        round began with where the guard accepted none of its own
metrics.jsonl           the lines of all rounds that are over, with the round
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.run_folder import atomic_write, read_metrics
from clinsynth.trainers.harness import Run
from clinsynth.trainers.preference.guard import KEPT, Guard
from clinsynth.trainers.training_state import checkpoints

RECORD = "round.json"
SEEDS_APART = 1000


@dataclass(frozen=True)
class Round:
    """Number `number`, from 1, of `count` rounds; of one alone `output_dir` is the folder."""

    number: int
    count: int
    output_dir: Path

    @property
    def folder(self) -> Path:
        """Of all that the round makes."""
        return self.output_dir if self.count == 1 else self.output_dir / f"round-{self.number}"

    @property
    def result(self) -> Path:
        """The model that came of the round, a pipeline folder."""
        return self.folder / KEPT

    @property
    def before(self) -> Round:
        """The round before this one, which is not the first."""
        return Round(self.number - 1, self.count, self.output_dir)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do for it."""
        return (self.folder / RECORD).exists()

    def seed(self, first: int) -> int:
        """The seed of its candidates, order and noise, where `first` is that of the first round."""
        return first + SEEDS_APART * (self.number - 1)

    def end(self, training: Run, guard: Guard) -> None:
        """Say how the round ended; of several, write it down and put its lines with those of the rounds before."""
        kept, step = guard.kept, training.state.step
        ended = f"stopped at step {step}: {guard.stopped}" if guard.stopped else f"trained {step} steps"
        if self.count == 1:
            print(ended)
            return
        atomic_write(self.output_dir / "metrics.jsonl", "".join(map(to_line, self.lines())))
        record = {"round": self.number, "steps": step, "kept_step": kept["step"]}
        record |= {"stopped": guard.stopped, "before": guard.looks[0], "after": kept}
        atomic_write(self.folder / RECORD, json.dumps(record, indent=1) + "\n")
        for checkpoint in checkpoints(self.folder):
            shutil.rmtree(checkpoint)
        gained = f"kept step {kept['step']}" if kept["step"] else "dropped, the next one begins where it began"
        print(f"round {self.number} of {self.count}: {ended}; {gained}; {compare(guard.looks[0], kept)}")

    def lines(self) -> list[dict[str, Any]]:
        """Those of metrics.jsonl of the rounds up to this one."""
        earlier = self.before.lines() if self.number > 1 else []
        return earlier + [{"round": self.number, **record} for record in read_metrics(self.folder)]


def to_line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What the guard measured at the start of a round and of what came of it."""
    names = {"held_out_share": "held-out judge", "judge_share": "judge", "frechet": "Fréchet distance"}
    return ", ".join(f"{name} {before[key]:.3g} to {after[key]:.3g}" for key, name in names.items() if key in before)
