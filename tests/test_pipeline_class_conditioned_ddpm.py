"""ClassConditionedDDPMPipeline: the call, guidance, schedulers, image-to-image, and the folder it saves."""

import http.server
import json
import textwrap
import threading
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from helpers import LABELS, WITHOUT_CLINSYNTH, generators, run_warm, tiny_pipeline, tiny_unet, tiny_unet_of
from PIL import Image

from clinsynth.models.generators import load_pipeline
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline, ContextUnet

BACKBONES = ["unet2d", "context_unet"]


def test_context_unet_has_the_papers_number_of_parameters() -> None:
    assert sum(p.numel() for p in ContextUnet(32, n_feat=128).parameters()) == 7_566_721


@pytest.mark.parametrize("size", [28, 32, 64])
def test_context_unet_keeps_the_size(size: int) -> None:
    unet = ContextUnet(size, 3, 3, num_classes=3, n_feat=8)
    sample = torch.randn(2, 3, size, size)
    assert unet(sample, torch.tensor([3, 399]), torch.tensor([0, 3])).sample.shape == sample.shape


def test_context_mask_removes_the_class() -> None:
    unet = ContextUnet(28, num_classes=3, n_feat=8)
    sample, null = torch.randn(3, 1, 28, 28), torch.full((3,), 3)
    assert torch.equal(unet(sample, 5, null).sample, unet(sample, 5, None).sample)
    by_class = unet(sample[:1].expand(3, 1, 28, 28), 5, torch.arange(3)).sample
    assert not torch.allclose(by_class[0], by_class[1])


def test_context_unet_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="28 to 64 px"):
        ContextUnet(128)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("channels", [1, 3])
def test_call_returns_images_in_order(backbone: str, channels: int) -> None:
    pipe = tiny_pipeline(backbone, channels)
    images = pipe(
        ["severe", 0], num_images_per_class=2, num_inference_steps=2, generator=generators(1, 2, 3, 4)
    ).images
    assert [image.size for image in images] == [(28, 28)] * 4
    assert {image.mode for image in images} == {"L" if channels == 1 else "RGB"}


def test_output_types_agree() -> None:
    pipe = tiny_pipeline()
    outputs = {
        kind: pipe(1, num_inference_steps=2, generator=generators(7), output_type=kind).images
        for kind in ("pil", "np", "pt")
    }
    array = outputs["np"]
    assert array.shape == (1, 28, 28, 1) and 0 <= array.min() and array.max() <= 1
    assert np.allclose(array[0, :, :, 0], outputs["pt"][0, 0].numpy())
    assert np.array_equal(np.asarray(outputs["pil"][0]), (array[0, :, :, 0] * 255).round().astype(np.uint8))
    assert isinstance(pipe(1, num_inference_steps=1, return_dict=False), tuple)


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_an_image_depends_on_its_generator_alone(scheduler: str) -> None:
    pipe = tiny_pipeline(prediction_type="v_prediction")
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}
    together = pipe([0, 1, 2, 2], generator=generators(5, 6, 7, 8), **settings).images
    alone = torch.cat([pipe(label, generator=generators(seed), **settings).images for label, seed in [(0, 5), (2, 8)]])
    assert (together[[0, 3]] - alone).abs().max() <= 1 / 255
    assert (together[2] - together[3]).abs().max() > 1 / 255


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, 3 * 2), (0.0, 3 * 2), (3.0, 3 * 4)], ids=["plain", "unconditional", "guided"]
)
def test_guidance_one_costs_one_evaluation(scale: float, expected: int) -> None:
    pipe = tiny_pipeline()
    rows = count_rows(pipe)
    pipe([0, 1], guidance_scale=scale, num_inference_steps=3)
    assert sum(rows) == expected


def test_guidance_interval_limits_the_second_evaluation() -> None:
    pipe = tiny_pipeline()
    rows = count_rows(pipe)
    pipe([0], guidance_scale=3.0, guidance_interval=(0.25, 0.75), num_inference_steps=8)
    assert rows == [1, 1, 2, 2, 2, 2, 1, 1]


def count_rows(pipe: ClassConditionedDDPMPipeline) -> list[int]:
    """A list that gets the batch size of every evaluation of the network."""
    rows: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    return rows


def test_guidance_follows_its_formula() -> None:
    pipe = tiny_pipeline()
    sample, classes = torch.randn(2, 1, 28, 28), torch.tensor([0, 2])
    with torch.no_grad():
        conditional = pipe.predict(sample, torch.tensor(10), classes, 1.0)
        unconditional = pipe.predict(sample, torch.tensor(10), classes, 0.0)
        guided = pipe.predict(sample, torch.tensor(10), classes, 3.0)
    assert torch.allclose(guided, unconditional + 3.0 * (conditional - unconditional), atol=1e-5)
    assert not torch.allclose(conditional, unconditional)


@pytest.mark.parametrize(
    "name",
    [
        "DDPMScheduler",
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
    ],
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_schedulers_run(name: str, prediction_type: str) -> None:
    pipe = tiny_pipeline(prediction_type=prediction_type)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    images = pipe([0, 1], num_inference_steps=5, generator=generators(1, 2), output_type="pt").images
    again = pipe([0, 1], num_inference_steps=5, generator=generators(1, 2), output_type="pt").images
    assert images.isfinite().all() and torch.equal(images, again)


def test_zero_terminal_snr_is_used_and_finite() -> None:
    settings = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    pipe = tiny_pipeline(**settings)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    assert pipe.scheduler.alphas_cumprod[-1] == 0
    assert pipe([0], num_inference_steps=4, output_type="pt").images.isfinite().all()


class KnowsTheAnswer(torch.nn.Module):
    """Predicts the noise that turns `target` into the sample: what a perfect network says of a one-image class."""

    def __init__(self, unet: torch.nn.Module, scheduler: diffusers.DDPMScheduler, target: torch.Tensor):
        super().__init__()
        self.config, self.dtype, self.scheduler, self.target = unet.config, unet.dtype, scheduler, target

    def forward(self, sample: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> object:
        alpha = self.scheduler.alphas_cumprod[int(t)]
        noise = (sample - alpha.sqrt() * self.target) / (1 - alpha).sqrt()
        return diffusers.models.unets.unet_2d.UNet2DOutput(sample=noise)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_perfect_network_gives_back_the_image(name: str) -> None:
    pipe = tiny_pipeline()
    target = torch.rand(1, 1, 28, 28) * 2 - 1
    pipe.unet.forward = KnowsTheAnswer(pipe.unet, pipe.scheduler, target).forward
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    image = pipe([0], num_inference_steps=20, output_type="pt", generator=generators(0)).images
    assert (image - (target / 2 + 0.5)).abs().max() < 0.02


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_image_to_image_stays_nearer_with_less_strength(name: str) -> None:
    pipe = tiny_pipeline()
    start = torch.rand(2, 1, 28, 28) * 2 - 1
    pipe.unet.forward = lambda sample, t, class_labels: diffusers.models.unets.unet_2d.UNet2DOutput(sample=sample * 0)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    distances = []
    for strength in (0.1, 0.5, 0.9):
        images = pipe(
            [0, 1],
            image=start,
            strength=strength,
            num_inference_steps=10,
            output_type="pt",
            generator=generators(1, 2),
        ).images
        distances.append(float((images - (start / 2 + 0.5)).abs().mean()))
    assert distances == sorted(distances) and distances[0] < distances[-1] / 2


def test_image_to_image_takes_pil_and_arrays_alike() -> None:
    pipe = tiny_pipeline()
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    settings = {"strength": 0.5, "num_inference_steps": 4, "output_type": "pt"}
    from_pil = pipe(1, image=Image.fromarray(pixels), generator=generators(3), **settings).images
    from_array = pipe(1, image=pixels[None, :, :, None] / 255, generator=generators(3), **settings).images
    assert torch.allclose(from_pil, from_array, atol=1e-5)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_strength_one_is_sampling_from_noise(name: str) -> None:
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}
    from_noise = pipe([0, 2], generator=generators(1, 2), **settings).images
    for start in (torch.ones(1, 1, 28, 28), -torch.ones(2, 1, 28, 28)):
        assert torch.equal(
            from_noise, pipe([0, 2], generator=generators(1, 2), image=start, strength=1.0, **settings).images
        )
    nearly = pipe([0, 2], generator=generators(1, 2), image=torch.ones(1, 1, 28, 28), strength=0.75, **settings).images
    assert not torch.allclose(from_noise, nearly, atol=1 / 255)


def test_image_to_image_starts_with_the_noise_of_its_strength() -> None:
    pipe = tiny_pipeline(prediction_type="v_prediction")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    start, seen = torch.rand(2, 1, 28, 28) * 2 - 1, []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0], int(inputs[1]))))
    pipe([0, 1], image=start, strength=0.3, num_inference_steps=10, generator=generators(4, 5))
    noise = torch.cat([torch.randn(1, 1, 28, 28, generator=generator) for generator in generators(4, 5)])
    assert [t for _, t in seen] == [200, 100, 0]
    assert torch.allclose(seen[0][0], pipe.scheduler.add_noise(start, noise, torch.tensor([200, 200])), atol=1e-6)


def test_an_image_to_image_sample_depends_on_its_own_generator_and_source() -> None:
    pipe = tiny_pipeline()
    start = torch.rand(3, 1, 28, 28) * 2 - 1
    settings = {"strength": 0.5, "num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}
    together = pipe([0, 1, 2], image=start, generator=generators(5, 6, 7), **settings).images
    alone = pipe([2], image=start[2:], generator=generators(7), **settings).images
    assert (together[2:] - alone).abs().max() <= 1 / 255
    other = pipe([0], image=start[2:], generator=generators(7), **settings).images
    assert (other - alone).abs().max() > 0  # the class counts


def test_callback_sees_and_replaces_the_latents() -> None:
    pipe = tiny_pipeline()
    seen: list[int] = []

    def blacken(pipe: object, step: int, t: object, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(step)
        return {"latents": torch.full_like(tensors["latents"], -1.0)}

    images = pipe(0, num_inference_steps=3, callback_on_step_end=blacken, output_type="pt").images
    assert seen == [0, 1, 2] and images.max() == 0


def test_half_precision_runs_and_is_near() -> None:
    pipe = tiny_pipeline()
    exact = pipe(0, num_inference_steps=3, generator=generators(1), output_type="pt").images
    half = pipe.to(torch.bfloat16)(0, num_inference_steps=3, generator=generators(1), output_type="pt").images
    assert pipe.unet.dtype == torch.bfloat16 and half.dtype == torch.float32
    assert (exact - half).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": "grade 9"}, r"'grade 9' is unknown.*healthy"),
        ({"class_labels": 3}, "3 is unknown.*0 to 2"),
        ({"class_labels": [0, -1]}, "-1 is unknown"),
        ({"class_labels": 0, "num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"class_labels": 0, "guidance_scale": -1.0}, "guidance_scale must be >= 0, got -1.0"),
        ({"class_labels": 0, "guidance_interval": (0.5, 0.2)}, r"guidance_interval must be .* got \(0.5, 0.2\)"),
        ({"class_labels": 0, "num_images_per_class": 0}, "num_images_per_class must be at least 1, got 0"),
        ({"class_labels": 0, "output_type": "jpg"}, "output_type must be .* got 'jpg'"),
        ({"class_labels": [0, 1], "generator": [torch.Generator()]}, "list of 1, but 2 images"),
        ({"class_labels": 0, "image": torch.zeros(1, 1, 28, 28), "strength": 0.0}, r"strength must be in \(0, 1\]"),
        ({"class_labels": 0, "image": torch.zeros(1, 3, 28, 28)}, r"image has shape \(1, 3, 28, 28\)"),
        ({"class_labels": 0, "image": torch.zeros(1, 1, 28, 28), "strength": 1.2}, r"strength must be .* got 1.2"),
        ({"class_labels": [0, 1], "image": torch.zeros(3, 1, 28, 28)}, "give 1 or 2 images of that size"),
        ({"class_labels": 0, "image": torch.zeros(1, 28, 28)}, r"image has shape \(1, 28, 28\); give \(n, channels"),
        ({"class_labels": 0, "image": torch.full((1, 1, 28, 28), 128.0)}, "values from 128 to 128, but"),
        ({"class_labels": 0, "image": np.full((1, 28, 28, 1), np.nan)}, "values from nan to nan, but"),
        ({"class_labels": 0, "image": [Image.new("L", (28, 28)), Image.new("L", (32, 32))]}, "different mode or size"),
        ({"class_labels": 0, "image": Image.new("L", (32, 32))}, r"image has shape \(1, 1, 32, 32\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(**arguments)


def test_labels_must_match_the_network() -> None:
    with pytest.raises(ValueError, match="trained on 3 classes"):
        ClassConditionedDDPMPipeline(tiny_unet(), diffusers.DDPMScheduler(), {0: "a", 1: "b"})


STOCK = WITHOUT_CLINSYNTH + textwrap.dedent("""
    import sys
    import torch
    from diffusers import DiffusionPipeline

    first, again, pixels = sys.argv[1:]
    for source, target in ((first, again), (again, again + "2")):
        pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True)
        pipe.save_pretrained(target)
    images = pipe(["severe", 0], num_inference_steps=3, guidance_scale=2.0, output_type="pt",
                  generator=[torch.Generator().manual_seed(s) for s in (1, 2)]).images
    torch.save(images, pixels)
""")


def patched_pipeline(prediction_type: str = "v_prediction") -> ClassConditionedDDPMPipeline:
    """One whose network sees standardised grey images of 28 px, two by two pixels as channels of one."""
    torch.manual_seed(0)
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type=prediction_type, use_karras_sigmas=True)
    unet = tiny_unet_of(side=14, channels=4)
    pipe = ClassConditionedDDPMPipeline(unet, scheduler, LABELS, [-0.4], [0.3], patch_size=2)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_encoding_keeps_noise_white_and_is_undone_by_decoding() -> None:
    pipe = patched_pipeline()
    assert pipe.image_shape == (1, 28, 28)
    images = -0.4 + 0.3 * torch.randn(64, 1, 28, 28)
    encoded = pipe.encode(images)
    assert encoded.shape == (64, 4, 14, 14)
    assert encoded.mean().abs() < 0.02 and abs(encoded.std() - 1) < 0.02
    assert torch.allclose(encoded[:, 0] * 0.3 - 0.4, images[:, 0, ::2, ::2], atol=1e-6)
    assert torch.allclose(pipe.decode(encoded), images, atol=1e-6)
    assert pipe(1, num_inference_steps=2, output_type="np").images.shape == (1, 28, 28, 1)


def test_a_perfect_network_of_encoded_images_gives_back_the_image() -> None:
    pipe = patched_pipeline("epsilon")
    target = torch.rand(1, 1, 28, 28) * 1.8 - 0.9
    pipe.unet.forward = KnowsTheAnswer(pipe.unet, pipe.scheduler, pipe.encode(target)).forward
    for settings in ({}, {"image": target, "strength": 0.3}):
        drawn = pipe([0], num_inference_steps=20, output_type="pt", generator=generators(0), **settings).images
        assert (drawn - (target / 2 + 0.5)).abs().max() < 0.02


def test_moments_must_fit_the_channels() -> None:
    with pytest.raises(ValueError, match="for each of the 1 channels"):
        ClassConditionedDDPMPipeline(tiny_unet(), diffusers.DDPMScheduler(), LABELS, [0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("backbone", [*BACKBONES, "patched"])
def test_saved_folder_loads_without_clinsynth_and_saves_again(backbone: str, tmp_path: Path) -> None:
    pipe = patched_pipeline() if backbone == "patched" else tiny_pipeline(backbone)
    pipe.save_pretrained(tmp_path / "first")
    run_warm("-c", STOCK, tmp_path / "first", tmp_path / "again", tmp_path / "pixels.pt")
    images = torch.load(tmp_path / "pixels.pt", weights_only=True)
    settings = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "pt"}
    assert torch.equal(images, pipe(["severe", 0], generator=generators(1, 2), **settings).images)
    names = [
        {
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in str(path)
        }
        for folder in (tmp_path / "first", tmp_path / "again", tmp_path / "again2")
    ]
    assert names[0] == names[1] == names[2]
    index = json.loads((tmp_path / "again2" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_class_conditioned_ddpm", "ClassConditionedDDPMPipeline"]
    assert list(index["id2label"].values()) == list(LABELS.values())


@pytest.mark.parametrize("backbone", ["unet2d", "context_unet"])
def test_autoguidance_leads_away_from_the_guide_and_travels_with_the_checkpoint(backbone: str, tmp_path: Path) -> None:
    pipe, other = tiny_pipeline(backbone), tiny_pipeline(backbone)
    for weight in other.unet.parameters():
        weight.data *= 0.9
    with pytest.raises(ValueError, match=r"needs a checkpoint with a guide.*--guide_at 0\.1"):
        pipe(0, guidance="auto")
    with pytest.raises(ValueError, match="guidance must be 'class' or 'auto', got 'self'"):
        pipe(0, guidance="self")
    pipe.register_modules(guide=other.unet)
    sample, classes = torch.randn(2, 1, 28, 28), torch.tensor([0, 2])
    with torch.no_grad():
        good, worse = (network(sample, 5, class_labels=classes).sample for network in (pipe.unet, other.unet))
        assert torch.equal(pipe.predict(sample, torch.tensor(5), classes, 3.0, "auto"), worse + 3 * (good - worse))
        assert torch.equal(pipe.predict(sample, torch.tensor(5), classes, 1.0, "auto"), good)
    pipe.save_pretrained(tmp_path)
    call = {"num_inference_steps": 3, "guidance_scale": 2.0, "guidance": "auto", "output_type": "pt"}
    drawn = pipe([1, 2], generator=generators(1, 2), **call).images
    for loaded in (
        diffusers.DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True),
        load_pipeline(str(tmp_path)),
    ):
        assert torch.equal(loaded([1, 2], generator=generators(1, 2), **call).images, drawn)
    assert not torch.equal(pipe([1, 2], generator=generators(1, 2), **call | {"guidance": "class"}).images, drawn)


def test_saved_folder_holds_no_pickle(tmp_path: Path) -> None:
    tiny_pipeline("context_unet").save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".py", ".safetensors"}


PUSH = textwrap.dedent("""
    import sys
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
    try:
        pipe.push_to_hub("me/model", token="hf_secret") if sys.argv[2] == "push" else pipe.save_pretrained(
            sys.argv[3], push_to_hub=True, repo_id="me/model", token="hf_secret")
    except Exception as error:
        print(type(error).__name__)
""")


@pytest.mark.parametrize("way", ["push", "save"])
def test_a_push_asks_for_a_private_repository(way: str, tmp_path: Path) -> None:
    asked: list[dict[str, object]] = []

    class RefusesAll(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, **body})
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *rest: object) -> None:
            pass

    tiny_pipeline().save_pretrained(tmp_path / "model")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RefusesAll) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        words = ("-c", PUSH, tmp_path / "model", way, tmp_path / "again")
        result = run_warm(*words, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
        server.shutdown()
    assert asked and asked[0]["path"] == "/api/repos/create"
    assert asked[0].get("visibility") == "private" or asked[0].get("private") is True
    assert "hf_secret" not in result.stdout + result.stderr
