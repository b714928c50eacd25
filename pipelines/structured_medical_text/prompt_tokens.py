"""Messages as tokens of a model, with its chat template or without one.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

from typing import Any

import torch
from jinja2 import TemplateError


def encode_messages(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Tokens of a prompt after which the model is to write its answer.

    Without a chat template (a base model) the contents stand one after the other, a blank line between and behind. A
    template that refuses a system message gets it at the head of the user's.
    """
    if tokenizer.chat_template is None:
        text = "".join(f"{message['content']}\n\n" for message in messages)
        return list(tokenizer(text).input_ids)
    try:
        text = apply_template(tokenizer, messages)
    except TemplateError:
        if [message["role"] for message in messages] != ["system", "user"]:
            raise
        text = apply_template(tokenizer, [{"role": "user", "content": "\n\n".join(m["content"] for m in messages)}])
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def apply_template(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The prompt's text; models that may think aloud before they answer are told not to, where the template can."""
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    )


def pad_left(prompts: list[list[int]], pad_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers and attention mask, each int64 (batch, longest prompt)."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_token] * (longest - len(prompt)) + prompt for prompt in prompts])
    attention = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, attention
