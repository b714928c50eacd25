"""Lesions measured in drawn pictures, and a checklist of their limits that tells their classes apart."""

from pathlib import Path

import numpy as np
import pytest
from helpers import clinsynth
from PIL import Image

from clinsynth.judges.checklists import load_checklist
from clinsynth.judges.judges import load_judge
from clinsynth.pipelines.checklist_judge.measuring_model import measure_skin, measured_items, parse_item

SKIN, BROWN, RED, BLACK = (220, 180, 165), (95, 55, 40), (190, 70, 80), (30, 25, 25)


def draw(shape: str, colour: tuple[int, int, int] = BROWN, side: int = 64, noise: int = 0) -> np.ndarray:
    """A lesion on skin, uint8 (side, side, 3), in the middle or where the noise moves it."""
    rng = np.random.default_rng(noise)
    y, x = (np.indices((side, side)) + 0.5) / side - 0.5 - rng.uniform(-0.05, 0.05, (2, 1, 1)) * bool(noise)
    radius = 0.25 * (1 + 0.1 * rng.uniform(-1, 1) * bool(noise))
    disc = x**2 + y**2 < radius**2
    inside = {
        "disc": disc,
        "two lobes": disc & ((x < 0) | (y < 0)),
        "star": x**2 + y**2 < (radius * (1 + 0.5 * np.cos(9 * np.arctan2(y, x)))) ** 2,
        "nothing": np.zeros_like(disc),
    }[shape]
    picture = np.where(inside[..., None], colour, SKIN) + rng.normal(0, 2, (side, side, 3)) * bool(noise)
    return picture.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [32, 64, 128])
def test_a_disc_measures_as_a_disc_at_every_size(side: int) -> None:
    found = measure_skin(draw("disc", side=side))
    assert found["area"] == pytest.approx(100 * np.pi * 0.25**2, abs=2)
    assert found["asymmetry"] <= 2 and found["border"] in (10, 11) and found["colours"] == 1
    darker = 100 * (1 - sum(BROWN) / sum(SKIN))
    assert found["darkness"] == pytest.approx(darker, abs=6)
    assert found["red"] == pytest.approx(100 * BROWN[0] / sum(BROWN), abs=2)


def test_shape_and_colour_move_their_own_quantity() -> None:
    disc, lobes, star = (measure_skin(draw(shape)) for shape in ("disc", "two lobes", "star"))
    assert lobes["asymmetry"] > disc["asymmetry"] + 8 and star["border"] > disc["border"] + 5
    assert measure_skin(draw("disc", RED))["red"] > disc["red"] + 4
    half_black = draw("disc")
    half_black[:32][(half_black[:32] == BROWN).all(2)] = BLACK
    assert measure_skin(half_black)["colours"] == 2


def test_the_rim_of_the_instrument_is_no_lesion() -> None:
    picture = draw("disc")
    y, x = np.indices((64, 64)) - 31.5
    picture[np.hypot(x, y) > 38] = 5
    assert measure_skin(picture)["area"] == pytest.approx(measure_skin(draw("disc"))["area"], abs=2)


def test_where_no_lesion_is_all_is_zero_and_grey_is_refused() -> None:
    assert set(measure_skin(draw("nothing")).values()) == {0}
    assert set(measure_skin(np.zeros((32, 32, 3), np.uint8)).values()) == {0}
    with pytest.raises(ValueError, match=r"cannot be measured in grey images.*--channels 3"):
        measure_skin(draw("disc")[..., 0])


def test_a_fitted_checklist_tells_its_classes_apart(tmp_path: Path) -> None:
    for label, (shape, colour) in {"naevus": ("disc", BROWN), "melanoma": ("two lobes", RED)}.items():
        for split, count in (("train", 20), ("validation", 6), ("test", 2)):
            folder = tmp_path / "skin" / split / label
            folder.mkdir(parents=True)
            for row in range(count):
                noise = 1 + row + 100 * len(split)
                Image.fromarray(draw(shape, colour, noise=noise)).save(folder / f"{row}.png")
    path = tmp_path / "fitted.yaml"
    flags = ("--dataset", tmp_path / "skin", "--name", "dermatoscopy-measured-drawn", "--min_class_size", 2)
    said = clinsynth("fit", "checklist", *flags, "--output_file", path).stdout
    own, others = (float(word) for word in next(row for row in said.splitlines() if "melanoma" in row).split()[2:])
    assert own > others + 0.3
    checklist = load_checklist(path)
    assert checklist.name == "dermatoscopy-measured-drawn" and len(checklist.items("naevus")) == 7
    pictures = np.stack([draw("disc", noise=3), draw("two lobes", RED, noise=4)]).transpose(0, 3, 1, 2)
    judge = load_judge("measure", None, str(path))
    right = judge.judge_arrays(pictures, ["naevus", "melanoma"])
    wrong = judge.judge_arrays(pictures, ["melanoma", "naevus"])
    assert min(a["share"] for a in right) > max(a["share"] for a in wrong)
    said = clinsynth("fit", "checklist", *flags, "--output_file", path, check=False).stderr
    assert f"--output_file {path} is there already" in said
    below_a_file = path / "second.yaml"
    said = clinsynth("fit", "checklist", *flags, "--output_file", below_a_file, check=False).stderr
    assert f"--output_file {path} cannot be written to" in said and "measure:" not in said


def test_the_shipped_one_is_of_the_seven_diagnoses() -> None:
    checklist = load_checklist("dermatoscopy-measured")
    assert list(checklist.conditions) == list(load_checklist("dermatoscopy").conditions)
    items = measured_items(checklist.model_dump(mode="json"))
    assert items["area_12_to_52"].met_by({"area": 12}) and not items["area_12_to_52"].met_by({"area": 53})
    with pytest.raises(ValueError, match="item discs_1_to_2 cannot be measured"):
        parse_item("discs_1_to_2", ("area", "border"))
