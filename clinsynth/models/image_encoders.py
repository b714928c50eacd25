"""From images to feature vectors: the networks that distances between sets of images are measured with.

Three kinds, each with a name that stands beside every number made with it: a small ResNet trained on the real train
split (needs no network and no download), any transformers vision model by folder or Hub id, and a TorchScript file
such as the Inception-v3 of 2015-12-05 that published FIDs use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_model, save_model
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModel

from clinsynth.data.images import ImageArrays
from clinsynth.models.classifiers import FitSettings
from clinsynth.models.image_classifiers import build_small_resnet, fit_image_classifier, pooled_features
from clinsynth.models.weights import best_device, hash_weights
from clinsynth.processes import one_at_a_time
from clinsynth.run_folder import atomic_write, complete_folder, kept_arrays

BATCH_SIZE = 64
# glibc asks the system for each buffer above 32 MB anew and has it filled with zeros: at 224 px that took longer than
# the arithmetic. A MobileNetV2's largest buffer of four such images is 19 MB.
CPU_BATCH_SIZE = 4
DEFAULT_EPOCHS = 20
HASHED_AT_ONCE = 1024
"""Rows."""


@dataclass(frozen=True)
class FeatureExtractor:
    """A network that turns images into features.

    Attributes:
        name: what reports call it.
        dimension: d, the length of a feature vector.
        fingerprint: SHA-256 of its weights, hexadecimal.
        embed: uint8 images (n, channels, r, r) to features (n, d), one batch.
        note: what a reader should know of it, such as its validation score; may be empty.
    """

    name: str
    dimension: int
    fingerprint: str
    embed: Callable[[np.ndarray], np.ndarray]
    note: str = ""

    def __call__(self, images: np.ndarray | Iterable[np.ndarray], progress: str | None = None) -> np.ndarray:
        """Features float64 (n, d) of uint8 images (n, channels, r, r), or of an iterable of such batches.

        `progress` names a progress bar, None shows none.
        """
        batches = images
        if isinstance(images, np.ndarray):
            batches = [images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE)]
        parts = [self.embed(batch) for batch in tqdm(batches, desc=progress, unit="batch", disable=progress is None)]
        features = np.concatenate(parts) if parts else np.zeros((0, self.dimension))
        return features.astype(np.float64)


def cached_features(extractor: FeatureExtractor, images: np.ndarray, folder: Path, progress: str) -> np.ndarray:
    """`extractor(images)`, kept in `folder` under a key made of the images and the weights."""
    path = folder / f"{hash_arrays(images, extractor.fingerprint)[:32]}.safetensors"
    return kept_arrays(path, lambda: {"features": extractor(images, progress)})["features"]


def hash_arrays(*values: np.ndarray | str) -> str:
    """SHA-256 over shapes, types and contents, hexadecimal."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, str):
            digest.update(value.encode())
        else:
            digest.update(f"{value.shape}{value.dtype}".encode())
            for start in range(0, len(value), HASHED_AT_ONCE):  # a split on disk need not fit into memory
                digest.update(np.ascontiguousarray(value[start : start + HASHED_AT_ONCE]).data)
    return digest.hexdigest()


def load_extractor(name_or_path: str) -> FeatureExtractor:
    """Load a TorchScript file ("file.pt", or "owner/repo:file" on the Hub), else a transformers folder or Hub id.

    Raises:
        ValueError: it is not there or is not such a network; says what is taken.
    """
    if Path(name_or_path).is_file():
        return load_torchscript(Path(name_or_path))
    if ":" in name_or_path and not Path(name_or_path).exists():
        return load_torchscript(download(name_or_path))
    return load_transformers(name_or_path)


def load_torchscript(path: Path) -> FeatureExtractor:
    """A scripted network called as NVIDIA's Inception is: uint8 (n, 3, r, r), `return_features=True`, gives (n, d).

    Grey images are repeated in three channels; resizing and scaling are the network's own.
    """
    try:
        model = torch.jit.load(str(path), map_location=best_device()).eval()
    except RuntimeError as error:
        raise ValueError(f"--extractor {path} is not a TorchScript file; pickled networks are not taken") from error

    def embed(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(three_channels(images)).to(best_device())
        with torch.no_grad():
            return model(pixels, return_features=True).flatten(1).float().cpu().numpy()

    try:
        dimension = probe(embed)
    except RuntimeError as error:
        raise ValueError(
            f"--extractor {path} must take uint8 (n, 3, r, r) and return_features=True, as NVIDIA's scripted "
            "Inception does, but its call failed; script it with that signature"
        ) from error
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    return FeatureExtractor(f"{path.name} (TorchScript, sha256 {fingerprint[:8]})", dimension, fingerprint, embed)


def download(address: str) -> Path:
    """Fetch "owner/repo:file" from the Hub (or find it in the local cache)."""
    repository, file = address.split(":", 1)
    try:
        return Path(hf_hub_download(repository, file))
    except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors, a malformed id a ValueError
        raise ValueError(
            f"--extractor {address} cannot be fetched ({type(error).__name__}); give the path of a file that is here, "
            "or 'default'"
        ) from error


def load_transformers(name_or_path: str) -> FeatureExtractor:
    """A transformers vision model: its pooled output, or the mean of its last hidden state where it has none."""
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path, backend="pil")
        model, loading = AutoModel.from_pretrained(name_or_path, output_loading_info=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--extractor {name_or_path} cannot be loaded as a transformers vision model ({type(error).__name__}); "
            "give a folder with config.json, preprocessor_config.json and weights, a Hub id, a TorchScript file, "
            "or 'default'"
        ) from error
    # A checkpoint without the model's pooling layer gets a random one, which must not measure anything.
    pooled = not any("pooler" in key for key in loading["missing_keys"])
    if [key for key in loading["missing_keys"] if "pooler" not in key]:
        raise ValueError(f"--extractor {name_or_path} lacks weights of its network; give a complete checkpoint")
    model = getattr(model, "vision_model", model).to(best_device()).eval()  # the half of CLIP that takes images
    size = CPU_BATCH_SIZE if model.device.type == "cpu" else BATCH_SIZE

    def embed(images: np.ndarray) -> np.ndarray:
        return np.concatenate([embed_few(images[i : i + size]) for i in range(0, len(images), size)])

    def embed_few(images: np.ndarray) -> np.ndarray:
        pictures = list(three_channels(images).transpose(0, 2, 3, 1))
        inputs = processor(images=pictures, input_data_format="channels_last", return_tensors="pt")
        with torch.no_grad():
            outputs = model(pixel_values=inputs["pixel_values"].to(model.device))
        return pool(outputs, pooled).float().cpu().numpy()

    name = Path(name_or_path).name if Path(name_or_path).exists() else name_or_path
    note = "" if pooled else "mean of the last hidden state, since the checkpoint has no pooling layer"
    fingerprint = hash_weights(model, without="" if pooled else "pooler")
    return FeatureExtractor(f"{name} (transformers)", probe(embed), fingerprint, embed, note)


def pool(outputs: Any, pooled: bool) -> torch.Tensor:
    """One vector an image from a vision model's output: (n, d); the pooled output if `pooled` and there is one."""
    if pooled and getattr(outputs, "pooler_output", None) is not None:
        return outputs.pooler_output.flatten(1)
    hidden = outputs.last_hidden_state
    return hidden.mean(1) if hidden.dim() == 3 else hidden.mean((2, 3))  # tokens, or a map of channels


def train_default_extractor(
    train: ImageArrays,
    validation: ImageArrays,
    output_dir: Path,
    seed: int = 0,
    epochs: int = DEFAULT_EPOCHS,
    progress: str | None = None,
) -> FeatureExtractor:
    """A small ResNet trained from scratch to tell the classes of the real train split apart; its pooled features."""
    model, score = default_classifier(train, validation, output_dir, seed, epochs, progress)
    note = f"{epochs} epochs, validation macro-F1 {score:.3f}"
    name = f"small ResNet trained on the real train split (seed {seed})"

    def embed(images: np.ndarray) -> np.ndarray:
        return pooled_features(model, images)

    dimension = embed(train.images[:1]).shape[1]
    return FeatureExtractor(name, dimension, hash_weights(model), embed, note)


def default_classifier(
    train: ImageArrays,
    validation: ImageArrays,
    output_dir: Path,
    seed: int = 0,
    epochs: int = DEFAULT_EPOCHS,
    progress: str | None = None,
) -> tuple[Any, float]:
    """The network of the default extractor, whose classes are those of `train`, and its macro-F1 on validation.

    Kept in a folder of `output_dir` that is named by data, seed and epochs (safetensors), and found there again.
    """
    key = hash_arrays(train.images, train.labels, validation.images, validation.labels, f"{seed} {epochs}")
    kept = output_dir / key[:16]
    model: Any = build_small_resnet(len(train.label_names), train.images.shape[1], seed=seed)
    model = model.to(best_device())
    with one_at_a_time(kept):
        if not kept.exists():
            settings = FitSettings(epochs, 64, 1e-3, seed, class_weights=True, views="light", progress=progress)
            score = fit_image_classifier(model, train, validation, settings).best_macro_f1
            with complete_folder(kept) as folder:
                facts = {"epochs": epochs, "seed": seed, "validation_macro_f1": score}
                atomic_write(folder / "training.json", json.dumps(facts, indent=2) + "\n")
                model.config.save_pretrained(folder)
                save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    load_model(model, kept / "model.safetensors")
    return model.eval(), json.loads((kept / "training.json").read_text())["validation_macro_f1"]


def three_channels(images: np.ndarray) -> np.ndarray:
    """Grey images repeated in three channels, colour ones as they are."""
    return np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images


def probe(embed: Callable[[np.ndarray], np.ndarray]) -> int:
    """The length of the feature vector of one black image."""
    return embed(np.zeros((1, 3, 32, 32), dtype=np.uint8)).shape[1]
