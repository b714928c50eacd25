"""ClassConditionedDDPMPipeline: images of a given class from a pixel-space diffusion model.

This file is copied into every checkpoint, which `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`
loads where clinsynth is not installed: it imports nothing from clinsynth.
"""

import inspect
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Dict, List

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import create_repo
from PIL import Image

Images = Image.Image | list[Image.Image] | np.ndarray | torch.Tensor
PROCESSOR = VaeImageProcessor()
"""For the way out; on the way in it takes a tensor in [-1, 1] without a negative value for one in [0, 1]."""


class ClassConditionedDDPMPipeline(DiffusionPipeline):
    """Denoising diffusion (Ho et al. 2020) conditioned on a class, with classifier-free guidance (Ho & Salimans 2022)
    or autoguidance (Karras et al. 2024).

    Args:
        unet: `UNet2DModel` with `num_class_embeds` = classes + 1, or `ContextUnet`; the last class is the null class.
        scheduler: any diffusers scheduler with `set_timesteps`, `scale_model_input`, `step` and `add_noise`.
        id2label: class number to name, e.g. `{0: "grade 0", …}`; default: the numbers as names.
        image_mean: of the training images in [-1, 1], a number a channel, which `encode` takes off; default: zeros.
        image_std: their standard deviation, which `encode` divides by; default: ones.
        patch_size: the network sees squares of so many pixels a side as channels of one, which divides its work by
            `patch_size`².
        guide: a network like `unet` that draws worse, such as its own earlier weights, for autoguidance.
        vae: an `AutoencoderKL`, whose latents are then what is standardised and diffused; default: pixels are.
    """

    unet: Any
    guide: Any
    vae: Any
    scheduler: Any
    model_cpu_offload_seq = "guide->unet->vae"  # type: ignore[assignment]
    _optional_components: ClassVar = ["guide", "vae"]  # type: ignore[misc]
    _callback_tensor_inputs: ClassVar = ["latents"]

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        id2label: Dict[int, str] | Dict[str, str] | None = None,
        image_mean: List[float] | None = None,
        image_std: List[float] | None = None,
        patch_size: int = 1,
        guide: Any = None,
        vae: Any = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, guide=guide, vae=vae)
        count = self.num_classes
        labels = {int(k): v for k, v in (id2label or {i: str(i) for i in range(count)}).items()}
        if sorted(labels) != list(range(count)):
            raise ValueError(
                f"id2label names the classes {sorted(labels)}, but the network was trained on {count} classes "
                f"(0 to {count - 1}); use the id2label of the training data"
            )
        channels = unet.config.in_channels // patch_size**2
        self.id2label, self.patch_size = labels, patch_size
        self.image_mean = [float(value) for value in image_mean or [0.0] * channels]
        self.image_std = [float(value) for value in image_std or [1.0] * channels]
        if not len(self.image_mean) == len(self.image_std) == channels:
            raise ValueError(
                f"image_mean {self.image_mean} and image_std {self.image_std} must have a number for each of the "
                f"{channels} channels"
            )
        self.register_to_config(
            id2label={str(k): v for k, v in labels.items()},
            image_mean=self.image_mean,
            image_std=self.image_std,
            patch_size=patch_size,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width in pixels of its images."""
        side = self.unet.config.sample_size * self.patch_size
        if self.vae is None:
            return len(self.image_mean), side, side
        side *= 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.out_channels, side, side

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, channels, height, width) in [-1, 1], or their latents, as the network sees them: standardised,
        patches as channels.

        Both keep white noise white, so that forward process, loss and sampler are those of the images themselves.
        """
        if self.vae is not None:
            images = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist.mode().float()
        mean, std = (by_channel(values, images) for values in (self.image_mean, self.image_std))
        return torch.nn.functional.pixel_unshuffle((images - mean) / std, self.patch_size)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """The inverse of `encode`."""
        mean, std = (by_channel(values, samples) for values in (self.image_mean, self.image_std))
        images = torch.nn.functional.pixel_shuffle(samples, self.patch_size) * std + mean
        return images if self.vae is None else self.vae.decode(images.to(self.vae.dtype)).sample.float()

    @property
    def num_classes(self) -> int:
        """Real classes, the null class not counted."""
        config = self.unet.config
        return config.num_classes if "num_classes" in config else config.num_class_embeds - 1

    def label_ids(self, class_labels: str | int | Sequence[str | int]) -> list[int]:
        """Class numbers of names or numbers.

        Raises:
            ValueError: a name or number that the model does not know.
        """
        ids = {name: i for i, name in self.id2label.items()}
        labels = [class_labels] if isinstance(class_labels, (str, int, np.integer)) else class_labels
        found = [ids.get(label, -1) if isinstance(label, str) else int(label) for label in labels]
        for number, label in zip(found, labels, strict=True):
            if not 0 <= number < self.num_classes:
                raise ValueError(
                    f"class label {label!r} is unknown; the model's are {list(ids)} or 0 to {self.num_classes - 1}"
                )
        return found

    @torch.no_grad()
    def __call__(
        self,
        class_labels: str | int | Sequence[str | int],
        num_images_per_class: int = 1,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_inference_steps: int = 25,
        generator: torch.Generator | list[torch.Generator] | None = None,
        image: Images | None = None,
        strength: float = 0.5,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, torch.Tensor]] | None = None,
        guidance: str = "class",
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate `num_images_per_class` images for each entry of `class_labels`, in that order.

        Args:
            class_labels: names or numbers; an entry may repeat.
            num_images_per_class: images for each entry, at least 1.
            guidance_scale: s of eps = u + s(c − u), c conditional and u unconditional (the e-health paper's w is
                s − 1). 1 is plain conditional sampling and 0 unconditional, each at one evaluation a step, not two.
            guidance_interval: the part of the steps, (first, last) in [0, 1], in which guidance acts (Kynkäänniemi et
                al. 2024); outside it sampling is plain conditional.
            num_inference_steps: steps of the scheduler, at least 1.
            generator: one a sample (each image is then the same whatever the others), or one for all.
            image: starting images for image-to-image: one, or one a sample; PIL, or arrays (n, h, w, c) in [0, 1], or
                tensors (n, c, h, w) in [-1, 1]; of the model's size and channels.
            strength: with `image`, the part of the steps to noise it for and to denoise (SDEdit, Meng et al. 2022), in
                (0, 1]; 1 starts from pure noise, as without an image.
            output_type: `"pil"`, `"np"` for floats (n, h, w, c) in [0, 1], `"pt"` for a tensor (n, c, h, w) in [0, 1].
            return_dict: False returns a tuple.
            callback_on_step_end: called as `callback(pipe, step, timestep, {"latents": …})` after every step; what it
                returns under `"latents"` replaces them; `pipe.decode` makes images of them.
            guidance: what u is: `"class"`, the network without the class, which exaggerates the class; `"auto"`, the
                `guide` with it, which corrects errors that the guide makes more of (autoguidance), at the cost of one
                evaluation more in the same way.

        Raises:
            ValueError: an unknown label or an argument out of range.
        """
        self.check_inputs(num_images_per_class, guidance_scale, guidance_interval, num_inference_steps, output_type)
        self.check_guidance(guidance)
        labels = [label for label in self.label_ids(class_labels) for _ in range(num_images_per_class)]
        if isinstance(generator, list) and len(generator) != len(labels):
            raise ValueError(f"generator is a list of {len(generator)}, but {len(labels)} images are asked for")
        device = self._execution_device
        classes = torch.tensor(labels, device=device)

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        if image is not None:
            timesteps = self.shorten(timesteps, strength)
        latents = self.prepare_latents(image, timesteps, strength, len(labels), generator, device)
        draws = "generator" in inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if draws else {}

        for i, t in enumerate(self.progress_bar(timesteps)):
            in_interval = guidance_interval[0] <= i / len(timesteps) < guidance_interval[1]
            scale = guidance_scale if in_interval else 1.0
            prediction = self.predict(self.scheduler.scale_model_input(latents, t), t, classes, scale, guidance)
            latents = self.scheduler.step(prediction, t, latents, **extra).prev_sample
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, i, t, {"latents": latents}).pop("latents", latents)

        self.maybe_free_model_hooks()
        images = PROCESSOR.postprocess(self.decode(latents), output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def predict(
        self, sample: torch.Tensor, t: torch.Tensor, classes: torch.Tensor, scale: float, guidance: str = "class"
    ) -> torch.Tensor:
        """The network's prediction under guidance, u + s(c − u), in float32."""
        null = torch.full_like(classes, self.num_classes)
        sample = sample.to(self.unet.dtype)
        if scale == 1:
            return self.unet(sample, t, class_labels=classes).sample.float()
        if guidance == "auto":
            worse = self.guide(sample, t, class_labels=classes).sample.float()
            return worse + scale * (self.unet(sample, t, class_labels=classes).sample.float() - worse)
        if scale == 0:
            return self.unet(sample, t, class_labels=null).sample.float()
        both = self.unet(torch.cat([sample, sample]), t, class_labels=torch.cat([null, classes])).sample
        unconditional, conditional = both.float().chunk(2)
        return unconditional + scale * (conditional - unconditional)

    def prepare_latents(
        self,
        image: Images | None,
        timesteps: torch.Tensor,
        strength: float,
        count: int,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
    ) -> torch.Tensor:
        """Noise, or `image` encoded, with the noise of the first of `timesteps`; float32, as the network takes it.

        At strength 1 the image is left out: many schedules leave some of it in their last step, where sampling from
        noise has none.
        """
        size = self.unet.config.sample_size
        shape = (count, self.unet.config.in_channels, size, size)
        noise = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        if image is None:
            return noise * self.scheduler.init_noise_sigma
        start = to_tensor(image).to(device)
        if start.shape[1:] != self.image_shape or len(start) not in (1, count):
            raise ValueError(
                f"image has shape {tuple(start.shape)} (n, channels, height, width), but the model makes "
                f"{self.image_shape} and {count} samples are asked for: give 1 or {count} images of that size and mode"
            )
        if strength == 1:
            return noise * self.scheduler.init_noise_sigma
        return self.scheduler.add_noise(self.encode(start).expand(shape), noise, timesteps[:1].expand(count))

    def shorten(self, timesteps: torch.Tensor, strength: float) -> torch.Tensor:
        """The last `strength` of the timesteps, at least one."""
        if not 0 < strength <= 1:
            raise ValueError(f"strength must be in (0, 1], got {strength}; 0.3 keeps most of the image")
        order = getattr(self.scheduler, "order", 1)
        first = len(timesteps) - max(1, round(len(timesteps) / order * strength)) * order
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        return timesteps[first:]

    @staticmethod
    def check_inputs(
        num_images_per_class: int,
        guidance_scale: float,
        guidance_interval: tuple[float, float],
        num_inference_steps: int,
        output_type: str,
    ) -> None:
        """Raise a `ValueError` that names the argument, its value and what it may be."""
        if num_images_per_class < 1:
            raise ValueError(f"num_images_per_class must be at least 1, got {num_images_per_class}")
        if guidance_scale < 0:
            raise ValueError(f"guidance_scale must be >= 0, got {guidance_scale}; 0 samples unconditionally")
        if not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
            raise ValueError(f"guidance_interval must be (first, last) within [0, 1], got {guidance_interval}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}; 25 is a good start")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}")

    def check_guidance(self, guidance: str) -> None:
        """Raise a `ValueError` for a kind of guidance that there is not, or not in this checkpoint."""
        if guidance not in ("class", "auto"):
            raise ValueError(f"guidance must be 'class' or 'auto', got {guidance!r}")
        if guidance == "auto" and self.guide is None:
            raise ValueError(
                "guidance 'auto' needs a checkpoint with a guide, and this one has none; train with "
                "`clinsynth train ddpm --guide_at 0.1`, or use 'class'"
            )

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **kwargs: Any
    ) -> None:
        """Save a folder that stock diffusers loads: weights, configuration, and the code of pipeline and network.

        Keywords of `push_to_hub` are passed on to it; the rest are diffusers' own (`variant`, `max_shard_size`).
        """
        hub = {k: kwargs.pop(k) for k in ("token", "private", "commit_message", "create_pr") if k in kwargs}
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        index = json.loads((folder / "model_index.json").read_text())
        index["_class_name"] = [copy_code(type(self), folder), type(self).__name__]
        for name, network in (("unet", self.unet), ("guide", self.guide)):
            if network is not None and not type(network).__module__.startswith("diffusers."):
                index[name] = [copy_code(type(network), folder / name), type(network).__name__]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        if push_to_hub:
            self.upload(folder, repo_id or folder.name, **hub)

    def push_to_hub(self, repo_id: str, private: bool = True, **kwargs: Any) -> str:  # type: ignore[override]
        """Upload to the Hub, into a private repository unless `private=False`; returns the commit's address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return self.upload(folder, repo_id, private=private, **kwargs)

    def upload(self, folder: str | Path, repo_id: str, private: bool = True, **kwargs: Any) -> str:
        """Upload a saved `folder` in one commit, into a new repository if need be; returns the commit's address."""
        token = kwargs.get("token")
        repo_id = create_repo(repo_id, private=private, exist_ok=True, token=token).repo_id
        return str(self._upload_folder(str(folder), repo_id, **kwargs).commit_url)


def by_channel(values: list[float], images: torch.Tensor) -> torch.Tensor:
    """A number a channel as (channels, 1, 1), where `images` are and of their type, without waiting for the device."""
    return torch.tensor(values, dtype=images.dtype).to(images.device, non_blocking=True)[:, None, None]


def copy_code(cls: type, folder: Path) -> str:
    """Copy the file that defines `cls` into `folder`; returns its module name."""
    source = Path(inspect.getfile(cls))
    if source.resolve() != (folder / source.name).resolve():
        shutil.copyfile(source, folder / source.name)
    return source.stem


def to_tensor(image: Images) -> torch.Tensor:
    """PIL images, an array (n, h, w, c) in [0, 1] or a tensor (n, c, h, w) in [-1, 1] to such a tensor, float32.

    Raises:
        ValueError: another number of axes, sizes or modes that differ, or values out of range.
    """
    if isinstance(image, torch.Tensor):
        tensor, lowest = image.float(), -1
    else:
        array, lowest = (image if isinstance(image, np.ndarray) else stack_pictures(image)), 0
        tensor = torch.from_numpy(array).float()
    if tensor.ndim != 4:
        form = "(n, channels, height, width)" if lowest else "(n, height, width, channels)"
        raise ValueError(f"image has shape {tuple(tensor.shape)}; give {form}, also for one image")
    if not bool(((tensor >= lowest) & (tensor <= 1)).all()):
        raise ValueError(
            f"image has values from {float(tensor.min()):g} to {float(tensor.max()):g}, but arrays must be in [0, 1], "
            "tensors in [-1, 1] and PIL images 8-bit; scale them"
        )
    return tensor if lowest else tensor.permute(0, 3, 1, 2) * 2 - 1


def stack_pictures(image: Image.Image | list[Image.Image]) -> np.ndarray:
    """One array (n, height, width, channels), 255 as 1, of PIL images of one size and mode."""
    pictures = image if isinstance(image, list) else [image]
    kinds = sorted({(picture.mode, picture.size) for picture in pictures})
    if len(kinds) != 1:
        raise ValueError(f"image holds images of different mode or size, {kinds}; bring all to the model's")
    array = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures]) / 255
    return array[..., None] if array.ndim == 3 else array
