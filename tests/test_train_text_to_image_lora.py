"""The text-to-image LoRA trainer on real pipelines of tiny size: stock diffusers loads what it leaves, and stopping
changes nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from helpers import REPOSITORY, flags_of, kill_when, same_weights, tiny_pipeline, write_npz
from safetensors.torch import load_file
from tiny_stable_diffusion import tiny_stable_diffusion, tiny_stable_diffusion_xl, tiny_unet

from clinsynth.arguments import parse
from clinsynth.data.images import open_enlarged
from clinsynth.models.generators import load_pipeline
from clinsynth.models.text_to_image import load_text_to_image
from clinsynth.models.text_to_image_base import open_base
from clinsynth.run_folder import read_metrics
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.text_to_image.arguments import TextToImageLoraArguments
from clinsynth.trainers.text_to_image.model import (
    add_lora,
    build_prompted,
    class_prompts,
    class_tokens,
    encode_images,
    latent_stream,
    open_base_of,
)
from clinsynth.trainers.train_text_to_image_lora import main
from clinsynth.trainers.training_state import checkpoints

NAMES = ["mild", "moderate", "severe"]
STOCK = {"sd": StableDiffusionPipeline, "xl": StableDiffusionXLPipeline}
LEARNED = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")
ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}


@pytest.fixture(autouse=True)
def one_thread_here() -> Iterator[None]:
    """Sums in the same order as in a process of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two base models, `sd` and `xl`, and grey pictures of 28 pixels."""
    folder = tmp_path_factory.mktemp("text_to_image")
    tiny_stable_diffusion(folder / "sd")
    tiny_stable_diffusion_xl(folder / "xl")
    write_npz(folder / "data.npz", per_class=4)
    return folder


def arguments(place: Path, output_dir: Path, kind: str = "sd", **changes: Any) -> TextToImageLoraArguments:
    """Two steps for the words, four for the LoRA, at rates that show."""
    settings: dict[str, Any] = {
        "dataset": str(place / "data.npz"),
        "label_names": ",".join(NAMES),
        "model": str(place / kind),
        "output_dir": str(output_dir),
        "textual_inversion_steps": 2,
        "textual_inversion_learning_rate": 0.1,
        "rank": 2,
        "train_steps": 4,
        "train_batch_size": 4,
        "learning_rate": 0.03,
        "lr_warmup_steps": 0,
        "log_steps": 1,
        "checkpointing_steps": 2,
        "validation_steps": 0,
        "mixed_precision": "no",
    }
    return TextToImageLoraArguments(**settings | changes)


@pytest.fixture(scope="module")
def runs(place: Path) -> Path:
    """The runs `sd-run` and `xl-run`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind in STOCK:
        main(arguments(place, place / f"{kind}-run", kind))
    torch.set_num_threads(threads)
    return place


@pytest.mark.parametrize("kind", STOCK)
def test_stock_diffusers_loads_a_run_and_draws_the_same(kind: str, runs: Path) -> None:
    folder = runs / f"{kind}-run"
    facts = json.loads((folder / "text_to_image.json").read_text())
    assert facts["base"] == str(runs / kind) and facts["prompts"]["2"] == "a picture of <2-severe>"
    pipe = STOCK[kind].from_pretrained(runs / kind)
    pipe.set_progress_bar_config(disable=True)
    settings = {"guidance_scale": 5.0, "num_inference_steps": 3, "output_type": "pt", "height": 32, "width": 32}
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    prompt = facts["prompts"]["1"]

    def draw() -> torch.Tensor:
        return pipe(prompt, generator=torch.Generator().manual_seed(5), **settings).images

    before = draw()
    for key, rows in load_file(folder / "learned_embeds.safetensors").items():
        encoder, tokenizer = (getattr(pipe, name) for name in ENCODERS[key])
        pipe.load_textual_inversion(rows, token=facts["tokens"], text_encoder=encoder, tokenizer=tokenizer)
    worded = draw()
    pipe.load_lora_weights(folder)
    stock = draw()
    ours = load_pipeline(str(folder))
    ours.set_progress_bar_config(disable=True)
    ours.scheduler = DPMSolverMultistepScheduler.from_config(ours.scheduler.config)
    drawn = ours([1], generator=[torch.Generator().manual_seed(5)], num_inference_steps=3, output_type="pt").images
    assert torch.allclose(drawn, stock, atol=1e-5)
    assert (worded - before).abs().max() > 1e-4 and (stock - worded).abs().max() > 1e-4


@pytest.mark.parametrize("kind", STOCK)
def test_learning_words_changes_only_their_own_embeddings(kind: str, runs: Path) -> None:
    base, tuned = open_base(str(runs / kind)), load_text_to_image(runs / f"{kind}-run").pipe
    begun = build_prompted(arguments(runs, runs, kind), open_base(str(runs / kind)), {}, NAMES).pipe
    for encoder in (name for name, _ in ENCODERS.values() if name in base.components):
        before, after = (getattr(pipe, encoder).get_input_embeddings().weight for pipe in (base, tuned))
        first = getattr(begun, encoder).get_input_embeddings().weight[len(before) :]
        assert torch.equal(after[: len(before)], before) and len(after) == len(before) + 3
        assert (after[len(before) :] - first).abs().min(dim=1).values.max() > 0
        rest = {name: value for name, value in getattr(base, encoder).state_dict().items() if "token_emb" not in name}
        now = getattr(tuned, encoder).state_dict()
        assert all(torch.equal(now[name], value) for name, value in rest.items())
    own = {name.replace(".base_layer", ""): value for name, value in tuned.unet.state_dict().items()}
    assert all(torch.equal(own[name], value) for name, value in base.unet.state_dict().items())


@pytest.mark.parametrize("kind", STOCK)
def test_the_loss_of_one_batch_falls(kind: str, place: Path, tmp_path: Path) -> None:
    args = arguments(place, tmp_path, kind, textual_inversion_steps=0, rank=8, class_dropout=0.0)
    pipe, facts = open_base_of(args)
    prompted = build_prompted(args, pipe, facts, NAMES)
    add_lora(args, prompted)
    (batch,) = latent_stream(args, open_enlarged(args, 32, 0), prompted).step(0, 12)
    trained = [weight for weight in prompted.unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    course = []
    for _ in range(12):
        loss = DDPMProcess(prompted.scheduler, 5.0).loss(prompted.unet, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        course.append(float(loss.detach()))
    assert course[-1] < 0.99 * course[0] and min(course) == min(course[-3:])


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(place: Path, tmp_path: Path) -> None:
    """Killed while it learns words, and cut off again where the LoRA is half trained."""
    long = {"textual_inversion_steps": 30, "checkpointing_steps": 4, "train_steps": 8, "lr_scheduler": "cosine"}
    killed, whole = (arguments(place, tmp_path / name, **long) for name in ("killed", "whole"))
    learned = tmp_path / "killed" / "textual_inversion" / "checkpoint-8"
    kill_when(learned.exists, "train", "text-to-image-lora", *flags_of(killed))
    assert not checkpoints(tmp_path / "killed"), "the words were learned before it was killed"
    main(killed)
    main(whole)
    assert all(same_weights(tmp_path / "killed", tmp_path / "whole", file) for file in LEARNED)
    shutil.rmtree(tmp_path / "killed" / "checkpoint-8")
    for name in ("text_to_image.json", "pytorch_lora_weights.safetensors"):
        (tmp_path / "killed" / name).unlink()
    main(killed)
    assert all(same_weights(tmp_path / "killed", tmp_path / "whole", file) for file in LEARNED)
    courses = [[record["loss"] for record in read_metrics(tmp_path / name)] for name in ("killed", "whole")]
    assert courses[0] == courses[1] and len(courses[0]) == 8


def test_a_checkpoint_holds_what_is_trained_and_no_more(runs: Path, place: Path) -> None:
    folder = runs / "sd-run" / "checkpoint-4"
    raw = load_file(folder / "training_state" / "model.safetensors")
    averaged = load_file(folder / "training_state" / "ema.safetensors")
    assert raw.keys() == averaged.keys() and all("lora_" in name for name in raw)
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)
    words = load_file(runs / "sd-run" / "textual_inversion" / "checkpoint-2" / "training_state" / "model.safetensors")
    assert [tensor.shape for tensor in words.values()] == [(3, 16)]
    kinds = {path.suffix for path in (runs / "sd-run").rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".jsonl", ".yaml"}
    with pytest.raises(ValueError, match="was begun with --rank 2, not 4"):
        main(arguments(place, runs / "sd-run", rank=4))


def test_validation_draws_a_grid_and_measures(place: Path, tmp_path: Path) -> None:
    """Of a 2.1-like model, whose network predicts the velocity, in half the precision."""
    base = tiny_stable_diffusion(tmp_path / "v", "v_prediction")
    changes = {"textual_inversion_steps": 0, "train_steps": 1, "validation_steps": 1, "validation_pictures": 1}
    main(arguments(place, tmp_path / "run", model=str(base), mixed_precision="bf16", min_snr_gamma=5.0, **changes))
    (record,) = read_metrics(tmp_path / "run")
    assert 0 < record["validation_loss"] < 10 and (tmp_path / "run" / "samples" / "step-0000001.png").exists()
    assert not (tmp_path / "run" / "learned_embeds.safetensors").exists()
    facts = json.loads((tmp_path / "run" / "text_to_image.json").read_text())
    assert facts["prediction_type"] == "v_prediction" and facts["prompts"]["0"] == "a picture of mild"
    lora = load_file(tmp_path / "run" / "pytorch_lora_weights.safetensors")
    assert {tensor.dtype for tensor in lora.values()} == {torch.float32}


def test_grey_pictures_become_colour_larger_and_mirrored_ones_are_further_ones(place: Path, tmp_path: Path) -> None:
    args = arguments(place, tmp_path, resolution=64, textual_inversion_steps=0)
    pipe, facts = open_base_of(args)
    pictures = open_enlarged(args, 64, 0)
    prompted = build_prompted(args, pipe, facts, NAMES)
    assert prompted.side == 64 and pictures.all()["train"].images.shape == (12, 3, 64, 64)
    plain, labels = encode_images(pictures, "train", prompted, [])
    both, twice = encode_images(pictures, "train", prompted, [3])
    assert plain.shape == (12, 4, 32, 32) and torch.equal(twice, torch.cat([labels, labels]))
    assert torch.equal(both[:12], plain) and not torch.allclose(both[12:], plain)
    mirrored = torch.from_numpy(pictures.all()["train"].images[..., ::-1].copy()).float() / 127.5 - 1
    assert torch.allclose(both[12:], prompted.encode(mirrored), atol=1e-4)
    with pytest.raises(ValueError, match=r"--resolution must be a multiple of 4 for --model .*, got 66"):
        open_base_of(arguments(place, tmp_path, resolution=66))


def test_a_dry_run_shows_the_prompts(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(place, tmp_path / "run", dry_run=True, prompts="severe=a bad, bad {label} eye"))
    said = capsys.readouterr().out
    assert "moderate: 4 train images, 'a picture of <1-moderate>'" in said
    assert "'a bad, bad <2-severe> eye'" in said and "32 x 32 pixels" in said and "M parameters" in said
    assert not (tmp_path / "run").exists()


def test_prompts_are_words_of_a_file_or_of_the_flag(tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text("mild: an eye, barely ill\nsevere: a=b\n")
    found = class_prompts("{label}!", str(tmp_path / "prompts.yaml"), NAMES)
    assert found == {0: "an eye, barely ill", 1: "moderate!", 2: "a=b"}
    assert class_prompts("x {label}", "severe=so ill, mild=mild", NAMES)[2] == "so ill"
    assert class_tokens(["Grade 0", "ü", "A/B c"]) == ["<0-grade-0>", "<1>", "<2-a-b-c>"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_template": "an eye"}, r"--prompt_template must hold \{label\}"),
        ({"prompts": "ill=an eye"}, "--prompts: 'ill=an eye' is not LABEL=PROMPT of a class; the classes are mild"),
        ({"prompts": "mild=an eye,ill=x"}, "--prompts: 'an eye,ill=x' is not LABEL=PROMPT"),
        ({"prompts": "mild="}, "the prompt of mild is empty"),
        ({"prompts": "gone.yaml"}, "--prompts gone.yaml cannot be read"),
        ({"prompts": "mild=an eye"}, r"the prompt of mild must hold \{label\}"),
        ({"prompt_template": "{label}" + " x" * 40}, "the prompt of mild has 43 tokens, 11 more than the 32"),
        (
            {"prompts": "mild=an eye,severe=an eye", "textual_inversion_steps": 0},
            "--prompts: mild and severe have the same prompt 'an eye'",
        ),
        ({"target_modules": "nothing"}, "--target_modules nothing: "),
        ({"model": ""}, "--model is missing"),
        ({"model": "nowhere/at-all"}, "--model nowhere/at-all is neither a folder nor a text-to-image repository"),
        ({"channels": 1}, "--channels 1: text-to-image models draw colour"),
        ({"rank": 0}, "--rank must be above 0"),
        ({"guidance_scale": 0.5}, "--guidance_scale must be at least 1, got 0.5"),
        ({"few_shot": 400}, "few_shot"),
    ],
)
def test_wrong_flags_are_named(changes: dict[str, Any], message: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments(place, tmp_path / "run", dry_run=True, **changes))


def test_flags_of_other_trainers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(TextToImageLoraArguments, ["--model", "x", "--dp_epsilon", "8"])
    assert "dp_epsilon" in capsys.readouterr().err


def test_a_base_that_is_none_is_refused(runs: Path, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "ddpm")
    pickled = shutil.copytree(runs / "sd", tmp_path / "pickled")
    (pickled / "vae" / "diffusion_pytorch_model.safetensors").rename(pickled / "vae" / "diffusion_pytorch_model.bin")
    filling = shutil.copytree(runs / "sd", tmp_path / "filling")
    tiny_unet(in_channels=9).save_pretrained(filling / "unet")
    coded = shutil.copytree(runs / "sd", tmp_path / "coded")
    index = json.loads((coded / "model_index.json").read_text())
    (coded / "model_index.json").write_text(json.dumps({**index, "unet": ["my_unet", "MyUnet"]}))
    for folder, message in (
        (tmp_path / "ddpm", "is a .*ClassConditionedDDPMPipeline.*, not one of StableDiffusionPipeline"),
        (pickled, "has no .safetensors in vae, and .bin files are refused"),
        (filling, "has a network of 9 input channels"),
        (coded, "brings code of its own for unet, which is not run"),
        (runs / "sd-run", "is itself a LoRA on a base model"),
        (tmp_path, "holds no text-to-image pipeline"),
    ):
        with pytest.raises(ValueError, match=message):
            open_base(str(folder))


def test_a_run_that_diverges_stops(place: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"training diverged at step .*; there is no checkpoint yet"):
        main(arguments(place, tmp_path, textual_inversion_steps=0, learning_rate=1e30, checkpointing_steps=9))


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "recipes" / "text_to_image").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_recipes_run_at_tiny_size(path: Path, place: Path, tmp_path: Path) -> None:
    small = {
        "model": place / {"sd15": "sd", "sdxl": "xl"}[path.stem],
        "output_dir": tmp_path / "run",
        "train_steps": 1,
    }
    small |= {"dataset": place / "data.npz", "train_batch_size": 2, "textual_inversion_steps": 1}
    words = [f"--{name}={value}" for name, value in (small | {"validation_steps": 0}).items()]
    main(parse(TextToImageLoraArguments, ["--config", str(path), *words]))
    assert load_text_to_image(tmp_path / "run").facts["rank"] == 32
