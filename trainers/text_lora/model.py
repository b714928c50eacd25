"""The language model of a fine-tuned generator: the base, its adapters, and what is published of both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.models.language_models import load_causal_model
from clinsynth.run_folder import complete_folder
from clinsynth.trainers.text_lora.arguments import TextLoraArguments

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from clinsynth.pipelines.structured_medical_text.prompts import Task

CONFIG = "config.json"
"""Without it a folder is no model: it is written last."""


def is_model(output_dir: Path) -> bool:
    """Whether a finished model lies in the folder."""
    return (output_dir / CONFIG).exists()


@dataclass(frozen=True)
class Base:
    """The model as it is before training; `context` is the most tokens that it takes, None where it does not say."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int | None


def load_base(args: TextLoraArguments) -> Base:
    """Model and tokenizer of --model.

    Raises:
        ValueError: they cannot be had, or do not belong to each other; names the cause.
    """
    model, tokenizer = load_causal_model(args.model, args.dtype)
    embeddings: Any = model.get_input_embeddings()
    known = embeddings.num_embeddings
    if len(tokenizer) > known:
        raise ValueError(
            f"--model {args.model}: its tokenizer has {len(tokenizer)} tokens and the network knows {known}; put the "
            "tokenizer of this model into its folder"
        )
    return Base(model, tokenizer, getattr(model.config.get_text_config(), "max_position_embeddings", None))


def with_adapters(args: TextLoraArguments, model: PreTrainedModel) -> PeftModel:
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


def save_adapter(model: PeftModel, folder: Path) -> None:
    """The adapter alone, as `PeftModel.from_pretrained(base, folder)` takes it."""
    model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the Hub


def publish_merged(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, task: Task, adapter: Path, output_dir: Path
) -> None:
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
