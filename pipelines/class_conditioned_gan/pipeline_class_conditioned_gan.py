"""ClassConditionedGANPipeline: images of a given class from the generator of a GAN.

This file is copied into every checkpoint, which `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`
loads where clinsynth is not installed: it imports nothing from clinsynth.
"""

import inspect
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Dict  # noqa: UP035 - diffusers checks a configuration's types and knows only typing.Dict

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import create_repo


class ClassConditionedGANPipeline(DiffusionPipeline):
    """One pass through a generator that was trained against a discriminator (Goodfellow et al. 2014), by class.

    The call is that of `ClassConditionedDDPMPipeline`, so that one stands in for the other.

    Args:
        generator: `DCGANGenerator`.
        id2label: class number to name, e.g. `{0: "grade 0", …}`; default: the numbers as names.
    """

    generator: Any
    model_cpu_offload_seq = "generator"  # type: ignore[assignment]

    def __init__(self, generator: Any, id2label: Dict[int, str] | Dict[str, str] | None = None):  # noqa: UP006
        super().__init__()
        self.register_modules(generator=generator)
        count = self.num_classes
        labels = {int(k): v for k, v in (id2label or {i: str(i) for i in range(count)}).items()}
        if sorted(labels) != list(range(count)):
            raise ValueError(
                f"id2label names the classes {sorted(labels)}, but the generator was trained on {count} classes "
                f"(0 to {count - 1}); use the id2label of the training data"
            )
        self.id2label = labels
        self.register_to_config(id2label={str(k): v for k, v in labels.items()})

    @property
    def num_classes(self) -> int:
        """Classes that the generator makes."""
        return self.generator.config.num_classes

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
        num_inference_steps: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate `num_images_per_class` images for each entry of `class_labels`, in that order.

        Args:
            class_labels: names or numbers; an entry may repeat.
            num_images_per_class: images for each entry, at least 1.
            guidance_scale: 1, plain conditional sampling; there is nothing else in a GAN.
            num_inference_steps: 1, the one pass that there is.
            generator: one a sample (each image is then the same whatever the others), or one for all.
            output_type: `"pil"`, `"np"` for floats (n, h, w, c) in [0, 1], `"pt"` for a tensor (n, c, h, w) in [0, 1].
            return_dict: False returns a tuple.

        Raises:
            ValueError: an unknown label, an argument out of range, or a generator in training mode.
        """
        self.check_inputs(num_images_per_class, guidance_scale, num_inference_steps, output_type)
        labels = [label for label in self.label_ids(class_labels) for _ in range(num_images_per_class)]
        if isinstance(generator, list) and len(generator) != len(labels):
            raise ValueError(f"generator is a list of {len(generator)}, but {len(labels)} images are asked for")
        if self.generator.training:
            raise ValueError(
                "the generator is in training mode, in which batch normalisation mixes the samples of a batch; "
                "call pipe.generator.eval() first"
            )
        device = self._execution_device
        shape = (len(labels), self.generator.config.latent_dim)
        latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        classes = torch.tensor(labels, device=device)
        pixels = self.generator(latents.to(self.generator.dtype), classes).float()
        self.maybe_free_model_hooks()
        images = VaeImageProcessor().postprocess(pixels, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @staticmethod
    def check_inputs(
        num_images_per_class: int, guidance_scale: float, num_inference_steps: int, output_type: str
    ) -> None:
        """Raise a `ValueError` that names the argument, its value and what it may be."""
        if num_images_per_class < 1:
            raise ValueError(f"num_images_per_class must be at least 1, got {num_images_per_class}")
        if guidance_scale != 1:
            raise ValueError(f"guidance_scale must be 1, got {guidance_scale}; a GAN knows no guidance: leave it out")
        if num_inference_steps != 1:
            raise ValueError(
                f"num_inference_steps must be 1, got {num_inference_steps}; a GAN draws in one pass: leave it out"
            )
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}")

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **kwargs: Any
    ) -> None:
        """Save a folder that stock diffusers loads: weights, configuration, and the code of pipeline and generator.

        Keywords of `push_to_hub` are passed on to it; the rest are diffusers' own (`variant`, `max_shard_size`).
        """
        hub = {k: kwargs.pop(k) for k in ("token", "private", "commit_message", "create_pr") if k in kwargs}
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        index = json.loads((folder / "model_index.json").read_text())
        index["_class_name"] = [copy_code(type(self), folder), type(self).__name__]
        index["generator"] = [copy_code(type(self.generator), folder / "generator"), type(self.generator).__name__]
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


def copy_code(cls: type, folder: Path) -> str:
    """Copy the file that defines `cls` into `folder`; returns its module name."""
    source = Path(inspect.getfile(cls))
    if source.resolve() != (folder / source.name).resolve():
        shutil.copyfile(source, folder / source.name)
    return source.stem
