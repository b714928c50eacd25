"""Preference training of text-to-image models: real pipelines of tiny size, on latents, with adapters."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from preference_runs import arguments, write_classifier, write_first_stage, write_preferences
from safetensors.torch import load_file
from tiny_stable_diffusion import tiny_stable_diffusion, tiny_stable_diffusion_xl

from clinsynth.data.images import ImageArrays
from clinsynth.data.phantom_fundus import GRADES
from clinsynth.models.generators import load_pipeline
from clinsynth.models.text_to_image import PromptedPipeline
from clinsynth.models.text_to_image_base import open_base
from clinsynth.run_folder import read_metrics
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.model import REFERENCE, TRAINED, to_device, to_images, to_samples
from clinsynth.trainers.preference.pairs import paired_images, pixels_of, read_pairs
from clinsynth.trainers.preference.step import Preferences, build_state, fidelity_stream, real_samples, train_step
from clinsynth.trainers.train_preference import main

DATA = "phantom-fundus?size=32&train=20&validation=10&test=10"
LORA = "pytorch_lora_weights.safetensors"
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]


def write_lora(base: Path, folder: Path) -> Path:
    """A run folder of the first stage: an adapter with random weights, which changes what its base draws."""
    pipe = open_base(str(base))
    torch.manual_seed(1)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=LAYERS), "default")
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    prompts = {label: f"an eye of {name}" for label, name in enumerate(GRADES)}
    facts = {"base": str(base), "base_class": type(pipe).__name__, "revision": None, "tokens": []}
    PromptedPipeline(pipe, dict(enumerate(GRADES)), prompts, 3.0, facts).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stable_diffusion(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(base, tmp_path_factory.mktemp("model") / "lora")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("judge") / "classifier", channels=3, side=32)


@pytest.fixture(scope="module")
def preferences(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of the model's own ancestral pictures, of which the darker one is preferred."""
    return write_preferences(model, tmp_path_factory.mktemp("preferences"))


def settings(model: Path, output_dir: Path, **changes: Any) -> PreferenceArguments:
    return arguments(model, output_dir, **{"dataset": DATA, "train_steps": 2, "checkpointing_steps": 1} | changes)


def real_pictures() -> ImageArrays:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    return ImageArrays(images, np.arange(10) % 5, GRADES)


class Training:
    """The parts of a run on given pairs, to take single steps of."""

    def __init__(self, model: Path, preferences: Path, **changes: Any):
        self.args = settings(
            model, Path("unused"), **{"preferences": str(preferences), "lr_warmup_steps": 0} | changes
        )
        self.pipeline, self.accelerator = load_pipeline(str(model)), Accelerator(cpu=True)
        to_device(self.pipeline, torch.device("cpu"), half=self.args.mixed_precision == "bf16")
        self.state, self.reference = build_state(self.args, self.pipeline, self.accelerator)
        rows = read_pairs(preferences, unpaired=False)
        self.preferences = Preferences(self.args, self.pipeline, self.reference, rows, self.accelerator)
        samples = real_samples(self.args, real_pictures(), self.pipeline, torch.device("cpu"))
        self.real = fidelity_stream(self.args, samples, self.pipeline)

    def step(self) -> dict[str, float]:
        state = self.state
        on = (state.model, state.optimizer, self.preferences, self.real, state.step)
        numbers = train_step(self.accelerator, *on)
        state.advance()
        return numbers

    def outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What model and reference predict for the same latents."""
        latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        inputs, labels = (latents, torch.tensor([3, 800])), torch.tensor([0, 5])
        with torch.no_grad():
            return tuple(call(*inputs, class_labels=labels).sample for call in (self.state.model, self.reference))


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def test_the_reference_is_the_model_at_the_start_and_stays_what_it_is(model: Path, preferences: Path) -> None:
    training = Training(model, preferences, learning_rate=1e-2, gradient_checkpointing=True)
    before, (drawn, reference) = weights_of(training.state.model), training.outputs()
    assert torch.equal(drawn, reference)
    first = training.step()
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6) and first["drift"] == 0
    second = training.step()
    assert second["drift"] > 1e-6 and second["margin"] != 0 and second["fidelity_loss"] > 0
    drawn_after, reference_after = training.outputs()
    assert torch.equal(reference_after, reference) and not torch.allclose(drawn_after, drawn, atol=1e-4)
    for name, weight in weights_of(training.state.model).items():
        assert torch.equal(weight, before[name]) == (f".{TRAINED}." not in name), name
    assert any(f".{REFERENCE}." in name for name in before)


def test_steps_need_neither_autoencoder_nor_text_encoder(model: Path, preferences: Path) -> None:
    """Latents and prompts are embedded once, before the first step."""
    training = Training(model, preferences)
    pipe = training.pipeline.pipe
    pipe.vae, pipe.text_encoder = None, None
    assert np.isfinite([training.step()["loss"], training.step()["loss"]]).all()


def test_in_half_precision_the_trained_weights_stay_whole(model: Path, preferences: Path) -> None:
    training = Training(model, preferences, mixed_precision="bf16")
    numbers = training.step()
    assert numbers["loss"] == pytest.approx(np.log(2), abs=1e-6) and numbers["grad_norm"] > 0
    for name, weight in training.state.model.named_parameters():
        assert weight.dtype == (torch.float32 if ".lora_" in name else torch.bfloat16), name


@pytest.mark.parametrize("method", ["diffusion-dpo", "kto", "reward", "d3po"])
def test_each_method_leaves_what_stock_diffusers_loads(
    method: str, base: Path, model: Path, classifier: Path, tmp_path: Path
) -> None:
    changes = {"method": method, "judge_model": str(classifier), "learning_rate": 1e-2, "lr_warmup_steps": 0}
    main(settings(model, tmp_path / "run", **changes))
    records = read_metrics(tmp_path / "run")
    assert [record["step"] for record in records] == [0, 1, 2] and "held_out_share" in records[0]
    assert records[1]["drift"] < 1e-9 < records[2]["drift"] and {"judge_share", "fidelity"} <= records[2].keys()
    made = json.loads((tmp_path / "run" / "preferences" / "candidates" / "generation.json").read_text())["generator"]
    assert made["scheduler"] == ("ancestral DDIM" if method == "d3po" else "dpmsolver++") and "sampler" not in made
    assert made["prompts"]["grade 1"] == "an eye of grade 1" and made["guidance_scale"] == 3.0
    assert draws_as_stock(StableDiffusionPipeline.from_pretrained(base, safety_checker=None), tmp_path / "run", model)


def draws_as_stock(stock: Any, run: Path, first: Path) -> bool:
    """Whether `load_lora_weights` of a run gives the pictures that clinsynth draws, and other ones than before."""
    stock.load_lora_weights(run)
    stock.scheduler = type(load_pipeline(str(run)).scheduler).from_config(stock.scheduler.config, clip_sample=False)
    drawing: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}
    seeded = [{"generator": torch.Generator().manual_seed(0), **drawing} for _ in range(3)]
    theirs = stock("an eye of grade 1", guidance_scale=3.0, height=32, width=32, **seeded[0]).images
    ours, before = (load_pipeline(str(folder))([1], **seeded[n + 1]).images for n, folder in enumerate((run, first)))
    return np.allclose(theirs, ours, atol=1e-5) and not np.allclose(ours, before, atol=1e-4)


def test_an_xl_model_is_trained_alike(classifier: Path, tmp_path: Path) -> None:
    base = tiny_stable_diffusion_xl(tmp_path / "base")
    model = write_lora(base, tmp_path / "lora")
    main(settings(model, tmp_path / "run", judge_model=str(classifier), learning_rate=1e-2, lr_warmup_steps=0))
    first, second = read_metrics(tmp_path / "run")[1:]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-4) and first["drift"] < 1e-9 < second["drift"]
    stock = StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False)
    assert draws_as_stock(stock, tmp_path / "run", model)


def test_a_model_that_predicts_velocity_is_trained_along_its_paths(tmp_path: Path) -> None:
    """Stable Diffusion 2.1 is of this kind."""
    model = write_lora(tiny_stable_diffusion(tmp_path / "base", "v_prediction"), tmp_path / "lora")
    training = Training(model, write_preferences(model, tmp_path), method="d3po", learning_rate=1e-2)
    assert training.pipeline.scheduler.config["prediction_type"] == "v_prediction"
    first, second = training.step(), training.step()
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-4) and first["drift"] < 1e-9 < second["drift"]


@pytest.mark.parametrize("method", ["diffusion-dpo", "d3po"])
def test_stop_and_resume_equals_no_stop(method: str, model: Path, preferences: Path, tmp_path: Path) -> None:
    changes = {"method": method, "preferences": str(preferences)}
    main(settings(model, tmp_path / "whole", **changes))
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-2")
    (tmp_path / "stopped" / "text_to_image.json").unlink()
    main(settings(model, tmp_path / "stopped", **changes))
    whole, stopped = (load_file(tmp_path / run / LORA) for run in ("whole", "stopped"))
    assert whole.keys() == stopped.keys() and all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "stopped")


def test_paths_are_drawn_again_from_the_seeds_of_their_pictures(model: Path, preferences: Path) -> None:
    training = Training(model, preferences, method="d3po")
    rows = read_pairs(preferences, unpaired=False)
    paired = paired_images(rows)
    assert len(paired.images) == 20 and len(rows) == 5 * 6
    for side in ("chosen", "rejected"):
        assert torch.equal(paired.images[getattr(paired, side)], pixels_of(rows[side]))
        assert paired.labels[getattr(paired, side)].tolist() == rows["label"][:]
    drawn = to_images(training.pipeline, training.preferences.paths.latents[:, -1]) * 255
    assert (drawn - paired.images).abs().max() < 1.5
    assert training.step()["loss"] == pytest.approx(np.log(2), abs=1e-4)
    pipeline = load_pipeline(str(model))
    pipeline.guidance_scale = 1.0
    _, reference = build_state(training.args, pipeline, training.accelerator)
    with pytest.raises(ValueError, match=r"not those that --model .* draws in 3 ancestral steps"):
        Preferences(training.args, pipeline, reference, rows, training.accelerator)


def test_latents_are_those_that_the_autoencoder_takes_back(model: Path) -> None:
    pipeline = load_pipeline(str(model))
    images = torch.from_numpy(real_pictures().images)
    samples = to_samples(pipeline, images, torch.device("cpu"), batch_size=4)
    assert samples.shape == (10, 4, 16, 16) and samples.dtype == torch.float32
    vae, pixels = pipeline.pipe.vae, images[:2] / 127.5 - 1
    with torch.no_grad():
        expected = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    assert torch.allclose(to_images(pipeline, samples[:2]), (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_what_does_not_fit_a_text_to_image_model_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--lora_rank 4 is for a DDPM; --model .* has an adapter"):
        main(settings(model, tmp_path / "run", lora_rank=4, judge_model="x"))
    pairs = write_preferences(write_first_stage(tmp_path / "ddpm"), tmp_path)
    with pytest.raises(ValueError, match=r"has images of 28 px and 1 channel.* makes 32 px, 3 channel"):
        main(settings(model, tmp_path / "run", preferences=str(pairs)))
