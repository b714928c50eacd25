"""Judges of a checklist: what they measure, how far they agree with the truth, and the command that scores a set."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import kill_when
from judge_models import answers_without_clinsynth
from PIL import Image

from clinsynth.data.phantom_fundus import draw_fundus
from clinsynth.data.sources import load_folder
from clinsynth.judges.calibration import agreement, calibrate, check_usable, draw_known
from clinsynth.judges.checklists import load_checklist
from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import pass_rate, share_of_items, wilson_interval
from clinsynth.pipelines.checklist_judge import ChecklistJudgePipeline, MeasuringConfig, MeasuringModel
from clinsynth.pipelines.checklist_judge.measuring_model import count_lesions, measured_items, parse_item, peaks
from clinsynth.scripts.judge import JudgeImagesArguments, main

GRADES = [f"grade {number}" for number in range(5)]


@pytest.fixture
def judge() -> ChecklistJudgePipeline:
    return load_judge("measure", None, "phantom-fundus").pipeline


def eye(grade: int, number: int = 0, size: int = 64) -> tuple[Image.Image, dict[str, Any]]:
    return draw_fundus(grade, size, np.random.default_rng([5, grade, number]))


def test_lesions_of_drawn_eyes_are_counted() -> None:
    found, true = [], []
    for grade in range(5):
        for number in range(6):
            image, truth = eye(grade, number)
            counts = count_lesions(np.asarray(image))
            assert counts["discs"] == 1
            found.append([counts[name] for name in ("microaneurysms", "haemorrhages", "exudates", "new_vessels")])
            true.append([truth[name] for name in ("microaneurysms", "haemorrhages", "exudates", "new_vessels")])
    error = np.abs(np.array(found) - np.array(true))
    assert (error.mean(0) < [0.5, 0.2, 0.3, 0.1]).all(), error.mean(0)


def test_a_healthy_eye_has_no_lesion_even_when_it_is_dark_or_small() -> None:
    image, _ = eye(0)
    for picture in (image, image.point(lambda value: int(value * 0.7)), image.convert("L"), eye(0, size=32)[0]):
        counts = count_lesions(np.asarray(picture))
        assert [counts[name] for name in ("haemorrhages", "exudates", "new_vessels")] == [0, 0, 0]


def test_a_picture_of_noise_is_no_eye() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert count_lesions(noise)["discs"] != 1
    assert count_lesions(np.zeros((32, 32), np.uint8)) == dict.fromkeys(count_lesions(noise), 0)


def test_peaks_stay_apart() -> None:
    values = np.zeros((9, 9))
    values[1, 1], values[1, 3], values[7, 7] = 3.0, 2.0, 1.0
    assert peaks(values, 0.5, apart=3).tolist() == [[1, 1], [7, 7]]
    assert len(peaks(values, 0.5, apart=1)) == 3 and len(peaks(values, 9.0, apart=1)) == 0


def test_items_name_their_counts() -> None:
    item = parse_item("haemorrhages_1_to_4")
    assert [item.met_by({"haemorrhages": n}) for n in (0, 1, 4, 5)] == [False, True, True, False]
    assert parse_item("exudates_none").met_by({"exudates": 0}) and not parse_item("one_disc").met_by({"discs": 2})
    with pytest.raises(ValueError, match="item round_lesion cannot be measured; call it by what it counts"):
        parse_item("round_lesion")


def test_every_item_of_the_checklist_is_measured_and_its_ranges_are_the_drawing_s() -> None:
    from clinsynth.data.phantom_fundus import LESION_RANGES

    checklist = load_checklist("phantom-fundus").model_dump(mode="json")
    items = measured_items(checklist)
    for grade, name in enumerate(GRADES):
        ranges = {
            items[i["id"]].quantity: (items[i["id"]].low, items[i["id"]].high) for i in checklist["conditions"][name]
        }
        assert ranges == {**LESION_RANGES[grade], "discs": (1, 1)}


def test_answers_name_items_counts_and_share(judge: ChecklistJudgePipeline) -> None:
    image, truth = eye(3)
    answer = judge({"image": image, "condition": "grade 3"})
    assert answer["condition"] == "grade 3" and answer["share"] == np.mean(list(answer["scores"].values()))
    assert answer["reasons"]["haemorrhages_9_to_13"] == f"haemorrhages: {truth['haemorrhages']}"
    other = judge({"image": image, "condition": "grade 0"})
    assert other["scores"]["haemorrhages_none"] == 0 and other["share"] < answer["share"]


def test_answers_do_not_depend_on_the_batch(judge: ChecklistJudgePipeline) -> None:
    rows = [{"image": eye(grade)[0], "condition": GRADES[grade]} for grade in range(5)]
    assert judge(rows) == judge(rows, batch_size=2) == [judge(row) for row in rows]
    assert judge([]) == []


def test_unknown_conditions_and_checklists_are_named(judge: ChecklistJudgePipeline) -> None:
    with pytest.raises(ValueError, match="condition 'grade 9' is not in checklist phantom-fundus; it has grade 0"):
        judge({"image": eye(0)[0], "condition": "grade 9"})
    with pytest.raises(ValueError, match="checklist retinopathy has no measurements"):
        load_judge("measure", None, "retinopathy")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        judge([], batch_size=0)


def test_a_saved_judge_loads_without_clinsynth(judge: ChecklistJudgePipeline, tmp_path: Path) -> None:
    judge.save_pretrained(tmp_path / "judge")
    image, _ = eye(2)
    image.save(tmp_path / "eye.png")
    assert answers_without_clinsynth(tmp_path) == judge({"image": image, "condition": "grade 2"})


def save_classifier(folder: Path, names: list[str], channels: int = 1) -> Path:
    """An untrained small classifier."""
    from clinsynth.models.image_classifiers import build_small_resnet
    from clinsynth.models.image_classifiers import save_image_classifier as save

    folder.mkdir()
    save(build_small_resnet(len(names), channels), names, folder)
    return folder


def test_a_classifier_judges_the_one_item_condition(tmp_path: Path) -> None:
    from clinsynth.models.image_classifiers import load_image_classifier_to_train, predict

    folder = save_classifier(tmp_path / "classifier", GRADES)
    judge = load_judge("classifier", str(folder), "phantom-fundus")
    images = [eye(grade, size=64)[0].convert("L") for grade in range(5)]
    answers = judge([{"image": image, "condition": "grade 1"} for image in images])
    known = predict(
        load_image_classifier_to_train(str(folder), GRADES, 0), np.stack([np.asarray(i)[None] for i in images])
    )
    assert np.allclose([answer["share"] for answer in answers], known[:, 1], atol=1e-3)
    assert [answer["scores"]["condition"] for answer in answers] == (known.argmax(1) == 1).astype(int).tolist()


def test_a_classifier_of_other_classes_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", ["a", "b"])
    with pytest.raises(ValueError, match="has the classes a, b, without 'grade 0' of checklist phantom-fundus"):
        load_judge("classifier", str(folder), "phantom-fundus")
    many = save_classifier(tmp_path / "many", [f"c{n}" for n in range(1000)])
    with pytest.raises(ValueError, match=r"classes c0, c1, (c\d+, ){38}… \(1,000 in all\), without 'grade 0'"):
        load_judge("classifier", str(many), "phantom-fundus")
    with pytest.raises(ValueError, match=r"the judge's classifier .*nowhere cannot be loaded"):
        load_judge("classifier", str(tmp_path / "nowhere"), "phantom-fundus")


def test_calibration_trusts_colour_at_64_pixels_and_refuses_what_32_grey_ones_hide() -> None:
    judge = load_judge("measure", None, "phantom-fundus")
    large = calibrate(judge, 64, 3, per_grade=15, least_kappa=0.6, seed=0)
    assert large["refused"] == [] and min(item["kappa"] for item in large["items"].values()) > 0.8
    small = calibrate(judge, 32, 1, per_grade=20, least_kappa=0.6, seed=0)
    assert {"microaneurysms_4_to_8", "new_vessels_1_to_3"} <= set(small["refused"])
    assert not {"one_disc", "haemorrhages_9_to_13", "haemorrhages_none"} & set(small["refused"])
    assert small["items"]["microaneurysms_4_to_8"]["bias"] < -0.2
    check_usable(judge, small["refused"], 0.6)
    everything = [item["id"] for item in judge.checklist["conditions"]["grade 1"]]
    with pytest.raises(ValueError, match=r"kappa of 0.6 or more on no item of grade 1"):
        check_usable(judge, everything, 0.6)


def test_kappa_against_a_hand_computation() -> None:
    record = agreement([("a", 1, 1)] * 4 + [("a", 0, 0)] * 3 + [("b", 1, 0)] * 2 + [("b", 0, 1)], 0.6)
    chance = 0.6 * 0.5 + 0.4 * 0.5
    assert record["kappa"] == pytest.approx((0.7 - chance) / (1 - chance)) and not record["usable"]
    assert record["by_condition"] == {"a": 1.0, "b": 0.0} and record["bias"] == pytest.approx(-0.1)
    assert agreement([("a", 1, 1)] * 5, 0.6)["kappa"] is None  # nothing but yes proves nothing


def test_a_fifth_of_the_known_pictures_has_no_disc() -> None:
    rows = draw_known(64, 3, per_grade=5, seed=0)
    discs = [count_lesions(np.asarray(row["image"]))["discs"] for row in rows]
    assert discs == [row["counts"]["discs"] for row in rows] == [0, 1, 1, 1, 1] * 5


def test_shares_leave_refused_items_out() -> None:
    answer = {"scores": {"a": 1, "b": 0, "c": 0}, "share": 1 / 3}
    assert share_of_items(answer, frozenset({"c"})) == 0.5
    assert share_of_items({"scores": {"condition": 0}, "share": 0.3}, frozenset()) == 0.3


def test_wilson_interval_against_its_formula() -> None:
    p, n, z = 0.3, 40, 1.959964
    middle, half = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert np.allclose(wilson_interval(12, 40), [(middle + s * half) / (1 + z**2 / n) for s in (-1, 1)], atol=1e-6)
    assert pass_rate([True] * 5)["interval"][0] > 0.5


def arguments(folder: Path, **changes: Any) -> JudgeImagesArguments:
    settings = {
        "images": "phantom-fundus?size=64&train=20&validation=5&test=5",
        "output_dir": str(folder),
        "calibration_pictures": 0,
        "shard_size": 8,
    }
    return JudgeImagesArguments(**settings | changes)


def test_the_command_scores_a_set_and_says_by_what(tmp_path: Path) -> None:
    main(arguments(tmp_path / "judged", calibration_pictures=8))
    rows = load_folder(tmp_path / "judged" / "data")["train"]
    assert len(rows) == 20 and set(rows["condition"]) == set(GRADES)
    judged = json.loads((tmp_path / "judged" / "judged.json").read_text())
    assert (judged["judge"], judged["checklist"], judged["checklist_version"]) == ("measure", "phantom-fundus", 1)
    assert judged["overall"]["passed"]["n"] == 20 and judged["overall"]["passed"]["value"] >= 0.9
    low, high = judged["conditions"]["grade 0"]["items"]["one_disc"]["interval"]
    assert 0 <= low < high <= 1 and judged["calibration"]["pictures"] == 40


def test_a_judge_that_is_trusted_with_nothing_scores_nothing(tmp_path: Path) -> None:
    small = "phantom-fundus?size=32&train=20&validation=5&test=5"
    with pytest.raises(ValueError, match=r"kappa of 1.0 or more on no item of grade \d; take .* --least_kappa"):
        main(arguments(tmp_path / "judged", images=small, calibration_pictures=40, least_kappa=1.0))


def flags(args: JudgeImagesArguments) -> list[str]:
    return [f"--{name}={value}" for name, value in vars(args).items() if value is not None]


def test_a_killed_command_keeps_its_shards(tmp_path: Path) -> None:
    args = arguments(tmp_path / "judged", images="phantom-fundus?size=128&train=60&validation=5&test=5", shard_size=4)
    first = tmp_path / "judged" / "data" / "train-00000-of-00015.parquet"
    kill_when(first.exists, "judge", *flags(args))
    assert not (tmp_path / "judged" / "judged.json").exists(), "the command ended before it was killed"
    written = os.stat(first).st_mtime_ns
    main(args)
    assert os.stat(first).st_mtime_ns == written
    assert sum(len(pq.read_table(path)) for path in first.parent.glob("*.parquet")) == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ""}, "--images is missing"),
        ({"judge": "oracle"}, "--judge must be one of measure, classifier, clip, vlm, expert, got 'oracle'"),
        ({"judge": "classifier"}, "--judge classifier needs --judge_model"),
        ({"batch_size": 0}, "--batch_size must be at least 1, got 0"),
        ({"least_kappa": 2.0}, r"--least_kappa must be in \[-1, 1\], got 2.0"),
        ({"split": "holdout"}, "has no split 'holdout'; it has train, validation, test"),
        ({"checklist": "nothing"}, "--checklist 'nothing' is unknown"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments(tmp_path / "judged", **changes))


def test_another_judge_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    main(arguments(tmp_path / "judged"))
    with pytest.raises(ValueError, match="was begun with --shard_size 8, not 9"):
        main(arguments(tmp_path / "judged", shard_size=9))


def test_a_pipeline_without_checklist_says_so() -> None:
    with pytest.raises(ValueError, match=r"comes without checklist.json; give checklist="):
        ChecklistJudgePipeline(MeasuringModel(MeasuringConfig()))
