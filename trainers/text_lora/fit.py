"""What stands around TRL's trainers: adapters, settings, the journal of a run, and what lets a killed run go on.

checkpoint-50/        the Trainer's own: adapter, optimizer and random states
adapter/              the adapter of the best validation loss, for `PeftModel.from_pretrained(base, folder)`, and in
                      validation.json which that is
learning_curve.csv    step, loss and validation loss (nats a token)
training.json         counts of texts and tokens, best step
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import SFTTrainer

from clinsynth.run_folder import (
    append_metrics,
    atomic_write,
    check_same_run,
    check_unchanged,
    complete_folder,
    drop_metrics_after,
    read_json,
    read_metrics,
    write_run_config,
)
from clinsynth.trainers.arguments import MAY_DIFFER
from clinsynth.trainers.harness import check_finite
from clinsynth.trainers.training_state import numbered_checkpoints

if TYPE_CHECKING:
    from accelerate import PartialState
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.trainers.text_align.arguments import TextAlignArguments
    from clinsynth.trainers.text_lora.arguments import TextLoraArguments
    from clinsynth.trainers.text_lora.examples import Base, Examples


logger = logging.getLogger("clinsynth")

CONFIG = "config.json"
"""Without it a folder is no model: it is written last."""
ADAPTER, BEST = "adapter", "validation.json"
FACTS = "training.json"
BINDING = ("processes", "examples_sha256", "pairs_sha256")
"""What of training.json a resumed run must agree with."""
KEPT_CHECKPOINTS = 2
WARM_UP = 0.05


class Quiet:
    """A trainer of TRL that reports to nobody and writes no card."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass


class QuietSFT(Quiet, SFTTrainer):
    """TRL's, quietly."""


def trainer_settings(
    args: TextLoraArguments | TextAlignArguments, steps: int, output_dir: Path, state: PartialState
) -> dict[str, Any]:
    """What the configuration of each of TRL's trainers is given here; the learning rate falls as a cosine."""
    on_cpu = state.device.type == "cpu"
    return {
        "output_dir": str(output_dir),
        "max_steps": steps,
        "per_device_train_batch_size": args.batch_size,
        "max_length": None,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(WARM_UP * steps),
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


def trainer_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; one that a killed process left unfinished is passed over.

    The Trainer writes its state last, and each process the state of its random numbers.
    """
    processes = read_json(output_dir / FACTS).get("processes", 1)
    randoms = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    return [
        path
        for path in numbered_checkpoints(output_dir)
        if is_json(path / "trainer_state.json") and all((path / name).exists() for name in randoms)
    ]


def is_json(path: Path) -> bool:
    """Whether there is such a file, written to its end."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True


def newest_checkpoint(
    args: TextLoraArguments | TextAlignArguments, facts: dict[str, Any], output_dir: Path
) -> Path | None:
    """Where the run in `output_dir` goes on; None where it begins.

    Raises:
        ValueError: it was begun with other settings, texts or number of processes.
    """
    saved = trainer_checkpoints(output_dir)
    if not saved:
        return None
    check_same_run(output_dir, args, MAY_DIFFER)
    check_unchanged(
        output_dir,
        read_json(output_dir / FACTS),
        {name: facts[name] for name in BINDING if name in facts},
        "texts, task, tokenizer, scores or the number of processes have changed: bring them back to go on, or name "
        "another --output_dir to start anew",
    )
    logger.info("resuming at %s", saved[-1])
    return saved[-1]


def write_beginning(
    args: TextLoraArguments | TextAlignArguments, facts: dict[str, Any], output_dir: Path, start: int
) -> None:
    """Write what the run is, and remove what a stopped one left behind step `start`."""
    write_run_config(output_dir, args)
    drop_metrics_after(output_dir, start if start else -1)
    if not start:
        (output_dir / CONFIG).unlink(missing_ok=True)
        shutil.rmtree(output_dir / ADAPTER, ignore_errors=True)
    atomic_write(output_dir / FACTS, json.dumps(facts, indent=2) + "\n")


def finish(task: Task, examples: Examples, model: PeftModel, base: Base, output_dir: Path) -> None:
    """Merge the best adapter into the model, and write the learning curve and what came of it."""
    records, best = read_metrics(output_dir), read_json(output_dir / ADAPTER / BEST)
    rows = io.StringIO()
    table = csv.DictWriter(rows, ["step", "loss", "validation_loss"], extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    atomic_write(output_dir / "learning_curve.csv", rows.getvalue())
    untrained = next(record["validation_loss"] for record in records if "validation_loss" in record)
    facts = examples.facts | {
        "steps": examples.steps,
        "best_step": best["step"],
        "best_validation_loss": best["validation_loss"],
        "untrained_validation_loss": untrained,
    }
    publish_merged(model, base.tokenizer, task, output_dir)
    atomic_write(output_dir / FACTS, json.dumps(facts, indent=2) + "\n")
    if not best["step"]:
        logger.warning("no pass lowered the validation loss: the model is the untrained one; change --learning_rate")
    print(
        f"validation loss {untrained:.3f} nats a token before, {best['validation_loss']:.3f} at step {best['step']} "
        f"of {examples.steps}, which is kept"
    )


class Journal(TrainerCallback):
    """Progress bar and metrics.jsonl of a Trainer that logs every step; a step that is not finite ends the run.

    Args:
        output_dir: of the run.
        steps: of the run.
        start: the step that it goes on after.
        writes: whether this is the process that writes.
    """

    logged = ("loss", "grad_norm", "learning_rate", "rewards/margins", "rewards/accuracies")

    def __init__(self, output_dir: Path, steps: int, start: int, writes: bool):
        self.output_dir, self.steps, self.writes = output_dir, steps, writes
        self.bar = tqdm(total=steps, initial=start, desc="train", disable=not writes)

    def on_log(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        check_finite(state.global_step, {name: logs[name] for name in ("loss", "grad_norm")}, self.output_dir)
        self.bar.set_postfix(loss=f"{logs['loss']:.4f}")
        if self.writes:
            kept = {name: logs[name] for name in self.logged if name in logs}
            append_metrics(self.output_dir, {"step": state.global_step, **kept})

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar.update()


class ValidatedJournal(Journal):
    """With a validation every `steps_a_pass` steps and after the last, and the best adapter kept."""

    steps_a_pass: int

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_step_end(args, state, control)
        step = state.global_step
        control.should_evaluate = step == self.steps or step % self.steps_a_pass == 0

    def on_evaluate(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics: dict[str, float] = kwargs["metrics"]
        check_finite(state.global_step, metrics, self.output_dir)
        if not self.writes:
            return
        found = {"step": state.global_step, "validation_loss": metrics["eval_loss"]}
        append_metrics(self.output_dir, found)
        folder = self.output_dir / ADAPTER
        if not folder.exists() or metrics["eval_loss"] < read_json(folder / BEST)["validation_loss"]:
            with complete_folder(folder) as aside:
                kwargs["model"].save_pretrained(str(aside), save_embedding_layers=False)  # "auto" would ask the Hub
                atomic_write(aside / BEST, json.dumps(found) + "\n")


def with_adapters(args: TextLoraArguments | TextAlignArguments, model: PreTrainedModel) -> PeftModel:
    """A PEFT model around `model`, whose adapters begin as nothing: its logits are the base's.

    Raises:
        ValueError: --target_modules names no layer.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    names = [name.strip() for name in args.target_modules.split(",")]
    config = LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules="all-linear" if names == ["all-linear"] else names,
        task_type="CAUSAL_LM",
    )
    set_seed(args.seed)  # the adapters' start
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        kinds = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if hasattr(part, "weight")})
        raise ValueError(
            f"--target_modules {args.target_modules}: {str(error).splitlines()[0]}; the layers of this model are "
            f"called {', '.join(kinds)}"
        ) from error
    found: Any = adapted.peft_config["default"]
    found.target_modules = sorted(found.target_modules)  # a set would be written in another order each time
    return adapted


def publish_merged(model: PeftModel, tokenizer: PreTrainedTokenizerBase, task: Task, output_dir: Path) -> None:
    """Put the best adapter's weights into `model`, merge them, and save what loads everywhere into `output_dir`.

    The task, and the pipeline's code, lie beside the weights: `transformers.pipeline("structured-medical-text", …)`
    loads the folder too.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    from clinsynth.pipelines.structured_medical_text import StructuredMedicalTextPipeline

    set_peft_model_state_dict(model, load_peft_weights(str(output_dir / ADAPTER), device="cpu"))
    merged = model.merge_and_unload().eval()
    pipeline = StructuredMedicalTextPipeline(
        model=merged, tokenizer=tokenizer, task=task.to_dict(), schema=task.schema, device=merged.device
    )
    (output_dir / CONFIG).unlink(missing_ok=True)
    with complete_folder(output_dir / "merged") as folder:
        pipeline.save_pretrained(folder)
    for path in sorted((output_dir / "merged").iterdir(), key=lambda path: path.name == CONFIG):
        os.replace(path, output_dir / path.name)
    (output_dir / "merged").rmdir()
