"""Pictures to arrays: sizes and modes are settled by a flag or refused, and every change is said."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from clinsynth.data.images import to_arrays


def gradient(width: int = 32, height: int = 32, mode: str = "L") -> Image.Image:
    return Image.fromarray(np.linspace(0, 255, width * height).reshape(height, width).astype(np.uint8)).convert(mode)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dataset_of(*images: Image.Image | bytes) -> Dataset:
    cells = [{"bytes": i if isinstance(i, bytes) else encode(i), "path": None} for i in images]
    features = Features(image=ImageFeature(), label=ClassLabel(names=["a", "b"]))
    return Dataset.from_dict({"image": cells, "label": [n % 2 for n in range(len(images))]}, features=features)


def test_pixels_come_through_unchanged():
    red = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8))
    arrays = to_arrays(dataset_of(red, red), None, None, None)
    assert arrays.images.dtype == np.uint8 and arrays.images.shape == (2, 3, 30, 30)
    assert (arrays.images[0].transpose(1, 2, 0) == np.asarray(red)).all()
    assert arrays.labels.tolist() == [0, 1] and arrays.label_names == ["a", "b"]


def test_nothing_is_said_when_nothing_changes(caplog):
    with caplog.at_level(logging.INFO, "clinsynth"):
        to_arrays(dataset_of(gradient(), gradient()), 32, 1, None)
    assert not caplog.text


def test_mixed_sizes_need_a_resolution(caplog):
    mixed = dataset_of(gradient(), gradient(40, 40), gradient(64, 64))
    with pytest.raises(ValueError, match="sizes 32x32, 40x40, 64x64; give --resolution"):
        to_arrays(mixed, None, None, None)
    with caplog.at_level(logging.INFO, "clinsynth"):
        assert to_arrays(mixed, 32, None, None).images.shape == (3, 1, 32, 32)
    assert "of 3 images: 2 resized from 40x40, 64x64 to 32x32, bicubic" in caplog.text


def test_mixed_modes_need_channels(caplog):
    mixed = dataset_of(gradient(), gradient(mode="RGB"), gradient(mode="RGBA"))
    with pytest.raises(ValueError, match=r"1 L, 1 RGB, 1 RGBA.*give --channels"):
        to_arrays(mixed, None, None, None)
    with caplog.at_level(logging.INFO, "clinsynth"):
        arrays = to_arrays(mixed, None, 3, None)
    assert arrays.images.shape == (3, 3, 32, 32)
    assert (arrays.images == arrays.images[0, 0]).all()
    assert "1 converted from L to RGB; 1 converted from RGBA to RGB" in caplog.text


def test_transparency_is_refused():
    half = gradient(mode="RGBA")
    half.putpixel((3, 3), (1, 2, 3, 100))
    with pytest.raises(ValueError, match="row 1 has transparent pixels"):
        to_arrays(dataset_of(gradient(mode="RGBA"), half), None, 3, None)


def deep(mode: str, top: int = 65535) -> Image.Image:
    values = np.linspace(0, top, 32 * 32).reshape(32, 32)
    return Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))


@pytest.mark.parametrize(
    ("mode", "kind", "top", "rule", "low", "high"),
    [
        ("I;16", "PNG", 65535, None, 0, 65535),
        ("I;16", "TIFF", 4095, None, 0, 65535),
        ("I;16", "TIFF", 4095, ("full", 0, 0), 0, 65535),
        ("I;16", "PNG", 4095, ("window", 2000, 1000), 1500, 2500),
        ("I", "TIFF", 4095, ("percentile", 0, 100), 0, 4095),
        ("F", "TIFF", 1, ("window", 0.5, 0.5), 0.25, 0.75),
    ],
)
def test_more_than_8_bits_by_a_stated_rule(mode, kind, top, rule, low, high, caplog):
    with caplog.at_level(logging.INFO, "clinsynth"):
        found = to_arrays(dataset_of(encode(deep(mode, top), kind)), None, None, None, rule).images[0, 0]
    expected = 255 * np.clip((np.asarray(deep(mode, top), dtype=float) - low) / (high - low), 0, 1)
    assert np.abs(found - expected).max() <= 1
    assert f"1 of more than 8 bits ({mode}) brought to L by " in caplog.text


@pytest.mark.parametrize(
    ("mode", "message"), [("I", r"of 32 bits \(I\).*percentile:0\.5,99\.5"), ("F", "give --intensity percentile")]
)
def test_bits_without_a_range_are_refused(mode, message):
    with pytest.raises(ValueError, match=f"row 0 is a grey TIFF .*{message}"):
        to_arrays(dataset_of(encode(deep(mode), "TIFF")), None, None, None)


def png_of_16_bits() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(32 * 6) for _ in range(32))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0))  # 16 bits, colour
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of_16_bits() -> bytes:
    tags = [(256, 4, 1, 32), (257, 4, 1, 32), (258, 3, 3, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 0)]
    tags += [(277, 3, 1, 3), (278, 4, 1, 32), (279, 4, 1, 6144)]
    end = 8 + 2 + 12 * len(tags) + 4
    values = {258: end, 273: end + 6}
    entries = b"".join(struct.pack("<HHII", tag, kind, n, values.get(tag, value)) for tag, kind, n, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head + struct.pack("<HHH", 16, 16, 16) + bytes(6144)


@pytest.mark.parametrize("content", [png_of_16_bits(), tiff_of_16_bits(), b"P6 32 32 65535 " + bytes(6144)])
def test_colour_of_16_bits_is_not_cut_to_8_without_a_word(content):
    assert Image.open(io.BytesIO(content)).mode == "RGB"  # what Pillow makes of it
    with pytest.raises(ValueError, match=r"row 0 is a 16-bit \w+ in colour.*give --intensity full"):
        to_arrays(dataset_of(content), None, None, None)
    assert to_arrays(dataset_of(content), None, None, None, ("full", 0, 0)).images.shape == (1, 3, 32, 32)


def test_print_colours_and_strips():
    cmyk = encode(gradient(mode="RGB").convert("CMYK"), "JPEG", quality=95)
    assert np.abs(to_arrays(dataset_of(cmyk), None, None, None).images[0, 0] - np.asarray(gradient())).mean() < 6
    strip = dataset_of(gradient(), gradient(400, 2))
    with pytest.raises(ValueError, match=r"row 1 is 400x2, too narrow to be padded at 32 pixels; .*--fit crop"):
        to_arrays(strip, 32, None, "pad")


def test_palette_pictures_become_colour():
    arrays = to_arrays(dataset_of(gradient(mode="RGB").convert("P")), None, None, None)
    assert arrays.images.shape == (1, 3, 32, 32)


def test_oblong_pictures_need_a_fit():
    stripes = Image.new("L", (60, 30))
    stripes.paste(255, (15, 0, 45, 30))
    oblong = dataset_of(stripes)
    with pytest.raises(ValueError, match=r"not square \(60x30\); give --fit"):
        to_arrays(oblong, 30, None, None)
    squashed, cropped, padded = (to_arrays(oblong, 30, None, fit).images[0, 0] for fit in ("squash", "crop", "pad"))
    assert cropped.min() == 255
    assert squashed[:, :5].max() == 0 and squashed[:, 10:20].min() == 255
    assert padded[:5].max() == 0 and padded[10:20, 10:20].min() == 255


def test_upright_by_exif():
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = gradient()
    arrays = to_arrays(dataset_of(encode(picture, exif=turned)), None, None, None)
    assert (arrays.images[0, 0] == np.rot90(np.asarray(picture), -1)).all()


def test_several_frames_are_refused():
    content = encode(gradient(), "TIFF", save_all=True, append_images=[gradient()])
    with pytest.raises(ValueError, match="row 0 holds 2 frames"):
        to_arrays(dataset_of(content), None, None, None)


@pytest.mark.parametrize(
    ("resolution", "channels", "fit", "message"),
    [
        (27, None, None, "--resolution must be 28 to 256, got 27"),
        (257, None, None, "--resolution must be 28 to 256, got 257"),
        (0, None, None, "--resolution must be 28 to 256, got 0"),
        (None, 2, None, r"--channels must be 1 \(grey\) or 3 \(colour\), got 2"),
        (None, None, "stretch", "--fit must be one of squash, crop, pad, got stretch"),
    ],
)
def test_flags_out_of_range(resolution, channels, fit, message):
    with pytest.raises(ValueError, match=message):
        to_arrays(dataset_of(gradient()), resolution, channels, fit)


def test_own_size_out_of_range_is_refused():
    with pytest.raises(ValueError, match="--resolution must be 28 to 256, got 20"):
        to_arrays(dataset_of(gradient(20, 20)), None, None, None)


def test_no_pictures_is_an_error():
    with pytest.raises(ValueError, match="holds no images"):
        to_arrays(dataset_of(gradient()).select([]), None, None, None)
