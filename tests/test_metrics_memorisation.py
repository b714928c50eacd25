"""Copies and memorisation: replayed train pictures are caught, in whole and in part; held-out pictures are not."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.hub.gate import Thresholds, read_gate
from clinsynth.metrics.images.privacy import COPIES, image_privacy, privacy_verdict, worst_over_runs
from clinsynth.metrics.nearest import as_views, closest_rows
from clinsynth.metrics.privacy.closest_records import measure_ratios, measure_shares
from clinsynth.metrics.privacy.copies import SPACE, ThumbnailSpace, duplicated, fit_threshold
from clinsynth.metrics.privacy.power import IMAGE_CHECK
from clinsynth.metrics.privacy.views import KINDS, ViewSpace, beyond, certain_thresholds, find_power, redrawn
from clinsynth.metrics.records import Features, MeasurementSettings
from clinsynth.metrics.registry import MEMORISED, NO_SIGN, UNCLEAR

SETTINGS = MeasurementSettings("random projection", replicates=40)


@pytest.fixture(scope="module")
def real() -> dict[str, ImageArrays]:
    """Train and test split, and "fresh": pictures that neither the generator nor the evidence has seen."""
    spec = "phantom-fundus?size=32&train=150&validation=10&test=240"
    splits = load_image_arrays(ImageDataArguments(dataset=spec))
    test = splits["test"]
    return {"train": splits["train"], "test": take(test, slice(0, None, 2)), "fresh": take(test, slice(1, None, 2))}


def take(arrays: ImageArrays, rows: Any) -> ImageArrays:
    return ImageArrays(arrays.images[rows], arrays.labels[rows], arrays.label_names)


def noisy(arrays: ImageArrays, spread: float = 2) -> ImageArrays:
    noise = np.random.default_rng(0).normal(0, spread, arrays.images.shape)
    images = np.clip(arrays.images + noise, 0, 255).round().astype(np.uint8)
    return ImageArrays(images, arrays.labels, arrays.label_names)


def joined(*parts: ImageArrays) -> ImageArrays:
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return ImageArrays(images, labels, parts[0].label_names)


def extract(arrays: ImageArrays) -> Features:
    """An extractor that knows nothing: 32 random directions of the pixels."""
    pixels = arrays.images.reshape(len(arrays.images), -1) / 255
    directions = np.random.default_rng(7).normal(size=(pixels.shape[1], 32))
    return Features(pixels @ directions, arrays.labels)


def evidence_on(synthetic: ImageArrays, real: dict[str, ImageArrays]) -> dict[str, Any]:
    features = {"synthetic": extract(synthetic), "train": extract(real["train"]), "test": extract(real["test"])}
    found = image_privacy(synthetic, real, features, SETTINGS)
    return json.loads(json.dumps(found, allow_nan=False))


def overall(found: dict[str, Any], metric: str, extractor: str = SPACE) -> dict[str, Any]:
    kind = (metric, "overall", extractor)
    return next(r for r in found["records"] if (r["metric"], r["label"], r["extractor"]) == kind)


def copies(found: dict[str, Any], detector: str) -> dict[str, Any]:
    return next(record for record in found["copies"] if record["detector"] == detector)


def test_a_generator_that_replays_train_pictures_is_caught(real: dict[str, ImageArrays]) -> None:
    rows = np.arange(0, 150, 3)
    found = evidence_on(take(real["train"], rows), real)
    assert found["verdict"] == COPIES and "50 of 50 are train images, pixel for pixel" in found["text"]
    assert copies(found, "pixels")["value"] == 1 and copies(found, "pixels")["interval"][0] > 0.9
    for space in (SPACE, SETTINGS.extractor):
        assert copies(found, space)["count"] == 50 and copies(found, space)["p_value"] < 1e-6
        share = overall(found, "dcr_share", space)
        assert share["value"] > share["chance_range"][1] and share["interval"][0] > 0.6
        assert overall(found, "nndr_median", space)["value"] == 0
    assert [pair["train_row"] for pair in found["pairs"]] == [rows[pair["synthetic_row"]] for pair in found["pairs"]]
    assert {pair["verdict"] for pair in found["pairs"]} == {"exact copy"} and len(found["pairs"]) == 12


def test_a_replay_with_slight_noise_is_caught(real: dict[str, ImageArrays]) -> None:
    found = evidence_on(noisy(take(real["train"], slice(0, 150, 3))), real)
    assert found["verdict"] == COPIES
    assert copies(found, "pixels")["count"] == 0
    assert copies(found, SPACE)["count"] >= 45
    assert found["pairs"][0]["verdict"] == "near copy"
    assert found["pairs"][0]["train_row"] == 3 * found["pairs"][0]["synthetic_row"]


@pytest.mark.parametrize("spread", [0, 2])
def test_a_generator_that_replays_one_picture_in_ten_is_caught(real: dict[str, ImageArrays], spread: float) -> None:
    replayed = noisy(take(real["train"], slice(40, 52)), spread)
    found = evidence_on(joined(take(real["fresh"], slice(0, 108)), replayed), real)
    assert found["verdict"] == COPIES
    assert copies(found, "pixels")["count"] == (12 if spread == 0 else 0)
    assert 12 <= copies(found, SPACE)["count"] <= 17
    assert sorted(pair["synthetic_row"] for pair in found["pairs"]) == list(range(108, 120))


def test_mirrored_and_moved_copies_are_found(real: dict[str, ImageArrays]) -> None:
    for pixels_moved, least in ((0, 58), (1, 40)):
        images = np.roll(real["train"].images[:60, :, :, ::-1], pixels_moved, axis=3)
        found = evidence_on(ImageArrays(images, real["train"].labels[:60], real["train"].label_names), real)
        assert copies(found, SPACE)["count"] >= least and found["verdict"] == COPIES


def textures(count: int, seed: int) -> np.ndarray:
    """Different pictures, uint8 (count, 3, 28, 28)."""
    drawn = np.random.default_rng(seed).normal(size=(count, 3, 28, 28))
    smooth = sum(gaussian_filter(drawn, (0, 0, spread, spread)) * spread for spread in (1, 2.5))
    return np.clip(128 + 90 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def test_one_altered_copy_is_certain_by_itself_and_the_power_says_which_kinds_are_found() -> None:
    train, held_out, fresh = textures(60, 1), textures(40, 2), textures(40, 3)
    space = ViewSpace.of(train)
    thresholds = certain_thresholds(space.closest(held_out)[0])
    assert thresholds is not None and not (beyond(space.closest(fresh)[0], thresholds) > 1).any()
    power = {one["kind"]: one["found"] for one in find_power(space, thresholds, train, held_out, 0, 200)}
    assert power.pop("blended to 50 %") < 8 and min(power.values()) >= 6 and list(power.values()).count(8) >= 9, power
    for kind in power:
        scores, number = space.closest(KINDS[kind](train[17], held_out[3])[None])
        assert beyond(scores, thresholds)[0] > 1 and number[0] == 17, kind
    assert certain_thresholds(np.zeros((9, 3))) is None and find_power(space, None, train, held_out, 0, 200) == []


def test_copies_of_ten_train_images_are_found_as_those_of_many_are() -> None:
    """So few show little of how images differ; what they do not show must not drown a copy."""
    train, held_out = textures(10, 1), textures(40, 2)
    space = ViewSpace.of(train)
    thresholds = certain_thresholds(space.closest(held_out)[0])
    for kind in ("shifted by 3 pixels", "saved as JPEG 75", "redrawn by heart", "blended to 70 %"):
        made = np.stack([KINDS[kind](*pair) for pair in zip(train, held_out[:10], strict=True)])
        assert thresholds is not None and (beyond(space.closest(made)[0], thresholds) > 1).sum() >= 9, kind


def of_one_class(images: np.ndarray) -> ImageArrays:
    return ImageArrays(images, np.zeros(len(images), dtype=np.int64), ["one"])


def test_an_overfitted_generator_is_refused_and_the_stated_power_agrees() -> None:
    """Half of its images are train images as it has learned them by heart; how many of them are found, the evidence
    says beforehand, from copies that it plants itself."""
    sides = {"train": textures(60, 1), "validation": textures(12, 5), "test": textures(40, 2)}
    real = {name: of_one_class(images) for name, images in sides.items()}
    drawn = np.stack([redrawn(image, image) for image in sides["train"][:20]])
    made = np.concatenate([textures(20, 3), drawn])
    evidence = {"privacy": evidence_on(of_one_class(made), real)}
    refused = [reading.name for reading in read_gate(evidence, Thresholds()) if not reading.passed]
    assert evidence["privacy"]["verdict"] == COPIES and "single copies" in refused and "exact copies" not in refused
    (power,) = (one for one in evidence["privacy"]["power"] if one["kind"] == "redrawn by heart")
    low, high = power["interval"]
    assert low <= copies(evidence["privacy"], "views")["count"] / len(drawn) <= high
    assert f"Of 1 copies planted in 40, {IMAGE_CHECK} would find: " in evidence["privacy"]["text"]
    honest = {"privacy": evidence_on(of_one_class(made[:20]), real)}
    assert not [reading for reading in read_gate(honest, Thresholds()) if not reading.passed]


def test_new_real_pictures_are_not_flagged(real: dict[str, ImageArrays]) -> None:
    found = evidence_on(real["fresh"], real)
    assert found["verdict"] == NO_SIGN
    for space in (SPACE, SETTINGS.extractor):
        near = copies(found, space)
        assert near["count"] <= 5 and near["expected_false_alarms"] == pytest.approx(120 / 121)
        share = overall(found, "dcr_share", space)
        assert 0.4 < share["value"] < 0.6 and 0.35 < share["floor"] < 0.65
        assert share["chance_range"][0] < 0.5 < share["chance_range"][1]
    assert {pair["verdict"] for pair in found["pairs"]} <= {"near copy", "as near as held-out images come"}


def test_the_held_out_pictures_themselves_are_copies_of_no_train_picture(real: dict[str, ImageArrays]) -> None:
    found = evidence_on(real["test"], real)
    assert found["verdict"] == COPIES and "120 of 120 are real images (test 120)" in found["text"]
    assert [record["count"] for record in found["copies"]] == [0, 0, 0, 0]
    assert overall(found, "dcr_share")["value"] < 0.2  # not 0: where train has fewer rows, test is subsampled too


def test_duplicates_in_the_data_do_not_spoil_the_threshold(real: dict[str, ImageArrays]) -> None:
    leaky = {**real, "test": joined(real["test"], take(real["train"], slice(0, 6)))}
    found = evidence_on(noisy(take(real["train"], slice(0, 150, 3))), leaky)
    assert found["duplicates"] == list(range(120, 126))
    near = copies(found, SPACE)
    assert near["n_excluded"] == 6 and near["n_held_out"] == 120 and near["count"] >= 45
    assert near["floor"] == pytest.approx(6 / 126) and copies(found, "pixels")["floor"] == pytest.approx(6 / 126)


def test_memorisation_without_copies_is_named() -> None:
    """Rows drawn about train rows, each a quarter of the usual distance away."""
    generator = np.random.default_rng(0)
    train, held_out = generator.normal(size=(200, 6)), generator.normal(size=(200, 6))
    labels = np.zeros(200, dtype=np.int64)
    near = train + generator.normal(size=train.shape) * 0.3
    (record, _) = measure_shares(
        Features(near, labels), Features(train, labels), Features(held_out, labels), ["one"], SETTINGS
    )
    assert record.value is not None and record.interval is not None and record.chance_range is not None
    assert record.interval[0] > 0.6 > record.chance_range[1]
    assert privacy_verdict([], [record])["verdict"] == MEMORISED
    shifted = Features(held_out + 1.5, labels)
    (record, _) = measure_shares(Features(held_out, labels), Features(train, labels), shifted, ["one"], SETTINGS)
    assert privacy_verdict([], [record])["verdict"] == UNCLEAR


def test_shares_of_new_rows_stay_in_the_chance_range() -> None:
    """A train split five times as large and a rare class: the share is still one half."""
    inside = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        sides = []
        for count in (300, 60, 150):
            labels = (generator.random(count) < 0.15).astype(np.int64)
            sides.append(Features(generator.normal(size=(count, 4)) + labels[:, None], labels))
        train, held_out, synthetic = sides
        record, common, rare = measure_shares(synthetic, train, held_out, ["common", "rare"], SETTINGS)
        assert record.value is not None and record.chance_range is not None
        inside.append(record.chance_range[0] <= record.value <= record.chance_range[1])
        assert common.n_synthetic + rare.n_synthetic == 150
    assert sum(inside) >= 17


def test_too_few_rows_are_not_measured() -> None:
    labels = np.zeros(30, dtype=np.int64)
    rows = np.random.default_rng(0).normal(size=(30, 3))
    few = Features(rows[:5] + 1, labels[:5])
    records = measure_shares(few, Features(rows, labels), Features(rows + 0.5, labels), ["one"], SETTINGS)
    assert [record.value for record in records] == [None, None] and records[0].note == "not measured, n=5"


def test_ratio_is_nearest_over_second() -> None:
    train = np.array([[0.0, 0], [4, 0], [0, 10], [0, 10]])
    found = closest_rows(as_views(np.array([[1.0, 0], [0, 0], [0, 10]])), train)
    assert found.nearest_over_second() == pytest.approx([1 / 3, 0, 1])
    assert found.numbers[:, 0].tolist()[:2] == [0, 0] and found.numbers[2, 0] in (2, 3)
    labels = np.zeros(12, dtype=np.int64)
    queries = closest_rows(as_views(np.repeat([[1.0, 0]], 12, axis=0)), train)
    median, fifth, *_ = measure_ratios((queries, queries), (labels, labels), ["one"], len(train), SETTINGS)
    assert (median.metric, fifth.metric) == ("nndr_median", "nndr_fifth")
    assert median.value == fifth.value == median.floor == pytest.approx(1 / 3)


def test_closest_rows_agree_with_all_distances() -> None:
    generator = np.random.default_rng(1)
    rows, queries = generator.normal(size=(90, 5)) + 100, generator.normal(size=(600, 5)) + 100
    table = np.sort(np.linalg.norm(queries[:, None] - rows[None], axis=2), axis=1)
    assert closest_rows(as_views(queries), rows, 4).distances == pytest.approx(table[:, :4], abs=1e-6)
    own = closest_rows(as_views(rows), rows, 2, own=np.arange(90))
    assert (own.numbers[:, 0] != np.arange(90)).all() and own.distances.min() > 0
    assert (closest_rows(as_views(rows), rows, 2).distances[:, 0] == 0).all()
    with pytest.raises(ValueError, match="3 train images or more, got 1"):
        closest_rows(as_views(queries), rows[:1])


def test_the_threshold_is_an_order_statistic() -> None:
    scores = np.linspace(1, 0, 1000)
    threshold = fit_threshold(scores, np.zeros(1000, dtype=bool))
    assert (threshold.rank, threshold.n) == (5, 1000) and threshold.value == pytest.approx(4 / 999)
    assert threshold.flags(scores).sum() == 4 and threshold.false_alarm_rate == pytest.approx(5 / 1001)
    assert fit_threshold(scores[:9], np.zeros(9, dtype=bool)).value is None


def test_the_worst_run_is_named(real: dict[str, ImageArrays]) -> None:
    good, bad = evidence_on(take(real["fresh"], slice(0, 60)), real), evidence_on(take(real["train"], slice(60)), real)
    worst = worst_over_runs({"seed 0": good, "seed 1": bad, "seed 2": good})
    assert (worst["verdict"], worst["run"], worst["runs"]) == (COPIES, "seed 1", 3)
    assert {record["run"] for record in worst["copies"]} == {"seed 1"}
    share = overall(worst, "dcr_share")
    assert share["run"] == "seed 1" and share["value"] == overall(bad, "dcr_share")["value"]
    assert overall(worst, "nndr_median")["value"] == 0
    with pytest.raises(ValueError, match="one synthetic set or more"):
        worst_over_runs({})


@pytest.mark.parametrize(
    ("name", "jpeg", "bright", "moved", "false_alarms"),
    [("retinamnist.npz", 1.0, 1.0, 0.4, 6), ("pneumoniamnist_reconstructed.npz", 1.0, 1.0, 0.9, 10)],
)
def test_altered_copies_on_real_data(
    shared_data: Path, name: str, jpeg: float, bright: float, moved: float, false_alarms: int
) -> None:
    splits = load_image_arrays(ImageDataArguments(dataset=str(shared_data / name)))
    train, chosen = splits["train"].images[:1000], splits["train"].images[:1000:10]
    space = ThumbnailSpace.of(train)
    held_out = space.closest(splits["test"].images)
    threshold = fit_threshold(held_out.relative(), duplicated(held_out))

    def found(images: np.ndarray) -> float:
        return threshold.flags(space.closest(images).relative()).mean()

    assert found(np.stack([as_jpeg(image) for image in chosen])) >= jpeg
    assert found((chosen * 0.95).round().astype(np.uint8)) >= bright
    assert found(np.roll(chosen, 1, axis=3)) >= moved
    assert found(splits["validation"].images) * len(splits["validation"].images) <= false_alarms


def as_jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=75)
    pixels = np.asarray(Image.open(buffer))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
