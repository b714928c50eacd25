"""The language model to be fine-tuned: from an id, a folder or a GGUF file to a folder of merged weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.run_folder import complete_folder

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.trainers.train_text_lora import TextLoraArguments

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
