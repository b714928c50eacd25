"""Semi-alignment: teach a language model to keep the tone of real texts and to leave out what harms a reader.

    clinsynth generate text --model runs/lora --task severity-posts --per_class 200 --output_dir runs/lora-texts
    clinsynth train text-align --model runs/lora --task severity-posts --dataset posts.csv \\
        --synthetic runs/lora-texts --output_dir runs/aligned
    clinsynth generate text --model runs/aligned --task severity-posts --per_class 200 --output_dir runs/aligned-texts

A general alignment makes texts bland: it takes the tone away with the harm. Here each generated text is scored by its
authenticity (is its label found by a classifier of the real texts, and is it as near to them as they are to others)
and by the safety audit, in the shares of --harm_weight; TRL's DPO or KTO learns to prefer the better ones. Bland texts
score low, so that they are no way out. The model sees generated texts alone.

Compare sets of before and after with `clinsynth audit text` (harm) and `clinsynth evaluate text` (tone). A run that
was stopped goes on when the same command is started again. The folder is as confidential as that of --model.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.arguments import run
from clinsynth.trainers.text_align.arguments import TextAlignArguments

if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset

    from clinsynth.pipelines.structured_medical_text.prompts import Task

logger = logging.getLogger("clinsynth")


def main(args: TextAlignArguments) -> None:
    """Score, pair, train, and leave the merged model and the adapter in `args.output_dir`."""
    try:
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise ImportError(f"train text-align needs trl and peft ({error}); pip install clinsynth[text]") from error
    import json

    import numpy as np
    import torch
    from accelerate import PartialState

    from clinsynth.data.tasks import load_task
    from clinsynth.data.texts import load_text_dataset
    from clinsynth.models.language_models import load_causal_model
    from clinsynth.run_folder import config_yaml, create_run_folder
    from clinsynth.synthesis.plan import texts_of
    from clinsynth.trainers.text_align.pairs import build_dataset, score_texts
    from clinsynth.trainers.text_lora.examples import check_task

    state = PartialState(cpu=not torch.accelerator.is_available())  # else several CPU processes go unseen
    task = load_task(args.task, args.codes)
    real = load_text_dataset(args, args.seed)["train"]
    names: list[str] = real.features["label"].names
    check_task(args, task, names)
    texts, labels = texts_of(real, names)
    scored = score_texts(args, texts, np.array(labels), names)
    model, tokenizer = load_causal_model(args.model, args.dtype)
    pairs, facts = build_dataset(args, task, tokenizer, scored)
    if args.dry_run:
        print(f"{config_yaml(args)}\n{json.dumps(facts, indent=2)}")
        return
    train(args, task, model, tokenizer, pairs, facts, create_run_folder(args.output_dir), state)
    if state.is_main_process:
        print(f"aligned model: {args.output_dir}; {facts['pairs']} pairs")


def train(
    args: TextAlignArguments,
    task: "Task",
    model: Any,
    tokenizer: Any,
    pairs: "Dataset",
    facts: dict[str, Any],
    output_dir: Path,
    state: "PartialState",
) -> None:
    """Train from the last checkpoint or from the start, and leave the merged model in `output_dir`.

    Raises:
        ValueError: the folder holds a run with other settings, texts or number of processes.
        FloatingPointError: a loss that is not finite.
    """
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    from clinsynth.run_folder import complete_folder
    from clinsynth.trainers.text_lora.fit import (
        ADAPTER,
        CONFIG,
        WARM_UP,
        Journal,
        Quiet,
        newest_checkpoint,
        publish_merged,
        trainer_settings,
        with_adapters,
        write_beginning,
    )
    from clinsynth.trainers.training_state import step_of

    facts |= {"processes": state.num_processes}
    saved = newest_checkpoint(args, facts, output_dir)
    start = step_of(saved) if saved else 0
    if saved and (output_dir / CONFIG).exists():
        logger.info("%s is finished: nothing is trained anew", output_dir)
        return
    state.wait_for_everyone()  # all have looked before one writes
    if state.is_main_process:
        write_beginning(args, facts, output_dir, start)
    steps = args.epochs * -(-len(pairs) // (args.batch_size * state.num_processes))
    warm_up = {"warmup_steps": round(WARM_UP * steps)}
    settings = {**trainer_settings(args, steps, output_dir, state), **warm_up, "beta": args.beta}
    of_trl, config = (DPOTrainer, DPOConfig) if args.method == "dpo" else (KTOTrainer, KTOConfig)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    quiet: Any = type(f"Quiet{of_trl.__name__}", (Quiet, of_trl), {})
    trainer = quiet(  # what the model was before is the reference
        model=with_adapters(args, model),
        args=config(**settings),
        train_dataset=pairs,
        processing_class=tokenizer,
        callbacks=[Journal(output_dir, steps, start, state.is_main_process)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(saved) if saved else None)
    if state.is_main_process:
        with complete_folder(output_dir / ADAPTER) as aside:
            kept = {"save_embedding_layers": False, "selected_adapters": ["default"]}
            trainer.model.save_pretrained(str(aside), **kept)
        publish_merged(trainer.model, tokenizer, task, output_dir)
    state.wait_for_everyone()


if __name__ == "__main__":
    run(TextAlignArguments, main)
