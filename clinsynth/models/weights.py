"""Loading networks: what identifies one, the hash of its weights; where it runs; and what is said where it fails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
"""The pretrained encoder that is taken where none is named."""


def best_device() -> str:
    """`"cuda"` where there is such a device, else `"cpu"`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def computes_in_bfloat16() -> bool:
    """Whether the best device does so natively: then it is several times quicker than in float32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def hash_weights(module: torch.nn.Module, without: str = "") -> str:
    """SHA-256, hexadecimal, of a network's weights and buffers: its revision in every generation.json.

    Args:
        module: the network, or whatever else has a `state_dict` of tensors.
        without: tensors whose name holds this text do not count; empty: all do.
    """
    state = module.state_dict()
    return hash_tensors((name, state[name]) for name in sorted(state) if not (without and without in name))


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256, hexadecimal, over the names, and the values as float32, of tensors that come in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def explained_where_unloadable(flag: str, source: str, hint: str, kind: str = "") -> Iterator[None]:
    """What a library cannot load within the block becomes a ValueError that names flag, source, `kind` and `hint`.

    Parts of another form than a library wrote them in (a list where it reads names and values) fail there by type.
    """
    try:
        yield
    except (AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        wanted = f" as {kind}" if kind else ""
        raise ValueError(f"{flag} {source} cannot be loaded{wanted} ({error}); {hint}") from error
