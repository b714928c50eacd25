"""Extractors: scripted, from transformers, and trained on the spot; the cache of features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTImageProcessorPil, ViTModel

from clinsynth.data.images import ImageArrays
from clinsynth.models.image_encoders import FeatureExtractor, cached_features, load_extractor, train_default_extractor


def pictures(n: int, channels: int = 1, side: int = 28, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(n, channels, side, side), dtype=np.uint8)


class ScriptedMeans(torch.nn.Module):
    """Called as NVIDIA's scripted Inception is."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert x.dtype == torch.uint8
        means = x.float().mean((2, 3))
        return means if return_features else means.softmax(1)


class WithoutFeatures(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_script(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def test_a_torchscript_file_gives_its_features(tmp_path: Path) -> None:
    extractor = load_extractor(str(save_script(ScriptedMeans(), tmp_path / "means.pt")))
    grey, colour = pictures(70), pictures(3, channels=3)
    assert extractor.dimension == 3
    assert extractor.name.startswith("means.pt (TorchScript, sha256 ")
    assert extractor(grey) == pytest.approx(np.repeat(grey.mean((2, 3)), 3, axis=1), rel=1e-5)
    assert extractor(iter([colour[:2], colour[2:]])) == pytest.approx(colour.mean((2, 3)), rel=1e-5)
    assert extractor(grey).dtype == np.float64


def test_a_torchscript_file_with_another_call_is_refused(tmp_path: Path) -> None:
    path = save_script(WithoutFeatures(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="return_features=True"):
        load_extractor(str(path))


def test_a_file_that_is_no_torchscript_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pkl").write_bytes(b"pickled")
    with pytest.raises(ValueError, match=r"weights\.pkl is not a TorchScript file"):
        load_extractor(str(tmp_path / "weights.pkl"))


@pytest.mark.parametrize("name", ["nobody/has-this-model", "nobody/has-this:file.pt"])
def test_what_cannot_be_fetched_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"--extractor {name} cannot be .*'default'"):
        load_extractor(name)


@pytest.mark.parametrize("pooled", [True, False])
def test_a_transformers_folder_is_pooled(tmp_path: Path, pooled: bool) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16
    )
    model = ViTModel(config, add_pooling_layer=pooled).eval()
    model.save_pretrained(tmp_path / "tiny-vit")
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "tiny-vit")
    extractor = load_extractor(str(tmp_path / "tiny-vit"))
    images = pictures(3, channels=3, side=32)
    with torch.no_grad():
        outputs = model(torch.from_numpy(images / 127.5 - 1).float())
    assert extractor.name == "tiny-vit (transformers)"
    assert extractor(images).shape == (3, 16)
    # Without its own pooling layer the loaded model would have a random one.
    expected = outputs.pooler_output if pooled else outputs.last_hidden_state.mean(1)
    assert extractor(images) == pytest.approx(expected.numpy(), abs=1e-4)
    assert load_extractor(str(tmp_path / "tiny-vit")).fingerprint == extractor.fingerprint


def test_of_clip_the_half_that_sees_is_taken(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = CLIPModel(CLIPConfig(text_config=sizes, vision_config={**sizes, "image_size": 32, "patch_size": 16}))
    model.save_pretrained(tmp_path / "tiny-clip")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tiny-clip")
    assert load_extractor(str(tmp_path / "tiny-clip"))(pictures(2)).shape == (2, 16)


def test_mobilenet_gives_its_1280_pooled_features(shared_data: Path) -> None:
    path = shared_data.parent / "models" / "mobilenet_v2_imagenet"
    if not path.is_dir():
        pytest.skip("needs the weights in ../shared/models, which are not here")
    extractor = load_extractor(str(path))
    assert (extractor.name, extractor.dimension) == ("mobilenet_v2_imagenet (transformers)", 1280)
    grey = extractor(pictures(2))
    assert grey == pytest.approx(extractor(np.repeat(pictures(2), 3, axis=1)), rel=1e-6)
    assert np.abs(grey[0] - grey[1]).max() > 0.1


def two_classes(n: int, seed: int) -> ImageArrays:
    labels = np.arange(n) % 2
    images = pictures(n, seed=seed) // 4 + (labels * 120).astype(np.uint8)[:, None, None, None]
    return ImageArrays(images, labels, ["dark", "bright"])


def test_the_default_extractor_is_trained_once_and_kept(tmp_path: Path) -> None:
    train, validation = two_classes(24, 0), two_classes(8, 1)
    first = train_default_extractor(train, validation, tmp_path / "extractor", epochs=2)
    [weights] = (tmp_path / "extractor").glob("*/model.safetensors")
    written = weights.stat().st_mtime_ns
    again = train_default_extractor(train, validation, tmp_path / "extractor", epochs=2)
    assert weights.stat().st_mtime_ns == written
    assert first.fingerprint == again.fingerprint
    assert first(train.images).shape == (24, first.dimension)
    assert "validation macro-F1" in first.note and "real train split" in first.name
    other = train_default_extractor(train, validation, tmp_path / "extractor", seed=1, epochs=2)
    assert other.fingerprint != first.fingerprint and weights.stat().st_mtime_ns == written


def test_features_are_cached_by_pictures_and_weights(tmp_path: Path) -> None:
    calls = []

    def embed(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return images.reshape(len(images), -1)[:, :4].astype(np.float32)

    extractor = FeatureExtractor("first four pixels", 4, "weights-1", embed)
    first = cached_features(extractor, pictures(70), tmp_path, "features")
    (kept,) = tmp_path.glob("*.safetensors")
    again = cached_features(extractor, pictures(70), tmp_path, "features")
    assert calls == [64, 6] and (first == again).all()
    cached_features(extractor, pictures(70, seed=1), tmp_path, "features")
    cached_features(FeatureExtractor("other", 4, "weights-2", embed), pictures(70), tmp_path, "features")
    assert calls == [64, 6] * 3
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{kept} is damaged .*; delete it, and the same command makes it anew"):
        cached_features(extractor, pictures(70), tmp_path, "features")
