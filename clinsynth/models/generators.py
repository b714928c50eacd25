"""Load a checkpoint of a trainer, from a folder or the Hub, with clinsynth's own classes."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def load_pipeline(model: str, dtype: str = "float32") -> Any:
    """The pipeline of a checkpoint, from clinsynth's own classes: no code of the checkpoint is run.

    Args:
        model: folder or Hub id, the value of --model.
        dtype: name of the torch type that the network computes in.

    Raises:
        ValueError: there is no finished checkpoint, or it is not one of clinsynth's.
    """
    if lora := text_to_image_folder(model):
        from clinsynth.models.text_to_image import load_text_to_image

        return load_text_to_image(lora, dtype)
    index = read_index(model)
    return load_gan(model, index, dtype) if "generator" in index else load_ddpm(model, index, dtype)


def text_to_image_folder(model: str) -> Path | None:
    """The folder of a text-to-image LoRA, which a repository on the Hub is fetched to; None of another checkpoint."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    folder = Path(model)
    if not folder.is_dir():
        try:
            files = ["text_to_image.json", "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"]
            folder = Path(snapshot_download(model, allow_patterns=files))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
            return None  # what is wrong with it `read_index` says
    return folder if (folder / "text_to_image.json").exists() else None


def load_ddpm(model: str, index: dict[str, Any], dtype: str) -> Any:
    """A `ClassConditionedDDPMPipeline`; `index` is the checkpoint's `model_index.json`."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline, ContextUnet

    networks: dict[str, Any] = {"UNet2DModel": UNet2DModel, "ContextUnet": ContextUnet}
    network = networks[check_network(model, index, "unet", networks)]
    with explained_where_damaged(model):
        unet = network.from_pretrained(model, subfolder="unet", torch_dtype=getattr(torch, dtype))
        scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    if unet.config.get("num_classes", unet.config.get("num_class_embeds")) is None:
        raise ValueError(f"--model {model} knows no classes; give a checkpoint of `clinsynth train ddpm`")
    return ClassConditionedDDPMPipeline(unet, scheduler, index.get("id2label"))


def load_gan(model: str, index: dict[str, Any], dtype: str) -> Any:
    """A `ClassConditionedGANPipeline`; `index` is the checkpoint's `model_index.json`."""
    import torch

    from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline, DCGANGenerator

    check_network(model, index, "generator", ["DCGANGenerator"])
    with explained_where_damaged(model):
        generator = DCGANGenerator.from_pretrained(model, subfolder="generator", torch_dtype=getattr(torch, dtype))
    return ClassConditionedGANPipeline(generator, index.get("id2label"))


def check_network(model: str, index: dict[str, Any], component: str, known: Collection[str]) -> str:
    """The class name of a component of a checkpoint, which must be among `known`."""
    name: str = index.get(component, ["", None])[1]
    if name not in known:
        raise ValueError(
            f"--model {model} holds a network {name!r}, not one of {list(known)}; "
            "give a checkpoint of `clinsynth train ddpm`, `gan` or `text-to-image-lora`"
        )
    return name


@contextmanager
def explained_where_damaged(model: str) -> Iterator[None]:
    """What diffusers raises within the block becomes a ValueError that names the checkpoint and the mend."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--model {model} cannot be loaded ({error}); copy it anew, or give another checkpoint of its run"
        ) from error


def read_index(model: str) -> dict[str, Any]:
    """`model_index.json` of a folder or a Hub repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    path = Path(model) / "model_index.json"
    if Path(model).is_dir() and not path.exists():
        saved = sorted(checkpoint.name for checkpoint in Path(model).glob("checkpoint-*"))
        mend = f"use {model}/{saved[-1]} or finish the training run" if saved else "train one there first"
        raise ValueError(
            f"--model {model} holds no finished checkpoint (no model_index.json or text_to_image.json); {mend}"
        )
    if not path.exists():
        try:
            path = Path(hf_hub_download(model, "model_index.json"))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise ValueError(f"--model {model} is neither a folder nor a repository in reach: {error}") from error
    try:
        index: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"--model {model}: model_index.json is damaged ({error}); copy it anew") from error
    return index
