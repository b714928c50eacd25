"""A GPU for the length of a call on the Hub's ZeroGPU hardware, and elsewhere whatever the machine has."""

from collections.abc import Callable
from typing import Any


def on_gpu(seconds: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function that needs the device for at most `seconds`; plain where the package `spaces` is absent."""
    try:
        from spaces import GPU
    except ImportError:  # also a folder that is called spaces
        return lambda function: function
    decorator: Callable[[Callable[..., Any]], Callable[..., Any]] = GPU(duration=seconds)
    return decorator


def device() -> str:
    """The device to compute on, asked within such a call."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
