"""The journal of a fine-tuning: metrics.jsonl, progress, a validation after each pass, and the best adapter kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from clinsynth.run_folder import append_metrics, atomic_write, complete_folder
from clinsynth.trainers.text_lora.lora_model import save_adapter

if TYPE_CHECKING:
    from clinsynth.trainers.text_lora.examples import Examples

ADAPTER, BEST = "adapter", "validation.json"


class Journal(TrainerCallback):
    """Progress bar, metrics.jsonl, a validation after each pass, and the best adapter kept."""

    def __init__(self, output_dir: Path, examples: Examples):
        self.output_dir, self.examples = output_dir, examples
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        hidden = not state.is_world_process_zero
        self.bar = tqdm(total=self.examples.steps, initial=state.global_step, desc="train", disable=hidden)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, last = state.global_step, self.examples.steps
        control.should_evaluate = step == last or step % self.examples.steps_a_pass == 0
        if self.bar is not None:
            self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        check_finite(state.global_step, {name: logs[name] for name in ("loss", "grad_norm")})
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}")
        if state.is_world_process_zero:
            kept = {name: logs[name] for name in ("loss", "grad_norm", "learning_rate")}
            append_metrics(self.output_dir, {"step": state.global_step, **kept})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics: dict[str, float] = kwargs["metrics"]
        check_finite(state.global_step, metrics)
        if not state.is_world_process_zero:
            return
        found = {"step": state.global_step, "validation_loss": metrics["eval_loss"]}
        append_metrics(self.output_dir, found)
        folder = self.output_dir / ADAPTER
        if not folder.exists() or metrics["eval_loss"] < best_of(self.output_dir)["validation_loss"]:
            with complete_folder(folder) as aside:
                save_adapter(kwargs["model"], aside)
                atomic_write(aside / BEST, json.dumps(found) + "\n")


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raise a `FloatingPointError` for a loss or gradient that is no number."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"step {step}: {name} is {value}; lower --learning_rate, or give --dtype float32, and name another "
                "--output_dir"
            )


def best_of(output_dir: Path) -> dict[str, Any]:
    """`step` and `validation_loss` of the adapter that is kept."""
    best: dict[str, Any] = json.loads((output_dir / ADAPTER / BEST).read_text())
    return best
