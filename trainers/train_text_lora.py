"""Fine-tune a language model on labelled real texts, so that it writes such texts when asked as `generate text` asks.

    clinsynth train text-lora --model HuggingFaceTB/SmolLM2-135M-Instruct --task note-sections --dataset mts-dialog \\
        --drop_small_classes --output_dir runs/lora
    torchrun --nproc_per_node 2 trainers/train_text_lora.py --model … --task note-sections --dataset … --output_dir …
    clinsynth generate text --model runs/lora --task note-sections --dataset mts-dialog --per_class 100 \\
        --output_dir runs/lora-texts

Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) learn p(text | label). A training example is the prompt that
`clinsynth generate text` would write for the label, and after it the task's JSON of a real text; the loss is on the
JSON alone. Persona, situation, style and length of a prompt are drawn anew each time and independently of the text, as
they are in generation: they look familiar there, and since they tell nothing of the text, the label is what is left to
learn from. What sets two rows of one label apart afterwards is the sampling and no longer the persona.

A model that is trained on patients' texts memorises some of them, and can give them away word by word, to whoever has
the weights too. Look at what it writes with `clinsynth evaluate text` before anything leaves the house; --canaries
plants sentences whose coming back is measured there. The folder is as confidential as the texts are.

The folder --output_dir then loads with `AutoModelForCausalLM.from_pretrained(folder)`; its adapter/ is the adapter
alone. A run that was stopped goes on when the same command is started again, and ends with the same weights.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.arguments import run
from clinsynth.data.arguments import TextDataArguments
from clinsynth.trainers.text_lora.arguments import TextLoraArguments

if TYPE_CHECKING:
    from accelerate import PartialState

    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.trainers.text_lora.examples import Base, Examples

logger = logging.getLogger("clinsynth")


def main(args: TextLoraArguments) -> None:
    """Train, and leave the merged model and the adapter in `args.output_dir`."""
    try:
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise ImportError(f"train text-lora needs trl and peft ({error}); pip install clinsynth[text]") from error
    import torch
    from accelerate import PartialState

    from clinsynth.data.tasks import load_task
    from clinsynth.data.texts import load_text_dataset
    from clinsynth.metrics.privacy.exact import keep_training_digest, text_digests
    from clinsynth.run_folder import config_yaml, create_run_folder
    from clinsynth.trainers.text_lora.examples import build_examples, check_task, load_base

    state = PartialState(cpu=not torch.accelerator.is_available())  # else several CPU processes go unseen
    task = load_task(args.task, args.codes)
    splits = load_text_dataset(args, args.seed)
    check_task(args, task, splits["train"].features["label"].names)
    base = load_base(args)
    examples = build_examples(args, task, splits, base, state)
    if args.dry_run:
        print(f"{config_yaml(args)}\n{examples.dry_run_text()}")
        return
    output_dir = create_run_folder(args.output_dir)
    train(args, task, examples, base, output_dir, state)
    if state.is_main_process:
        keep_training_digest(output_dir, text_digests(splits["train"]["text"]))
        print(closing_words(args))


def train(
    args: TextLoraArguments, task: "Task", examples: "Examples", base: "Base", output_dir: Path, state: "PartialState"
) -> None:
    """Train from the last checkpoint or from the start, and leave the merged model in `output_dir`.

    Raises:
        ValueError: the folder holds a run with other settings, texts or number of processes.
        FloatingPointError: a loss that is not finite.
    """
    import json
    from dataclasses import asdict

    from transformers import PrinterCallback
    from trl import SFTConfig

    from clinsynth.run_folder import atomic_write
    from clinsynth.trainers.text_lora.fit import (
        CONFIG,
        QuietSFT,
        ValidatedJournal,
        finish,
        newest_checkpoint,
        trainer_settings,
        with_adapters,
        write_beginning,
    )
    from clinsynth.trainers.training_state import step_of

    saved = newest_checkpoint(args, examples.facts, output_dir)
    start = step_of(saved) if saved else 0
    if start == examples.steps and (output_dir / CONFIG).exists():
        logger.info("%s is finished: nothing is trained anew", output_dir)
        return
    state.wait_for_everyone()  # all have looked before one writes
    if state.is_main_process:
        write_beginning(args, examples.facts, output_dir, start)
        if examples.canaries is not None:
            atomic_write(output_dir / "canaries.json", json.dumps(asdict(examples.canaries), indent=2) + "\n")
    journal = ValidatedJournal(output_dir, examples.steps, start, state.is_main_process)
    journal.steps_a_pass = examples.steps_a_pass
    # A fresh run validates the base first, which training has to beat: within `train`, because a call of `evaluate`
    # before it marks the model as prepared, and the gradients of several processes would never be joined.
    settings = SFTConfig(
        **trainer_settings(args, examples.steps, output_dir, state),
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation,
        train_sampling_strategy="sequential",  # the order of examples is in `examples`
        dataset_kwargs={"skip_prepare_dataset": True},
        ddp_find_unused_parameters=False,
        eval_on_start=not saved,
    )
    model = with_adapters(args, base.model)
    trainer = QuietSFT(
        model=model,
        args=settings,
        train_dataset=examples.train,
        eval_dataset=examples.validation,
        processing_class=base.tokenizer,
        callbacks=[journal],
    )
    trainer.remove_callback(PrinterCallback)
    if start < examples.steps:
        trainer.train(resume_from_checkpoint=str(saved) if saved else None)
    if state.is_main_process:
        finish(task, examples, model, base, output_dir)
    state.wait_for_everyone()


def closing_words(args: TextLoraArguments) -> str:
    """How to write texts with the model, and how to look for memorised ones among them."""
    import shlex
    from dataclasses import fields

    data = [
        (f"--{field.name}", ",".join(value) if isinstance(value, list) else str(value))
        for field in fields(TextDataArguments)
        if (value := getattr(args, field.name)) != field.default
    ]
    flags = [word for pair in data for word in pair]
    codes = ["--codes", args.codes] if args.codes else []
    texts = f"{args.output_dir.rstrip('/')}-texts"
    write = ["--model", args.output_dir, "--task", args.task, *codes, *flags, "--per_class", "100"]
    check = ["--real" if word == "--dataset" else word for word in [*flags, "--synthetic", texts]]
    return (
        f"fine-tuned model: {args.output_dir}\nwrite texts with it:\n"
        f"  clinsynth generate text {shlex.join([*write, '--output_dir', texts])}\n"
        "and see whether they give train texts away:\n"
        f"  clinsynth evaluate text {shlex.join([*check, '--encoder'])} … --output_dir {shlex.quote(texts)}-evidence"
    )


if __name__ == "__main__":
    run(TextLoraArguments, main)
