"""The autoencoder, and a DDPM of its latents: what stock diffusers loads, and that stopping changes nothing."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from helpers import generators, same_weights, write_npz

from clinsynth.hub_cards.checkpoint import read_checkpoint
from clinsynth.models.generators import SamplingArguments, load_generator
from clinsynth.run_folder import read_metrics
from clinsynth.trainers import train_autoencoder, train_ddpm
from clinsynth.trainers.diffusion.arguments import AutoencoderArguments, DDPMArguments

WEIGHTS = "diffusion_pytorch_model.safetensors"


SETTINGS: dict[str, Any] = {
    "width": 8, "train_batch_size": 6, "lr_warmup_steps": 2, "log_steps": 1, "checkpointing_steps": 3,
    "mixed_precision": "no",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> AutoencoderArguments:
    """A run of six steps, four pixels a side to a latent."""
    folder = tmp_path_factory.mktemp("autoencoder")
    data = write_npz(folder / "data.npz", size=32)
    args = AutoencoderArguments(
        dataset=str(data), output_dir=str(folder / "run"), factor=4, train_steps=6, validation_steps=3, **SETTINGS
    )
    train_autoencoder.main(args)
    return args


def test_an_autoencoder_is_diffusers_own_and_resumes(trained: AutoencoderArguments, tmp_path: Path) -> None:
    run = Path(trained.output_dir)
    vae = AutoencoderKL.from_pretrained(run)
    assert vae.encode(torch.zeros(1, 1, 32, 32)).latent_dist.mode().shape == (1, 4, 8, 8)
    records = read_metrics(run)
    assert [record["step"] for record in records if "validation_psnr" in record] == [3, 6]
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-0000003.png", "step-0000006.png"]
    shutil.copytree(run, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-6")
    train_autoencoder.main(dataclasses.replace(trained, output_dir=str(tmp_path / "again")))
    for name in (WEIGHTS, f"checkpoint-6/{WEIGHTS}", "checkpoint-6/training_state/model.safetensors"):
        assert same_weights(run, tmp_path / "again", name)


def test_an_autoencoder_learns_to_keep_images(tmp_path: Path) -> None:
    eyes = "phantom-fundus?size=32&train=40&validation=10&test=10"
    args = AutoencoderArguments(
        dataset=eyes, channels=1, min_class_size=1, output_dir=str(tmp_path), factor=2, train_steps=40,
        validation_steps=20, learning_rate=3e-3, **SETTINGS | {"checkpointing_steps": 40},
    )  # fmt: skip
    train_autoencoder.main(args)
    course = read_metrics(tmp_path)
    losses = [record["loss"] for record in course]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    halfway, end = (record["validation_psnr"] for record in course if "validation_psnr" in record)
    assert end > halfway


def test_a_ddpm_of_latents_loads_in_stock_diffusers_and_resumes(
    trained: AutoencoderArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = DDPMArguments(
        dataset=trained.dataset, output_dir=str(tmp_path / "run"), latent=trained.output_dir, train_steps=6,
        horizontal_flip=True, validation_steps=0, **SETTINGS,
    )  # fmt: skip
    train_ddpm.main(dataclasses.replace(args, dry_run=True))
    assert "M parameters" in capsys.readouterr().out
    train_ddpm.main(args)
    run = tmp_path / "run"
    index = json.loads((run / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"] and index["unet"] == ["diffusers", "UNet2DModel"]
    stock = DiffusionPipeline.from_pretrained(run, trust_remote_code=True)
    ours = load_generator(str(run))
    assert stock.image_shape == (1, 32, 32) and tuple(ours.form)[:2] == (32, 1)
    card = read_checkpoint(run)
    assert (card.size, card.colour) == (32, "grey")
    drawn = stock([0, 1], generator=generators(3, 4), num_inference_steps=2, output_type="pt").images
    assert torch.equal(
        ours.pipeline([0, 1], generator=generators(3, 4), num_inference_steps=2, output_type="pt").images, drawn
    )
    settings = SamplingArguments(model=str(run), num_inference_steps=2)
    assert ours.sampler(settings, "cpu")([2, 0], [1, 2])[0].shape == (2, 1, 32, 32)
    assert len(ours.facts(settings)["vae_sha256"]) == 64
    changed = stock(1, image=drawn[:1] * 2 - 1, strength=0.5, num_inference_steps=2, output_type="np").images
    assert changed.shape == (1, 32, 32, 1)
    seen = stock.encode(torch.rand(9, 1, 32, 32) * 2 - 1)
    assert seen.shape == (9, 4, 8, 8)
    shutil.copytree(run, tmp_path / "whole")
    shutil.rmtree(run / "checkpoint-6")
    train_ddpm.main(args)
    assert same_weights(run, tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 30}, "--latent is an autoencoder of 1 channels and sides in multiples of 4"),
        ({"augment": 0.1}, "--augment 0.1 moves pixels, and --latent has none"),
        ({"dp_epsilon": 8.0, "validation_steps": 0}, "--latent cannot be used with --dp_epsilon"),
        ({"latent": "nobody/nothing"}, "--latent nobody/nothing is no folder or Hub repository"),
    ],
)
def test_what_latents_cannot_do_is_named(
    changes: dict[str, Any], message: str, trained: AutoencoderArguments, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train_ddpm.main(
            DDPMArguments(
                dataset=trained.dataset, output_dir=str(tmp_path), **{"latent": trained.output_dir} | changes
            )
        )


def test_an_autoencoder_that_saves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="--latent_channels must be at most 4 with --factor 2, got 5"):
        AutoencoderArguments(factor=2, latent_channels=5)
