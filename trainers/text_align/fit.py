"""What stands around TRL's DPOTrainer and KTOTrainer: settings, the journal of a run, and what lets one go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerControl, TrainerState
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from clinsynth.run_folder import (
    atomic_write,
    check_unchanged,
    drop_metrics_after,
    read_json,
    write_run_config,
)
from clinsynth.trainers.text_align.arguments import TextAlignArguments
from clinsynth.trainers.text_lora.fit import CONFIG, FACTS, KEPT_CHECKPOINTS, WARM_UP, LoggedSteps

if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset


def begin(args: TextAlignArguments, facts: dict[str, Any], output_dir: Path, start: int) -> None:
    """Write what the run is, and remove what a stopped one left behind step `start`."""
    write_run_config(output_dir, args)
    drop_metrics_after(output_dir, start if start else -1)
    (output_dir / CONFIG).unlink(missing_ok=True)
    atomic_write(output_dir / FACTS, json.dumps(facts, indent=2) + "\n")


def check_same_pairs(output_dir: Path, facts: dict[str, Any]) -> None:
    check_unchanged(
        output_dir,
        read_json(output_dir / FACTS),
        {name: facts[name] for name in ("pairs_sha256", "processes")},
        "texts, scores, task or the number of processes have changed: bring them back to go on, or name another "
        "--output_dir to start anew",
    )


def build_trainer(
    args: TextAlignArguments, model: Any, tokenizer: Any, pairs: Dataset, output_dir: Path, state: PartialState
) -> Any:
    """TRL's trainer of --method; what the model was before is the reference."""
    on_cpu = state.device.type == "cpu"
    steps = args.epochs * -(-len(pairs) // (args.batch_size * state.num_processes))
    settings: dict[str, Any] = {
        "output_dir": str(output_dir),
        "max_steps": steps,
        "per_device_train_batch_size": args.batch_size,
        "beta": args.beta,
        "max_length": None,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(WARM_UP * steps),
        "weight_decay": 0.0,
        "seed": args.seed,
        "use_cpu": on_cpu,
        "bf16": args.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": not on_cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": args.checkpointing_steps,
        "save_total_limit": KEPT_CHECKPOINTS,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    common = {"model": model, "train_dataset": pairs, "processing_class": tokenizer}
    common["callbacks"] = [Journal(output_dir, steps, state.is_main_process)]
    dpo = args.method == "dpo"
    trainer: Any = (
        QuietDPO(args=DPOConfig(**settings), **common) if dpo else QuietKTO(args=KTOConfig(**settings), **common)
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Quiet:
    """A trainer of TRL that reports to nobody and writes no card."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass


class QuietDPO(Quiet, DPOTrainer):
    """TRL's, quietly."""


class QuietKTO(Quiet, KTOTrainer):
    """TRL's, quietly."""


class Journal(LoggedSteps):
    """Progress bar and metrics.jsonl."""

    logged = (*LoggedSteps.logged, "rewards/margins", "rewards/accuracies")

    def __init__(self, output_dir: Path, steps: int, writes: bool):
        super().__init__(output_dir, tqdm(total=steps, desc="align", disable=not writes), writes)

    def on_train_begin(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar.update(state.global_step)

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar.update()
