"""A small real language model that several tests use."""

from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = "rain walks over the quiet house while old friends count small lamps and nobody sleeps till morning".split()
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 tokens, trained on a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), 'Answer as {"text": "the post"}.'] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def save_tiny_model(folder: Path, seed: int = 0, chat: bool = True) -> Path:
    """An untrained Llama of two layers with its tokenizer."""
    tokenizer = tiny_tokenizer(chat)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_small_task(path: Path) -> Path:
    """A task of short texts: what a tiny model writes in seconds."""
    text = {"type": "string", "minLength": 12, "maxLength": 30}
    task = {
        "name": "small",
        "schema": {
            "type": "object",
            "properties": {"text": text},
            "required": ["text"],
            "additionalProperties": False,
        },
        "system": "Write.",
        "user": "{{ label | quote }}: {{ meaning }}, {{ persona }}, {{ situation }}, {{ background }}, {{ words }}",
        "labels": {"mild": "a little", "severe": "a lot"},
        "personas": ["a cook", "a farmer", "a nurse", "a clerk"],
        "situations": ["rain", "a bill", "a walk", "a call"],
        "styles": ["plain"],
    }
    path.write_text(yaml.safe_dump(task))
    return path
