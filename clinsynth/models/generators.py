"""Generators of images, each behind the same few calls, from a checkpoint in a folder or on the Hub.

    generator, settings = load_generator("runs/phantom"), SamplingArguments(model="runs/phantom", scheduler="ddim")
    images, finite = generator.sampler(settings, "cpu")([0, 0, 1], [7, 8, 9])  # labels and seeds

What `train preference` leaves is one of these too.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from clinsynth.arguments import check_at_least
from clinsynth.models.weights import explained_where_unloadable, hash_weights
from clinsynth.run_folder import read_json

if TYPE_CHECKING:
    import numpy as np
    import torch

logger = logging.getLogger("clinsynth")

SCHEDULERS = {
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
}
"""Samplers by the values of --scheduler, as classes of diffusers; one more needs its name in the flag's type too."""

MADE_ANEW = "copy it anew, or give another checkpoint of its run"


@dataclass
class SamplingArguments:
    """Which generator, and how it is sampled."""

    model: str = ""
    """folder or Hub id of a checkpoint: the --output_dir of `train ddpm`, `gan` or `text-to-image-lora`"""
    num_inference_steps: int = 25
    """steps of the sampler"""
    guidance_scale: float | None = None
    """s of u + s(c - u): 1 plain conditional sampling; higher exaggerates the class and costs twice the time.
    Default: 1, of a text-to-image model that of its training run"""
    guidance: Literal["class", "auto"] = "class"
    """what u is: class, the network without the class; auto, the guide that `train ddpm --guide_at` keeps, with it:
    corrects errors rather than exaggerating the class (autoguidance, Karras et al. 2024)"""
    guidance_interval: str = "0,1"
    """FIRST,LAST: the part of the steps in which guidance acts; the others are plain conditional, at half the time
    (Kynkäänniemi et al. 2024)"""
    scheduler: Literal["dpmsolver++", "unipc", "euler", "ddim", "ddpm"] = "dpmsolver++"
    """sampler; ddpm is the ancestral one, which needs hundreds of steps"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """arithmetic of the network"""

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("--model is missing; give the --output_dir of a training run or a Hub id")
        check_at_least(self, 1, ["num_inference_steps"])
        if self.guidance_scale is not None and not self.guidance_scale >= 0:
            raise ValueError(f"--guidance_scale must be >= 0, got {self.guidance_scale}; 0 samples unconditionally")
        first, last = self.interval
        if not 0 <= first <= last <= 1:
            raise ValueError(f"--guidance_interval must be within 0,1 and rise, got {self.guidance_interval}")
        if self.guidance_scale in (None, 1) and self.guides_otherwise:
            raise ValueError(
                f"--guidance {self.guidance} --guidance_interval {self.guidance_interval} do nothing without "
                "--guidance_scale; 1.5 or 2 is a good start"
            )

    @property
    def interval(self) -> tuple[float, float]:
        """First and last part of the steps in which guidance acts."""
        try:
            first, last = map(float, self.guidance_interval.split(","))
        except ValueError as error:
            raise ValueError(
                f"--guidance_interval must be two numbers FIRST,LAST such as 0.2,0.8, got {self.guidance_interval!r}"
            ) from error
        return first, last

    @property
    def guides_otherwise(self) -> bool:
        """Whether guidance is another than that of the class over all steps."""
        return self.guidance != "class" or self.interval != (0.0, 1.0)


class ImageForm(NamedTuple):
    """Side in pixels and channels of a generator's images, and whether real images are enlarged to them."""

    side: int
    channels: int
    enlarges: bool = False


Sample = Callable[[list[int], list[int]], tuple["np.ndarray", "np.ndarray"]]
"""From labels and seeds to images, uint8 (n, channels, side, side), and a bool mask of those of finite numbers."""


class Starts(Protocol):
    """Images that sampling starts from instead of noise, and by class the strength, in (0, 1]."""

    @property
    def strengths(self) -> dict[int, float]: ...

    def images_of(self, labels: list[int], seeds: list[int]) -> np.ndarray:
        """The image of each class and seed, uint8 (n, channels, side, side)."""


class Generator(ABC):
    """A trained model that draws images of classes.

    Attributes:
        pipeline: of diffusers, or called like one.
        weights: what its revision is the hash of: all that training has changed.
        form: of its images.
        name: folder or Hub id, the value of --model.
        starts_from_images: it can also change images that there are.
    """

    starts_from_images = True

    def __init__(self, pipeline: Any, weights: Any, form: ImageForm, name: str):
        self.pipeline, self.weights, self.form, self.name = pipeline, weights, form, name

    @property
    def id2label(self) -> dict[int, str]:
        """Class numbers to names."""
        return self.pipeline.id2label  # type: ignore[no-any-return]

    def number_of(self, label: str) -> int:
        """The class number of a name, or of a number in words; a `ValueError` where the model does not know it."""
        is_name = label in self.id2label.values() or not label.isdigit()
        return int(self.pipeline.label_ids(label if is_name else int(label))[0])

    def guidance(self, settings: SamplingArguments) -> float:
        """The guidance scale that is asked for, or what the model takes without one.

        Raises:
            ValueError: guidance that the model does not know.
        """
        return 1.0 if settings.guidance_scale is None else settings.guidance_scale

    @abstractmethod
    def prepare(self, settings: SamplingArguments) -> dict[str, Any]:
        """Make the pipeline ready to be sampled so; returns the settings that its call takes."""

    def facts(self, settings: SamplingArguments) -> dict[str, Any]:
        """What generation.json says of it: weights' hash, network, and how it is sampled."""
        return {
            "model": self.name,
            "weights_sha256": hash_weights(self.weights),
            "network": type(self.weights).__name__,
            "prediction_type": None,
            "scheduler": None,
            "num_inference_steps": 1,
            "guidance_scale": self.guidance(settings),
            "dtype": settings.dtype,
        }

    def sampler(self, settings: SamplingArguments, device: Any, starts: Starts | None = None) -> Sample:
        """What draws images: each has a random generator of its own, so that it is the same whatever the others are.

        Args:
            starts: what each image starts from; without it, from noise.
        """
        import torch

        call = self.prepare(settings)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(device)

        def draw(labels: list[int], seeds: list[int], **start: Any) -> torch.Tensor:
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            return self.pipeline(labels, generator=generators, output_type="pt", **start, **call).images.float()  # type: ignore[no-any-return]

        def change(labels: list[int], seeds: list[int], starts: Starts) -> torch.Tensor:
            before = torch.from_numpy(starts.images_of(labels, seeds)).float() / 127.5 - 1
            images = torch.empty_like(before, device=device)
            strengths = [starts.strengths[label] for label in labels]
            for strength in sorted(set(strengths)):
                rows = [i for i, of_row in enumerate(strengths) if of_row == strength]
                start = {"image": before[rows], "strength": strength}
                images[rows] = draw([labels[i] for i in rows], [seeds[i] for i in rows], **start)
            return images

        def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
            images = draw(labels, seeds) if starts is None else change(labels, seeds, starts)
            finite = images.isfinite().flatten(1).all(dim=1)
            return (images.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy(), finite.cpu().numpy()

        return sample


class Diffusion(Generator):
    """A `ClassConditionedDDPMPipeline`, of pixels."""

    def __init__(self, pipeline: Any, name: str = ""):
        channels, side, _ = pipeline.image_shape
        super().__init__(pipeline, pipeline.unet, ImageForm(side, channels), name)
        self.schedule = pipeline.scheduler  # the one it came with: what is drawn must not depend on who drew before

    def facts(self, settings: SamplingArguments) -> dict[str, Any]:
        used = {"guide": settings.guidance == "auto", "vae": getattr(self.pipeline, "vae", None) is not None}
        hashes = {f"{name}_sha256": hash_weights(getattr(self.pipeline, name)) for name, on in used.items() if on}
        return super().facts(settings) | {
            "prediction_type": self.schedule.config.prediction_type,
            "scheduler": settings.scheduler,
            "num_inference_steps": settings.num_inference_steps,
            **self.guided(settings),
            **hashes,
        }

    def guidance(self, settings: SamplingArguments) -> float:
        if settings.guidance == "auto" and self.pipeline.guide is None:
            raise ValueError(
                f"--guidance auto needs a guide, and --model {self.name} has none; train it with --guide_at 0.1, "
                "or use --guidance class"
            )
        return super().guidance(settings)

    def guided(self, settings: SamplingArguments) -> dict[str, Any]:
        """What the pipeline's call takes for guidance besides its scale; nothing where that is the usual."""
        if not settings.guides_otherwise:
            return {}
        return {"guidance": settings.guidance, "guidance_interval": settings.interval}

    def prepare(self, settings: SamplingArguments) -> dict[str, Any]:
        import diffusers

        scheduler = getattr(diffusers, SCHEDULERS[settings.scheduler])
        self.pipeline.scheduler = scheduler.from_config(self.schedule.config)
        steps = {"num_inference_steps": settings.num_inference_steps}
        return {"guidance_scale": self.guidance(settings), **steps, **self.guided(settings)}


class TextToImage(Diffusion):
    """A `PromptedPipeline`: Stable Diffusion with a LoRA, whose prompts are classes."""

    def __init__(self, pipeline: Any, name: str = ""):
        super().__init__(pipeline, name)
        self.weights, self.form = pipeline, ImageForm(pipeline.side, 3, enlarges=True)

    def guidance(self, settings: SamplingArguments) -> float:
        asked = settings.guidance_scale
        if settings.guides_otherwise:
            raise ValueError(
                f"--guidance and --guidance_interval are for checkpoints of `train ddpm`, but --model {self.name} is "
                "a text-to-image model; leave them out"
            )
        if asked is not None and asked < 1:
            raise ValueError(
                f"--guidance_scale is {asked}, but --model {self.name} is a text-to-image model, of which diffusers "
                "knows 1 (without guidance) and more; its empty prompt alone draws no class"
            )
        return float(self.pipeline.guidance_scale if asked is None else asked)

    def facts(self, settings: SamplingArguments) -> dict[str, Any]:
        return super().facts(settings) | self.pipeline.origin()


class GAN(Generator):
    """A `ClassConditionedGANPipeline`, which draws in one pass."""

    starts_from_images = False

    def __init__(self, pipeline: Any, name: str = ""):
        config = pipeline.generator.config
        super().__init__(pipeline, pipeline.generator, ImageForm(config["sample_size"], config["out_channels"]), name)

    def guidance(self, settings: SamplingArguments) -> float:
        if settings.guidance_scale not in (None, 1):
            raise ValueError(
                f"--guidance_scale is {settings.guidance_scale}, but --model {self.name} is a GAN, which knows no "
                "guidance; leave the flag out"
            )
        return 1.0

    def prepare(self, settings: SamplingArguments) -> dict[str, Any]:
        logger.info(
            "%s is a GAN, which draws in one pass: --scheduler and --num_inference_steps are not used", self.name
        )
        return {}


def load_generator(model: str, dtype: str = "float32") -> Generator:
    """The generator of a checkpoint, from clinsynth's own classes: no code of the checkpoint is run.

    Args:
        model: folder or Hub id, the value of --model.
        dtype: name of the torch type that the network computes in.

    Raises:
        ValueError: there is no finished checkpoint, or it is not one of clinsynth's.
    """
    if lora := text_to_image_folder(model):
        from clinsynth.models.text_to_image import load_text_to_image

        return TextToImage(load_text_to_image(lora, dtype), model)
    index = read_index(model)
    if "generator" in index:
        return GAN(load_gan(model, index, dtype), model)
    return Diffusion(load_ddpm(model, index, dtype), model)


def load_pipeline(model: str, dtype: str = "float32") -> Any:
    """The pipeline of a checkpoint alone, as of `load_generator`."""
    return load_generator(model, dtype).pipeline


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
    import diffusers
    import torch
    from diffusers import AutoencoderKL, UNet2DModel

    from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline, ContextUnet

    networks: dict[str, Any] = {"UNet2DModel": UNet2DModel, "ContextUnet": ContextUnet}
    network = networks[check_network(model, index, "unet", networks)]
    with explained_where_unloadable("--model", model, MADE_ANEW):
        own: dict[str, Any] = {"torch_dtype": getattr(torch, dtype), "use_safetensors": True}
        unet = network.from_pretrained(model, subfolder="unet", **own)
        guide = network.from_pretrained(model, subfolder="guide", **own) if class_of(index, "guide") else None
        vae = AutoencoderKL.from_pretrained(model, subfolder="vae", **own) if class_of(index, "vae") else None
        name = class_of(index, "scheduler")
        known = name if name and name in SCHEDULERS.values() else "DDPMScheduler"
        scheduler = getattr(diffusers, known).from_pretrained(model, subfolder="scheduler")
    if unet.config.get("num_classes", unet.config.get("num_class_embeds")) is None:
        raise ValueError(f"--model {model} knows no classes; give a checkpoint of `clinsynth train ddpm`")
    settings = {name: index[name] for name in ("image_mean", "image_std", "patch_size") if name in index}
    with explained_where_unloadable("--model", model, MADE_ANEW):
        return ClassConditionedDDPMPipeline(unet, scheduler, index.get("id2label"), guide=guide, vae=vae, **settings)


def load_gan(model: str, index: dict[str, Any], dtype: str) -> Any:
    """A `ClassConditionedGANPipeline`; `index` is the checkpoint's `model_index.json`."""
    import torch

    from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline, DCGANGenerator

    check_network(model, index, "generator", ["DCGANGenerator"])
    with explained_where_unloadable("--model", model, MADE_ANEW):
        own: dict[str, Any] = {"torch_dtype": getattr(torch, dtype), "use_safetensors": True}
        generator = DCGANGenerator.from_pretrained(model, subfolder="generator", **own)
        return ClassConditionedGANPipeline(generator, index.get("id2label"))


def check_network(model: str, index: dict[str, Any], component: str, known: Collection[str]) -> str:
    """The class name of a component of a checkpoint, which must be among `known`."""
    name = class_of(index, component)
    if name not in known:
        raise ValueError(
            f"--model {model} holds a network {name!r}, not one of {list(known)}; "
            "give a checkpoint of `clinsynth train ddpm`, `gan` or `text-to-image-lora`"
        )
    return str(name)


def class_of(index: dict[str, Any], component: str) -> str | None:
    """The class name of a component of a checkpoint; None where the index names none, or something of another form."""
    match index.get(component):
        case [_, str(name)]:
            return name
    return None


def read_index(model: str) -> dict[str, Any]:
    """`model_index.json` of a folder or a Hub repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    path = Path(model) / "model_index.json"
    if Path(model).is_dir() and not path.exists():
        saved = sorted(checkpoint.name for checkpoint in Path(model).glob("checkpoint-*"))
        hint = f"use {model}/{saved[-1]} or finish the training run" if saved else "train one there first"
        raise ValueError(
            f"--model {model} holds no finished checkpoint (no model_index.json or text_to_image.json); {hint}"
        )
    if not path.exists():
        try:
            path = Path(hf_hub_download(model, "model_index.json"))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise ValueError(f"--model {model} is neither a folder nor a repository in reach: {error}") from error
    return read_json(path)
