"""Small sets and runs for the tests of classifiers and their arms."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from clinsynth.data.images import ImageArrays
from clinsynth.trainers.classifiers.arms import ArmArguments
from clinsynth.trainers.classifiers.kinds import ImageClassifiers
from clinsynth.trainers.classifiers.study import run_study

NAMES = ["dark", "medium", "bright"]
TRAINER = Path(__file__).parent.parent / "trainers" / "train_image_classifier.py"
FAST = {"seeds": 2, "epochs": 2, "batch_size": 8}


def settings(**changes: Any) -> ArmArguments:
    """Flags of a study of the small ResNet."""
    usual = {"arms": ["real", "composite"], "control": "real", "model": "small-resnet", "learning_rates": 2e-3}
    return ArmArguments(**{**usual, **FAST, "choose_control": False, "output_dir": "", **changes})


def run_arms(real: dict[str, ImageArrays], synthetic: Any, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """The results of a study."""
    args = settings(**changes, output_dir=str(output_dir))
    sets = {"": synthetic} if isinstance(synthetic, ImageArrays) else synthetic or {}
    return run_study(ImageClassifiers(), args, real, sets, progress=False)


def brightness_data(rows: int, seed: int, channels: int = 1) -> ImageArrays:
    """Noise whose mean tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    images = rng.normal(60 + 60 * labels[:, None, None, None], 20, (rows, channels, 12, 12))
    return ImageArrays(images.clip(0, 255).astype(np.uint8), labels, NAMES)


def brightness_splits() -> dict[str, ImageArrays]:
    """Train, validation and test."""
    return {name: brightness_data(n, i) for i, (name, n) in enumerate(dict(train=12, validation=6, test=15).items())}


def write_synthetic(folder: Path, names: list[str], rows: int) -> None:
    (folder / "data").mkdir(parents=True)
    pictures = [Image.fromarray(np.full((28, 28), 20 * i, np.uint8)) for i in range(rows)]
    features = Features(image=ImageFeature(), label=ClassLabel(names=names))
    data = Dataset.from_dict({"image": pictures, "label": [i % len(names) for i in range(rows)]}, features=features)
    data.to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def written(folder: Path) -> dict[str, int]:
    """When each training's record was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("arms/*/result.json")}


def only(folder: Path, arm: str, seed: int) -> Path:
    """The one folder of this training."""
    (found,) = folder.glob(f"arms/{arm}-seed{seed}-*")
    return found
