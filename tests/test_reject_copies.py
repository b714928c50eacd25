"""--reject_copies: copies are drawn anew and counted; the rows depend on neither batches, processes nor stops."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from helpers import LABELS, stopping, tiny_pipeline, write_npz
from test_generate_images import SCHEDULE, arguments, read_rows

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_arrays
from clinsynth.images import from_png
from clinsynth.metrics.privacy.copies import EXACT, NEAR, CopyDetector
from clinsynth.models.generators import Sample
from clinsynth.scripts.generate_images import main
from clinsynth.synthesis.image_checks import CopyCheck
from clinsynth.synthesis.image_shards import ImageShards, write_image_shards
from clinsynth.synthesis.image_sources import Reject
from clinsynth.synthesis.sets import load_synthetic_images
from clinsynth.synthesis.shards import MOST_DRAWS, seed_of

PHANTOM = "phantom-fundus?size=28&train=60&validation=10&test=100"
GENERATOR = {"reject_copies": {}}


@pytest.fixture(scope="module")
def phantom() -> dict[str, np.ndarray]:
    """Pictures (n, 3, 28, 28) of the train split, and new ones."""
    splits = load_image_arrays(ImageDataArguments(dataset=PHANTOM))
    return {"train": splits["train"].images, "new": splits["test"].images}


@pytest.fixture(scope="module")
def detector(phantom: dict[str, np.ndarray]) -> CopyDetector:
    return CopyDetector.of(phantom["train"])


def replaying(phantom: dict[str, np.ndarray], share: float, noise: float = 0) -> Sample:
    """A generator whose seed decides whether it draws a new picture or replays a train picture."""

    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        side = "train" if generator.random() < share else "new"
        picture = phantom[side][generator.integers(len(phantom[side]))]
        changed = picture + (generator.normal(0, noise, picture.shape) if side == "train" else 0)
        return np.clip(changed, 0, 255).round().astype(np.uint8)

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([draw(seed) for seed in seeds]), np.ones(len(seeds), dtype=bool)

    return sample


def generate(
    folder: Path, sample: Sample, reject: Reject | None, batch_size: int = 8, finish: bool = True
) -> ImageShards:
    folder.mkdir(exist_ok=True)
    plan = ImageShards(folder, [0] * 20 + [2] * 13, LABELS, seed=3, shard_size=7)
    plan.begin(GENERATOR)
    write_image_shards(plan, sample, batch_size, reject=reject)
    if finish:
        plan.finish(GENERATOR)
    return plan


def description(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generation.json").read_text())


@pytest.mark.parametrize(("noise", "reason"), [(0, EXACT), (2, NEAR)])
def test_copies_are_rejected_and_counted(
    noise: float, reason: str, phantom: dict[str, np.ndarray], detector: CopyDetector, tmp_path: Path
) -> None:
    sample = replaying(phantom, 0.5, noise)
    generate(tmp_path / "all", sample, None)
    generate(tmp_path / "out", sample, CopyCheck(detector))
    train = {image.tobytes() for image in phantom["train"]}
    before, after = read_rows(tmp_path / "all"), read_rows(tmp_path / "out")
    copied = [i for i, row in enumerate(before) if np.random.default_rng(row["seed"]).random() < 0.5]
    assert 8 <= len(copied) <= 25
    assert [row["label"] for row in after] == [0] * 20 + [2] * 13
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        picture = sample([0], [new["seed"]])[0][0]
        assert (from_png(new["image"]["bytes"]) == picture).all() and picture.tobytes() not in train
        draw = next(draw for draw in range(MOST_DRAWS) if seed_of(3, i, draw) == new["seed"])
        assert (draw == 0) == (new == old) and (draw > 0 or i not in copied)
    found = description(tmp_path / "out")
    assert found["produced"] == found["requested"] and found["given_up"] == {"rows": 0, "after_draws": 10}
    assert found["rejected"]["not finite"] == 0 and found["rejected"][reason] >= len(copied)
    assert len(load_synthetic_images(tmp_path / "out").images) == 33
    assert load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")).num_rows == 33
    assert description(tmp_path / "all")["rejected"] == {"not finite": 0}


def test_a_generator_that_only_replays_falls_short(
    phantom: dict[str, np.ndarray], detector: CopyDetector, tmp_path: Path
) -> None:
    plan = generate(tmp_path / "out", replaying(phantom, 1.0), CopyCheck(detector))
    found = description(tmp_path / "out")
    assert found["produced"] == {"healthy": 0, "mild": 0, "severe": 0} and read_rows(tmp_path / "out") == []
    assert found["requested"] == {"healthy": 20, "mild": 0, "severe": 13}
    assert found["rejected"] == {"exact copy": 330, "not finite": 0}
    assert found["given_up"] == {"rows": 33, "after_draws": 10}
    assert all(plan.path(shard).exists() for shard in range(plan.num_shards))


def test_rows_that_are_not_finite_are_counted_apart(
    phantom: dict[str, np.ndarray], detector: CopyDetector, tmp_path: Path
) -> None:
    sample = replaying(phantom, 0.9)

    def broken(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        images, _ = sample(labels, seeds)
        return images, np.array([label != 2 for label in labels])

    generate(tmp_path / "out", broken, CopyCheck(detector))
    found = description(tmp_path / "out")
    assert found["rejected"]["not finite"] == 13 and found["produced"]["severe"] == 0
    assert found["produced"]["healthy"] == 20 - found["given_up"]["rows"]


def test_rows_depend_on_neither_batch_size_nor_processes_nor_a_stop(
    phantom: dict[str, np.ndarray], detector: CopyDetector, tmp_path: Path
) -> None:
    sample = replaying(phantom, 0.6)
    generate(tmp_path / "whole", sample, CopyCheck(detector))
    generate(tmp_path / "small", sample, CopyCheck(detector), batch_size=3)

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "stopped", stopping(sample, 30), CopyCheck(detector), finish=False)
    assert 0 < len(read_rows(tmp_path / "stopped")) < 33
    generate(tmp_path / "stopped", sample, CopyCheck(detector))

    (tmp_path / "two").mkdir()
    plan = ImageShards(tmp_path / "two", [0] * 20 + [2] * 13, LABELS, seed=3, shard_size=7, num_processes=2)
    plan.begin(GENERATOR)
    for process in (1, 0):
        write_image_shards(plan, sample, 8, process, CopyCheck(detector))
    plan.finish(GENERATOR)

    rows = read_rows(tmp_path / "whole")
    for name in ("small", "stopped", "two"):
        assert read_rows(tmp_path / name) == rows
        assert description(tmp_path / name)["rejected"] == description(tmp_path / "whole")["rejected"]


def test_new_pictures_are_seldom_rejected(phantom: dict[str, np.ndarray], detector: CopyDetector) -> None:
    reasons = detector.reasons(phantom["new"])
    assert EXACT not in reasons and reasons.count(NEAR) <= 5
    assert detector.reasons(phantom["train"]) == [EXACT] * 60
    assert detector.describe()["false_alarm_rate"] == pytest.approx(1 / 61, abs=1e-4)


def test_the_command_states_the_detector(tmp_path: Path) -> None:
    tiny_pipeline(**SCHEDULE).save_pretrained(tmp_path / "model")
    data = write_npz(tmp_path / "data.npz")
    out = tmp_path / "out"
    main(arguments(tmp_path / "model", out, per_class=2, reject_copies=True, dataset=str(data)))
    found = description(out)
    assert found["generator"]["reject_copies"]["n"] == 18
    assert 0 < found["generator"]["reject_copies"]["threshold"] < 1
    assert sum(found["produced"].values()) == 6 - found["given_up"]["rows"]

    (out / "config.yaml").unlink()
    other = write_npz(tmp_path / "other.npz", per_class=7)
    with pytest.raises(ValueError, match=r"was begun with reject_copies .*train_sha256.*give another --output_dir"):
        main(arguments(tmp_path / "model", out, per_class=2, reject_copies=True, dataset=str(other)))


def test_a_flag_that_cannot_be_honoured_is_named(tmp_path: Path) -> None:
    tiny_pipeline(**SCHEDULE).save_pretrained(tmp_path / "model")
    data = str(write_npz(tmp_path / "data.npz", per_class=2))
    with pytest.raises(ValueError, match="--reject_copies needs --dataset"):
        arguments(tmp_path / "model", tmp_path / "out", per_class=1, reject_copies=True)
    with pytest.raises(ValueError, match=r"--reject_copies needs 10 train images.*got 6 of 6"):
        main(arguments(tmp_path / "model", tmp_path / "out", per_class=1, reject_copies=True, dataset=data))
    with pytest.raises(ValueError, match=r"--resolution is 32, but --model .* draws resolution 28"):
        changes: dict[str, Any] = {"reject_copies": True, "dataset": PHANTOM, "resolution": 32}
        main(arguments(tmp_path / "model", tmp_path / "out", per_class=1, **changes))
