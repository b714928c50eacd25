"""ClassConditionedGANPipeline: the call, its likeness to the DDPM's, and the folder it saves."""

import inspect
import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LABELS, WITHOUT_CLINSYNTH, generators, run_warm

from clinsynth.models.generators import load_pipeline
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline, DCGANGenerator


def tiny_gan(size: int = 28, channels: int = 1) -> ClassConditionedGANPipeline:
    """A pipeline around an untrained generator whose images depend on the class."""
    torch.manual_seed(0)
    network = DCGANGenerator(size, channels, num_classes=3, latent_dim=16, width=4)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("gain.weight", "bias.weight")):
                parameter += torch.randn(parameter.shape)
            else:
                parameter *= 10
    return ClassConditionedGANPipeline(network.eval(), LABELS)


@pytest.mark.parametrize("size", [28, 32, 40, 48, 64, 112])
@pytest.mark.parametrize("channels", [1, 3])
def test_call_returns_images_in_order(size: int, channels: int) -> None:
    pipe = tiny_gan(size, channels)
    images = pipe(["severe", 0], num_images_per_class=2, generator=generators(1, 2, 3, 4)).images
    assert [image.size for image in images] == [(size, size)] * 4
    assert {image.mode for image in images} == {"L" if channels == 1 else "RGB"}
    alone = pipe("severe", generator=generators(2)).images[0]
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(images[1]).astype(int)).max() <= 1


@pytest.mark.parametrize("size", [24, 30, 36, 44, 100])
def test_sizes_that_do_not_fit_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"28, 32, 40, .* got sample_size={size}"):
        DCGANGenerator(size)


def test_an_image_depends_on_its_generator_and_class_alone() -> None:
    pipe = tiny_gan()
    together = pipe([0, 1, 2, 2], generator=generators(5, 6, 7, 8), output_type="pt").images
    alone = torch.cat([pipe(k, generator=generators(s), output_type="pt").images for k, s in [(0, 5), (2, 8)]])
    assert (together[[0, 3]] - alone).abs().max() < 1e-6
    other_class = pipe(1, generator=generators(5), output_type="pt").images
    assert (together[2] - together[3]).abs().max() > 1 / 255 and (alone[0] - other_class[0]).abs().max() > 1 / 255


def test_output_types_agree() -> None:
    pipe = tiny_gan()
    outputs = {kind: pipe(1, generator=generators(7), output_type=kind).images for kind in ("pil", "np", "pt")}
    array = outputs["np"]
    assert array.shape == (1, 28, 28, 1) and 0 <= array.min() and array.max() <= 1
    assert np.allclose(array[0, :, :, 0], outputs["pt"][0, 0].numpy())
    assert np.array_equal(np.asarray(outputs["pil"][0]), (array[0, :, :, 0] * 255).round().astype(np.uint8))
    assert isinstance(pipe(1, return_dict=False), tuple)


def test_the_call_is_that_of_the_ddpm_pipeline() -> None:
    gan, ddpm = (
        inspect.signature(cls.__call__) for cls in (ClassConditionedGANPipeline, ClassConditionedDDPMPipeline)
    )
    assert gan.parameters.keys() <= ddpm.parameters.keys()
    assert {"class_labels", "num_images_per_class", "generator", "output_type", "return_dict"} <= gan.parameters.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": "grade 9"}, r"'grade 9' is unknown.*healthy"),
        ({"class_labels": [0, 3]}, "3 is unknown.*0 to 2"),
        ({"class_labels": 0, "num_images_per_class": 0}, "num_images_per_class must be at least 1, got 0"),
        ({"class_labels": 0, "guidance_scale": 2.0}, "guidance_scale must be 1, got 2.0; a GAN"),
        ({"class_labels": 0, "num_inference_steps": 25}, "num_inference_steps must be 1, got 25; a GAN"),
        ({"class_labels": 0, "output_type": "jpg"}, "output_type must be .* got 'jpg'"),
        ({"class_labels": [0, 1], "generator": [torch.Generator()]}, "list of 1, but 2 images"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_gan()(**arguments)


def test_training_mode_is_refused_since_it_mixes_samples() -> None:
    pipe = tiny_gan()
    pipe.generator.train()
    with pytest.raises(ValueError, match=r"training mode.*eval\(\)"):
        pipe(0)


def test_labels_must_match_the_generator() -> None:
    with pytest.raises(ValueError, match="trained on 3 classes"):
        ClassConditionedGANPipeline(tiny_gan().generator, {0: "a", 1: "b"})


STOCK = WITHOUT_CLINSYNTH + textwrap.dedent("""
    import sys
    import torch
    from diffusers import DiffusionPipeline

    first, again, pixels = sys.argv[1:]
    for source, target in ((first, again), (again, again + "2")):
        pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True)
        pipe.save_pretrained(target)
    images = pipe(["severe", 0], output_type="pt", generator=[torch.Generator().manual_seed(s) for s in (1, 2)]).images
    torch.save(images, pixels)
""")


def test_saved_folder_loads_without_clinsynth_and_saves_again(tmp_path: Path) -> None:
    pipe = tiny_gan()
    pipe.save_pretrained(tmp_path / "first")
    run_warm("-c", STOCK, tmp_path / "first", tmp_path / "again", tmp_path / "pixels.pt")
    images = torch.load(tmp_path / "pixels.pt", weights_only=True)
    assert torch.equal(images, pipe(["severe", 0], generator=generators(1, 2), output_type="pt").images)
    names = [
        {
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in str(path)
        }
        for folder in (tmp_path / "first", tmp_path / "again", tmp_path / "again2")
    ]
    assert names[0] == names[1] == names[2]
    assert {Path(name).suffix for name in names[0]} == {".json", ".py", ".safetensors"}
    index = json.loads((tmp_path / "again2" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_class_conditioned_gan", "ClassConditionedGANPipeline"]
    assert list(index["id2label"].values()) == list(LABELS.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_clinsynth_loads_it_in_the_asked_type(dtype: str, tmp_path: Path) -> None:
    pipe = tiny_gan()
    pipe.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), dtype)
    assert type(loaded) is ClassConditionedGANPipeline and loaded.generator.dtype == getattr(torch, dtype)
    assert loaded.id2label == LABELS
    exact, read = (p([0, 2], generator=generators(1, 2), output_type="pt").images for p in (pipe, loaded))
    assert read.dtype == torch.float32
    assert (exact - read).abs().mean() <= (0 if dtype == "float32" else 0.02)
