"""Synthetic data sets from a text-to-image LoRA, from noise and from real pictures, and its way to the Hub."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from helpers import run_python, write_npz
from loopback_hub.cards import check_card
from PIL import Image
from test_generate_images import pixels, read_rows
from tiny_stable_diffusion import tiny_stable_diffusion, tiny_stable_diffusion_xl

from clinsynth.data.images import open_enlarged
from clinsynth.hub_cards.checkpoint import hash_saved_weights, read_checkpoint
from clinsynth.hub_cards.model_card import model_card
from clinsynth.images import to_picture
from clinsynth.judges.checklists import sample_id
from clinsynth.models.generators import load_pipeline
from clinsynth.scripts.generate_images import GenerateImagesArguments, main
from clinsynth.trainers.text_to_image.arguments import TextToImageLoraArguments
from clinsynth.trainers.train_text_to_image_lora import main as train

NAMES = ["mild", "moderate", "severe"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sd-run` with learned words, `xl-run` without, their bases, and grey pictures of 28 pixels."""
    folder = tmp_path_factory.mktemp("text_to_image")
    tiny_stable_diffusion(folder / "sd")
    tiny_stable_diffusion_xl(folder / "xl")
    write_npz(folder / "data.npz", per_class=4)
    for kind, words in (("sd", 1), ("xl", 0)):
        args = TextToImageLoraArguments(
            dataset=str(folder / "data.npz"),
            label_names=",".join(NAMES),
            model=str(folder / kind),
            output_dir=str(folder / f"{kind}-run"),
            prompt_template="an eye, {label}",
            textual_inversion_steps=words,
            rank=2,
            train_steps=2,
            train_batch_size=4,
            learning_rate=0.03,
            lr_warmup_steps=0,
            validation_steps=0,
            guidance_scale=3.0,
            mixed_precision="no",
        )
        train(args)
    return folder


def arguments(place: Path, output_dir: Path, kind: str = "sd", **changes: Any) -> GenerateImagesArguments:
    settings: dict[str, Any] = {"model": str(place / f"{kind}-run"), "output_dir": str(output_dir), "shard_size": 2}
    settings |= {"num_inference_steps": 2, "per_class": 1}
    return GenerateImagesArguments(**settings | changes)


def from_images(place: Path, output_dir: Path, kind: str = "sd", **changes: Any) -> GenerateImagesArguments:
    settings: dict[str, Any] = {"from_images": str(place / "data.npz"), "label_names": ",".join(NAMES)}
    return arguments(place, output_dir, kind, **settings | {"strength": 0.5, "least_change": 0} | changes)


def generator_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "generation.json").read_text())["generator"]
    return facts


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_a_data_set_is_labelled_resumed_and_the_same_in_other_batches(kind: str, place: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"counts": "severe=2,mild=2", "per_class": None}
    main(arguments(place, tmp_path / "a", kind, **changes))
    rows = read_rows(tmp_path / "a")
    assert [row["label"] for row in rows] == [0, 0, 2, 2] and len({row["seed"] for row in rows}) == 4
    assert pixels(tmp_path / "a").shape == (4, 3, 32, 32)
    facts = generator_of(tmp_path / "a")
    assert facts["guidance_scale"] == 3.0 and facts["base_model"] == str(place / kind)
    checkpoint = read_checkpoint(place / f"{kind}-run")
    assert facts["weights_sha256"] == hash_saved_weights(checkpoint, "float32")
    assert facts["network"] == {"sd": "StableDiffusionPipeline", "xl": "StableDiffusionXLPipeline"}[kind]
    (tmp_path / "a" / "data" / "train-00001-of-00002.parquet").unlink()
    main(arguments(place, tmp_path / "a", kind, **changes))
    assert read_rows(tmp_path / "a") == rows
    main(arguments(place, tmp_path / "b", kind, **changes, batch_size=3))
    assert np.abs(pixels(tmp_path / "b") - pixels(tmp_path / "a")).max() <= 1


def test_sampler_and_guidance_work_or_say_why_not(place: Path, tmp_path: Path) -> None:
    kinds = {name: {"scheduler": name} for name in ("euler", "unipc", "ddim", "ddpm")}
    kinds |= {"plain": {"guidance_scale": 1.0}, "usual": {}}
    drawn = {}
    for name, changes in kinds.items():
        main(arguments(place, tmp_path / name, counts="mild=1", per_class=None, **changes))
        drawn[name] = pixels(tmp_path / name)
    assert generator_of(tmp_path / "plain")["guidance_scale"] == 1.0
    assert all(np.abs(drawn[name] - drawn["usual"]).max() > 1 for name in ("euler", "ddpm"))
    main(arguments(place, tmp_path / "half", counts="mild=1", per_class=None, dtype="bfloat16"))
    checkpoint = read_checkpoint(place / "sd-run")
    assert 0 < np.abs(pixels(tmp_path / "half") - drawn["usual"]).max() < 40
    assert generator_of(tmp_path / "half")["weights_sha256"] == hash_saved_weights(checkpoint, "bfloat16")
    with pytest.raises(ValueError, match=r"--guidance_scale is 0.5, but --model .* is a text-to-image model"):
        main(arguments(place, tmp_path / "none", guidance_scale=0.5))
    with pytest.raises(ValueError, match="'healthy' is unknown; the model's are"):
        main(arguments(place, tmp_path / "none", counts="healthy=1", per_class=None))


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_pictures_are_made_from_real_ones_of_another_class(kind: str, place: Path, tmp_path: Path) -> None:
    main(from_images(place, tmp_path / "out", kind, strength="mild=0.5,moderate=0.5,severe=1"))
    rows = read_rows(tmp_path / "out")
    assert all(row["source_label"] != NAMES[row["label"]] for row in rows) and len(rows) == 3
    plain = arguments(place, tmp_path / "plain", kind)
    main(plain)
    same = np.abs(pixels(tmp_path / "plain") - pixels(tmp_path / "out")).reshape(3, -1).max(axis=1) <= 1
    assert same.tolist() == [False, False, True]  # at strength 1 nothing of the source is left
    with pytest.raises(ValueError, match=r"--strength 0.3 of --num_inference_steps 2 is less than one step"):
        main(from_images(place, tmp_path / "none", kind, strength=0.3))


def test_stock_image_to_image_draws_a_row_again(place: Path, tmp_path: Path) -> None:
    args = from_images(place, tmp_path / "out", strength=0.5)
    main(args)
    row, drawn = read_rows(tmp_path / "out")[1], pixels(tmp_path / "out")[1]
    train = open_enlarged(GenerateImagesArguments(**{**vars(args), "dataset": args.from_images}), 32, 0).all()["train"]
    source = {sample_id(to_picture(image)): image for image in train.images}[row["source_id"]]
    ours = load_pipeline(args.model)
    stock = StableDiffusionImg2ImgPipeline(**ours.components, requires_safety_checker=False)
    stock.scheduler = DPMSolverMultistepScheduler.from_config(stock.scheduler.config)
    again = stock(
        ours.prompts[row["label"]],
        image=to_picture(source),
        strength=0.5,
        guidance_scale=3.0,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(row["seed"]),
        output_type="pt",
    ).images[0]
    assert np.abs((again * 255).round().numpy() - drawn).max() <= 1


def test_a_card_says_what_it_is_and_nothing_private(place: Path) -> None:
    card = model_card(place / "sd-run", repo_id="me/thing")
    assert check_card(card, "model") == ([], [])
    assert "pipeline_tag: text-to-image" in card and "| mild | an eye, &lt;0-mild> |" in card
    assert "safety checker" in card and "base_model" not in card and str(place) not in card
    assert "trust_remote_code" not in card and "2208.01618" in card
    assert "2208.01618" not in model_card(place / "xl-run")


def test_a_run_is_pushed_and_the_code_of_its_card_runs(place: Path) -> None:
    pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")
    from loopback_hub.hub import running_hub
    from pushing import Client, files_of

    with running_hub(place) as hub:
        client = Client(hub, place)
        for kind in ("sd", "xl"):
            said = client.done(f"push model {kind}-run --repo_id tester/{kind}-lora --verify")
            assert "LoRA of" in str(said)
        client.close()
        lora = ["README.md", "pytorch_lora_weights.safetensors", "text_to_image.json"]
        assert files_of(hub, "model", "xl-lora") == lora
        assert files_of(hub, "model", "sd-lora") == sorted([*lora, "learned_embeds.safetensors"])
        facts = json.loads(hub.repo("model", "tester/sd-lora").read("text_to_image.json"))
        assert facts["base"] == "sd" and str(place) not in json.dumps(facts)
        codes = []
        for kind in ("sd", "xl"):
            card = hub.repo("model", f"tester/{kind}-lora").read("README.md").decode()
            (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
            codes.append(code.replace("path/of/the/base/model", kind).replace("synthetic.png", f"{kind}.png"))
        ours = "from clinsynth.models.generators import load_pipeline\nprint(load_pipeline('tester/sd-lora').prompts)"
        setting = f"import os\nos.chdir({str(place)!r})\n"
        said = run_python("-c", "\n".join([setting, *codes, ours]), **hub.environment(), HF_HUB_OFFLINE="0")
    assert "an eye, <1-moderate>" in said.stdout
    assert {Image.open(io.BytesIO((place / f"{kind}.png").read_bytes())).size for kind in ("sd", "xl")} == {(32, 32)}
