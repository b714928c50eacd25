"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): a word for each class, whose embedding alone is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from clinsynth.models.text_to_image import WORDS, PromptedPipeline
from clinsynth.models.text_to_image_weights import ENCODERS, add_words, write_tensors


class RowsBehind(nn.Module):
    """An embedding whose last rows, from number `first` on, are the trained `rows` (words, width)."""

    def __init__(self, embedding: nn.Embedding, first: int, rows: nn.Parameter):
        super().__init__()
        self.embedding, self.first, self.rows = embedding, first, rows

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        known = self.embedding(numbers)
        learned = self.rows[(numbers - self.first).clamp(min=0)].to(known.dtype)
        return torch.where((numbers >= self.first)[..., None], learned, known)


class LearnedWords(nn.Module):
    """The U-Net behind prompts with learned words: only their embeddings have gradients.

    Args:
        prompted: its tokenizers and text encoders know the words already; its networks are frozen.
        tokens: the words, the last of each vocabulary.
    """

    def __init__(self, prompted: PromptedPipeline, tokens: list[str]):
        super().__init__()
        self.prompted, self.unet = prompted, prompted.unet
        self.rows = nn.ParameterDict()
        for key, (encoder, tokenizer) in ENCODERS.items():
            if encoder in prompted.components:
                first = prompted.components[tokenizer].convert_tokens_to_ids(tokens[0])
                embedding = prompted.components[encoder].get_input_embeddings()
                self.rows[key] = nn.Parameter(embedding.weight[first : first + len(tokens)].detach().float().clone())
                prompted.components[encoder].set_input_embeddings(RowsBehind(embedding, first, self.rows[key]))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> Any:
        """As `PromptedUnet`, its prompts embedded anew."""
        return self.unet(sample, timestep, class_labels, embedded=self.prompted.embed_words())

    def save_pretrained(self, folder: Path) -> None:
        """Write the words as they are now."""
        write_tensors(folder / WORDS, dict(self.rows))

    @torch.no_grad()
    def settle(self) -> None:
        """Put the words as they are now into the text encoders for good, and embed the prompts with them."""
        for key, rows in self.rows.items():
            encoder = self.prompted.components[ENCODERS[key][0]]
            part = encoder.get_input_embeddings()
            part.embedding.weight[part.first : part.first + len(rows)] = rows.to(part.embedding.weight.dtype)
            encoder.set_input_embeddings(part.embedding)
        self.unet.embeddings, self.unet.pooled = self.prompted.embed()


def begin_words(pipe: Any, tokens: list[str], names: list[str]) -> None:
    """Add a word for each class, which at first means what the class's name does: the mean of its tokens."""
    rows = {}
    for key, (encoder, tokenizer) in ENCODERS.items():
        if encoder in pipe.components:
            weight = pipe.components[encoder].get_input_embeddings().weight.detach()
            found = [pipe.components[tokenizer](name, add_special_tokens=False).input_ids for name in names]
            rows[key] = torch.stack([weight[numbers].mean(dim=0) for numbers in found])
    add_words(pipe, tokens, rows)
