"""The training of the adapters with TRL's SFTTrainer, and what lets a killed run go on.

checkpoint-50/        the Trainer's own: adapter, optimizer and random states
adapter/              the adapter of the best validation loss, and in validation.json which that is
learning_curve.csv    step, loss and validation loss (nats a token)
training.json         counts of texts and tokens, best step
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from clinsynth.run_folder import (
    atomic_write,
    check_same_run,
    drop_metrics_after,
    read_metrics,
    write_run_config,
)
from clinsynth.trainers.text_lora.lora_journal import ADAPTER, Journal, best_of
from clinsynth.trainers.text_lora.lora_model import CONFIG, publish, with_adapters
from clinsynth.trainers.train_text_lora import MAY_DIFFER

if TYPE_CHECKING:
    from accelerate import PartialState

    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.trainers.text_lora.examples import Examples
    from clinsynth.trainers.text_lora.lora_model import Base
    from clinsynth.trainers.train_text_lora import TextLoraArguments

logger = logging.getLogger("clinsynth")

FACTS = "training.json"
BINDING = ("processes", "examples_sha256")
"""What of training.json a resumed run must agree with."""
KEPT_CHECKPOINTS = 2
WARM_UP = 0.05


class QuietTrainer(SFTTrainer):
    """TRL's trainer, which reports to nobody and writes no card."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass


def fit(
    args: TextLoraArguments, task: Task, examples: Examples, base: Base, output_dir: Path, state: PartialState
) -> None:
    """Train from the last checkpoint or from the start, and leave the merged model in `output_dir`.

    Raises:
        ValueError: the folder holds a run with other settings, texts or number of processes.
        FloatingPointError: a loss that is not finite.
    """
    saved = checkpoints(output_dir)
    if saved:
        check_same_run(output_dir, args, MAY_DIFFER)
        check_same_examples(output_dir, examples)
    start = int(saved[-1].name.split("-")[1]) if saved else 0
    if start == examples.steps and (output_dir / CONFIG).exists():
        logger.info("%s is finished: nothing is trained anew", output_dir)
        return
    state.wait_for_everyone()  # all have looked before one writes
    if state.is_main_process:
        begin(args, examples, output_dir, start)
    model = with_adapters(args, base.model)
    trainer = QuietTrainer(
        model=model,
        args=settings(args, examples, output_dir, state, fresh=not saved),
        train_dataset=examples.train,
        eval_dataset=examples.validation,
        processing_class=base.tokenizer,
        callbacks=[Journal(output_dir, examples)],
    )
    trainer.remove_callback(PrinterCallback)
    if saved:
        logger.info("resuming at step %d of %d from %s", start, examples.steps, saved[-1])
    if start < examples.steps:
        trainer.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
    if state.is_main_process:
        finish(task, examples, trainer, base.tokenizer, output_dir)
    state.wait_for_everyone()


def settings(
    args: TextLoraArguments, examples: Examples, output_dir: Path, state: PartialState, fresh: bool
) -> SFTConfig:
    """Those of TRL's trainer. The order of examples is in `examples`, so none is drawn here.

    A fresh run validates the base first, which training has to beat: within `train`, because a call of `evaluate`
    before it marks the model as prepared, and the gradients of several processes would never be joined.
    """
    on_cpu = state.device.type == "cpu"
    return SFTConfig(
        output_dir=str(output_dir),
        max_steps=examples.steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(WARM_UP * examples.steps),
        weight_decay=0.0,
        seed=args.seed,
        use_cpu=on_cpu,
        bf16=args.dtype == "bfloat16",
        gradient_checkpointing=False,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=False,
        eval_on_start=fresh,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=args.checkpointing_steps,
        save_total_limit=KEPT_CHECKPOINTS,
        report_to="none",
        disable_tqdm=True,
    )


def checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; one that a killed process left unfinished is passed over.

    The Trainer writes its state last, and each process the state of its random numbers.
    """
    facts = output_dir / FACTS
    processes = json.loads(facts.read_text())["processes"] if facts.exists() else 1
    randoms = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    found = []
    for path in output_dir.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        if all((path / name).exists() for name in randoms):
            found.append(path)
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def check_same_examples(output_dir: Path, examples: Examples) -> None:
    before = json.loads((output_dir / FACTS).read_text())
    for name in BINDING:
        if before[name] != examples.facts[name]:
            raise ValueError(
                f"the run in {output_dir} was started with {name} {before[name]}, and it is {examples.facts[name]} "
                "now: texts, task, tokenizer or the number of processes have changed; bring them back to go on, or "
                "name another --output_dir to start anew"
            )


def begin(args: TextLoraArguments, examples: Examples, output_dir: Path, start: int) -> None:
    """Write what the run is, and remove what a stopped one left behind step `start`."""
    write_run_config(output_dir, args)
    drop_metrics_after(output_dir, start if start else -1)
    if not start:
        (output_dir / CONFIG).unlink(missing_ok=True)
        shutil.rmtree(output_dir / ADAPTER, ignore_errors=True)
    if examples.canaries is not None:
        atomic_write(output_dir / "canaries.json", json.dumps(asdict(examples.canaries), indent=2) + "\n")
    atomic_write(output_dir / FACTS, json.dumps(examples.facts, indent=2) + "\n")


def finish(task: Task, examples: Examples, trainer: SFTTrainer, tokenizer: Any, output_dir: Path) -> None:
    """Merge the best adapter into the model, and write the learning curve and what came of it."""
    records, best = read_metrics(output_dir), best_of(output_dir)
    rows = io.StringIO()
    table = csv.DictWriter(rows, ["step", "loss", "validation_loss"], extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    atomic_write(output_dir / "learning_curve.csv", rows.getvalue())
    untrained = next(record["validation_loss"] for record in records if "validation_loss" in record)
    facts = json.loads((output_dir / FACTS).read_text()) | {
        "steps": examples.steps,
        "best_step": best["step"],
        "best_validation_loss": best["validation_loss"],
        "untrained_validation_loss": untrained,
    }
    publish(trainer.model, tokenizer, task, output_dir / ADAPTER, output_dir)
    atomic_write(output_dir / FACTS, json.dumps(facts, indent=2) + "\n")
    if not best["step"]:
        logger.warning("no pass lowered the validation loss: the model is the untrained one; change --learning_rate")
    print(
        f"validation loss {untrained:.3f} nats a token before, {best['validation_loss']:.3f} at step {best['step']} "
        f"of {examples.steps}, which is kept"
    )
