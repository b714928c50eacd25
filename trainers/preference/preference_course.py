"""The course of a preference run beside its steps: the looks of the guard, what is logged, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.run_folder import append_metrics, complete_folder, drop_metrics_after, read_metrics
from clinsynth.trainers.preference.guard import Guard
from clinsynth.trainers.preference.preference_adapter import SavedMerged
from clinsynth.trainers.training_state import TrainingState, checkpoints, drop_old_checkpoints, publish

if TYPE_CHECKING:
    from clinsynth.trainers.train_preference import PreferenceArguments


@dataclass
class Course:
    """A run under way. Of several processes all look, and the main one writes."""

    args: PreferenceArguments
    state: TrainingState
    pipeline: Any
    guard: Guard
    output_dir: Path
    writes: bool

    def __post_init__(self) -> None:
        self.saved_as = SavedMerged(self.pipeline) if self.args.lora_rank else self.pipeline
        self.looks = [record for record in read_metrics(self.output_dir) if "held_out_share" in record]

    def resume(self) -> None:
        """Take over the newest checkpoint, and forget what was logged after it."""
        saved = checkpoints(self.output_dir)
        if saved:
            self.state.load(saved[-1])
        if saved and self.writes:
            print(f"resuming at step {self.state.step} of {self.args.train_steps} from {saved[-1]}")
        if self.writes:
            drop_metrics_after(self.output_dir, self.state.step)
        self.looks = [look for look in self.looks if look["step"] <= self.state.step]

    @property
    def objection(self) -> str | None:
        """Why the guard stopped the run, if it did."""
        return self.looks[-1].get("stopped") if self.looks else None

    @property
    def over(self) -> bool:
        """Whether there is no step left to take."""
        return self.state.step >= self.args.train_steps or self.objection is not None

    def begin(self) -> None:
        """The first look, at the first-stage model, unless it was taken."""
        if self.looks:
            return
        self.looks.append({"step": 0, **self.watch()})
        if self.writes:
            self.keep_good()
            append_metrics(self.output_dir, self.looks[0])

    def watch(self) -> dict[str, Any]:
        """The guard's measurements of the weights that are saved."""
        with self.state.averaged_weights():
            return self.guard.measure(self.pipeline)

    def after_step(self, numbers: dict[str, float]) -> None:
        """Look where it is time to, and write what is due."""
        args, step = self.args, self.state.step
        record: dict[str, Any] = {"step": step, **numbers}
        looked = step == args.train_steps or step % args.guard_steps == 0
        if looked:
            record |= self.watch()
            objection = self.guard.objection(self.looks[0], record)
            record |= {"stopped": objection} if objection else {}
            self.looks.append(record)
        if not self.writes:
            return
        if looked and not self.objection:
            self.keep_good()
        if looked or step % args.log_steps == 0:
            append_metrics(self.output_dir, record)
        if self.over or step % args.checkpointing_steps == 0:
            self.state.save(self.output_dir, self.saved_as)
            drop_old_checkpoints(self.output_dir, args.checkpoints_total_limit)

    def keep_good(self) -> None:
        """Save the weights that the guard just accepted as `good`."""
        with complete_folder(self.output_dir / "good") as folder, self.state.averaged_weights():
            self.saved_as.save_pretrained(folder)

    def finish(self) -> None:
        """Leave the last weights that the guard accepted as the run's result."""
        if not self.writes:
            return
        publish(self.output_dir / "good", self.output_dir)
        step = self.state.step
        print(f"stopped at step {step}: {self.objection}" if self.objection else f"trained {step} steps")
        print(f"checkpoint: {self.output_dir}")
