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
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from clinsynth.run_folder import (
    append_metrics,
    atomic_write,
    check_same_run,
    check_unchanged,
    complete_folder,
    drop_metrics_after,
    read_metrics,
    write_run_config,
)
from clinsynth.trainers.train_text_lora import MAY_DIFFER

if TYPE_CHECKING:
    from accelerate import PartialState

    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.trainers.text_lora.examples import Examples
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
    check_unchanged(
        output_dir,
        json.loads((output_dir / FACTS).read_text()),
        {name: examples.facts[name] for name in BINDING},
        "texts, task, tokenizer or the number of processes have changed: bring them back to go on, or name another "
        "--output_dir to start anew",
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


CONFIG = "config.json"
"""Without it a folder is no model: it is written last."""


@dataclass(frozen=True)
class Base:
    """The model as it is before training; `context` is the most tokens that it takes, None where it does not say."""

    model: Any
    tokenizer: Any
    context: int | None


def load_base(args: TextLoraArguments) -> Base:
    """Model and tokenizer of --model.

    Raises:
        ValueError: they cannot be had, or do not belong to each other; names the cause.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(args.model)
    gguf = path.suffix == ".gguf"
    source, options = (str(path.parent), {"gguf_file": path.name}) if gguf else (args.model, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=args.dtype, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model {args.model} cannot be loaded as a causal language model ({error}); check the path or id, and "
            "for the Hub the connection and HF_HUB_OFFLINE"
        ) from error
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise ValueError(
            f"--model {args.model}: its tokenizer has {len(tokenizer)} tokens and the network knows {known}; put the "
            "tokenizer of this model into its folder"
        )
    forget_gguf(model)
    return Base(model, tokenizer, getattr(model.config.get_text_config(), "max_position_embeddings", None))


def forget_gguf(model: Any) -> None:
    """Weights read from a GGUF file are plain numbers by now; what says otherwise bars training and saving."""
    if getattr(getattr(model.config, "quantization_config", None), "quant_method", None) == "gguf":
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False


def with_adapters(args: TextLoraArguments, model: Any) -> Any:
    """A PEFT model around `model`, whose adapters begin as nothing: its logits are the base's.

    Raises:
        ValueError: --target_modules names no layer.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    names: str | list[str] = [name.strip() for name in args.target_modules.split(",")]
    if names == ["all-linear"]:
        names = "all-linear"
    config = LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )
    set_seed(args.seed)  # the adapters' start
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        kinds = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if hasattr(part, "weight")})
        raise ValueError(
            f"--target_modules {args.target_modules}: {str(error).splitlines()[0]}; the layers of this model are "
            f"called {', '.join(kinds)}"
        ) from error


def save_adapter(model: Any, folder: Path) -> None:
    """The adapter alone, as `PeftModel.from_pretrained(base, folder)` takes it."""
    model.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the Hub


def publish(model: Any, tokenizer: Any, task: Task, adapter: Path, output_dir: Path) -> None:
    """Put the adapter's weights into `model`, merge them, and save what loads everywhere into `output_dir` itself.

    The task, and the pipeline's code, lie beside the weights: `transformers.pipeline("structured-medical-text", …)`
    loads the folder too.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    from clinsynth.pipelines.structured_medical_text import StructuredMedicalTextPipeline

    set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"))
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
