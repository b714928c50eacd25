"""What the tests of preference training share: a first-stage model and a judge without knowledge, pairs, flags."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from diffusers import DDPMScheduler
from helpers import tiny_unet_of

from clinsynth.data.phantom_fundus import GRADES
from clinsynth.images import to_picture
from clinsynth.models.generators import load_pipeline
from clinsynth.models.image_classifiers import build_small_resnet, save_image_classifier
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.trainers.diffusion.process import to_fast
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.candidates import sample_by_path
from clinsynth.trainers.preference.pairs import Candidate, make_pairs, write_pairs


def write_first_stage(folder: Path) -> Path:
    """An untrained first-stage model of the five grades at 28 px, grey, standardised, in patches as by default."""
    torch.manual_seed(0)
    unet = tiny_unet_of(side=14, channels=4, classes=5)
    scheduler = to_fast(DDPMScheduler(prediction_type="v_prediction"))
    names = dict(enumerate(GRADES))
    ClassConditionedDDPMPipeline(unet, scheduler, names, [-0.3], [0.4], patch_size=2).save_pretrained(folder)
    return folder


def write_classifier(folder: Path, channels: int = 1, side: int = 28) -> Path:
    """An untrained classifier of the five grades, as good as any where only the mechanics count."""
    folder.mkdir()
    save_image_classifier(build_small_resnet(5, channels, input_size=side), GRADES, folder)
    return folder


@pytest.fixture(scope="module", name="model")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_first_stage(tmp_path_factory.mktemp("model") / "first")


@pytest.fixture(scope="module", name="classifier")
def any_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("judge") / "classifier")


def write_preferences(
    model: Path, folder: Path, dim: bool = False, shuffled: bool = False, steps: int = 3, judge: str = "dark"
) -> Path:
    """Pairs by darkness, or at random, of images that the model drew; `dim`: each of a prompt darkened otherwise."""
    labels, seeds = [number // 4 for number in range(20)], list(range(20))
    images, _ = sample_by_path(load_pipeline(str(model)), steps)(labels, seeds)
    if dim:
        images = (images * np.tile([1.0, 0.4, 0.8, 0.6], 5)[:, None, None, None]).astype(np.uint8)
    shares = np.random.default_rng(0).random(20) if shuffled else 1 - images.mean((1, 2, 3)) / 255
    found = [Candidate(row, labels[row], row // 4, seeds[row], float(shares[row])) for row in range(20)]
    features = Features(image=ImageFeature(), label=ClassLabel(names=GRADES))
    pictures = {"image": [to_picture(image) for image in images], "label": labels}
    facts = {"judge": judge, "checklist": "phantom-fundus", "checklist_version": 1}
    pairs = make_pairs(found, "margin", 0.0)
    write_pairs(folder / "pairs", pairs, Dataset.from_dict(pictures, features=features), GRADES, facts)
    return folder / "pairs"


def arguments(first_stage: Path, output_dir: Path, **changes: Any) -> PreferenceArguments:
    """A run of four steps, watched by the measuring judge, which trusts itself with every item."""
    settings: dict[str, Any] = {
        "dataset": "phantom-fundus?size=28&train=40&validation=10&test=10",
        "model": str(first_stage),
        "output_dir": str(output_dir),
        "held_out": "measure",
        "judge": "classifier",
        "least_kappa": -1.0,
        "held_out_least_kappa": -1.0,
        "min_class_size": 1,
        "calibration_pictures": 5,
        "train_steps": 4,
        "train_batch_size": 4,
        "prompts": 1,
        "candidates": 3,
        "pair_rule": "margin",
        "num_inference_steps": 3,
        "guard_steps": 2,
        "guard_images": 2,
        "fidelity_tolerance": 10.0,
        "frechet_tolerance": 10.0,
        "log_steps": 1,
        "checkpointing_steps": 2,
    }
    return PreferenceArguments(**settings | changes)
