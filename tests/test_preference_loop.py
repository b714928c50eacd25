"""The whole loop at small size: pictures of one or three bright squares, which anybody can count.

A first-stage model draws the right number in about half of its pictures. Preferences for those in which it did must
raise that share; the same pictures with their scores dealt out by lot must not.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from diffusers import DDPMScheduler
from helpers import tiny_unet_of

from clinsynth.data.images import ImageArrays
from clinsynth.images import to_picture
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.candidates import sample_fast
from clinsynth.trainers.preference.pairs import Candidate, make_pairs, read_pairs, write_pairs
from clinsynth.trainers.preference.step import Preferences, build_state, fidelity_stream, real_samples, train_step
from clinsynth.trainers.stream import TrainingStream

NAMES, SQUARES = ["one", "three"], np.array([1, 3])
CANDIDATES = 16


def draw_squares(count: int) -> ImageArrays:
    """Grey pictures of 8 px with one or three bright squares of two pixels on a grid."""
    generator, labels = np.random.default_rng(1), np.arange(count) % 2
    images = np.full((count, 1, 4, 2, 4, 2), 60, np.uint8)
    for image, squares in zip(images, SQUARES[labels], strict=True):
        for place in generator.permutation(16)[:squares]:
            image[0, place // 4, :, place % 4, :] = 220
    return ImageArrays(images.reshape(count, 1, 8, 8), labels, NAMES)


def right(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether a picture has as many bright squares as its class says."""
    means = images.reshape(-1, 4, 2, 4, 2).mean((2, 4))
    return (means > 140).sum((1, 2)) == SQUARES[labels]


def build_pipeline() -> ClassConditionedDDPMPipeline:
    torch.manual_seed(0)
    sizes = {"block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 16}
    unet = tiny_unet_of(side=8, channels=1, classes=2, **sizes)
    noise: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
    scheduler = DDPMScheduler(prediction_type="v_prediction", **noise)
    return ClassConditionedDDPMPipeline(unet, scheduler, dict(enumerate(NAMES)))


def train_first_stage(pipeline: Any, real: ImageArrays, steps: int) -> None:
    stream = TrainingStream(torch.from_numpy(real.images), torch.from_numpy(real.labels), 2, 1000)
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=2e-3)
    for step in range(steps):
        DDPMProcess(pipeline.scheduler).loss(pipeline.unet, stream.step(step, 32)[0]).backward()
        optimizer.step()
        optimizer.zero_grad()


def draw(pipeline: Any, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels; `CANDIDATES` in a row are of one class."""
    labels = np.arange(count) // CANDIDATES % 2
    pipeline.unet.eval()
    images, _ = sample_fast(pipeline, 10)(labels.tolist(), [derive_seed(seed, i) for i in range(count)])
    return images, labels


def train_on(shares: np.ndarray, images: np.ndarray, labels: np.ndarray, first: dict[str, Any], folder: Path) -> Any:
    """The pipeline after Diffusion-DPO on the pairs that these scores make."""
    args = PreferenceArguments(
        model="in memory",
        held_out_model="none",
        beta=500.0,
        learning_rate=1e-3,
        lr_warmup_steps=10,
        train_batch_size=32,
        fidelity_weight=0.0,
    )
    pictures = {"image": [to_picture(image) for image in images]}
    found = [Candidate(i, int(labels[i]), i // CANDIDATES, i, float(shares[i])) for i in range(len(labels))]
    facts = {"judge": "squares", "checklist": "squares", "checklist_version": 1}
    rows = Dataset.from_dict(pictures, features=Features(image=ImageFeature()))
    write_pairs(folder, make_pairs(found, "margin", 0.0), rows, NAMES, facts)
    pipeline, accelerator = build_pipeline(), Accelerator(cpu=True)
    pipeline.unet.load_state_dict(first)
    state, reference = build_state(args, pipeline, accelerator)
    preferences = Preferences(args, pipeline, reference, read_pairs(folder, False), accelerator)
    samples = real_samples(args, draw_squares(40), pipeline, accelerator.device)
    real = fidelity_stream(args, samples, pipeline)
    unet, optimizer = accelerator.prepare(state.model, state.optimizer)
    for step in range(100):
        train_step(accelerator, unet, optimizer, preferences, real, step)
        state.advance()
    state.ema.copy_to(pipeline.unet.parameters())
    return pipeline


def test_feedback_raises_the_share_of_right_pictures_and_lots_do_not(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    train_first_stage(pipeline, draw_squares(400), 200)
    first = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    images, labels = draw(pipeline, 512, seed=1)
    before = right(*draw(pipeline, 256, seed=2)).mean()
    shares = right(images, labels).astype(float)
    generator, lots = np.random.default_rng(0), shares.copy()
    for label in (0, 1):
        lots[labels == label] = generator.permutation(shares[labels == label])
    rises = {
        name: right(*draw(train_on(scores, images, labels, first, tmp_path / name), 256, seed=2)).mean() - before
        for name, scores in (("feedback", shares), ("by-lot", lots))
    }
    print(f"right before {before:.3f}; rise with feedback {rises['feedback']:+.3f}, by lot {rises['by-lot']:+.3f}")
    assert rises["feedback"] > 0.05 and rises["by-lot"] < 0.03
