"""The alignment score: its arithmetic, its records on real pictures with right and wrong labels, and its page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import REPOSITORY
from test_evaluate_images import write_synthetic

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.data.phantom_fundus import GRADES
from clinsynth.images import to_picture
from clinsynth.judges.checklists import sample_id
from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import Answer, Judge, Question, unscored
from clinsynth.metrics.alignment.alignment import (
    alignment,
    class_margin,
    distance_to_class,
    low_tail,
    low_tail_interval,
    tail_threshold,
    typicality,
)
from clinsynth.metrics.comparisons import Comparison
from clinsynth.metrics.records import Features, MeasurementSettings
from clinsynth.run_folder import Kept
from clinsynth.scripts.evaluate_images import main
from clinsynth.study.alignment import (
    PARTS,
    alignment_evidence,
    checklist_shares,
    measure_alignment,
    not_independent,
    score,
    typicalities,
)
from clinsynth.study.arguments import EvaluateImagesArguments

SMALL = "phantom-fundus?size=28&train=40&validation=30&test=60"
PHANTOM = "phantom-fundus?size=64&train=100&validation=30&test=150"


def test_the_margin_is_the_class_less_the_best_other() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]])
    assert class_margin(probabilities, np.array([0, 0, 1])) == pytest.approx([0.2, -0.6, 1.0])


def test_distances_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    rows, train = rng.normal(size=(7, 4)), rng.normal(size=(9, 4))
    plain = [np.sort(np.linalg.norm(train - row, axis=1))[:5].mean() for row in rows]
    assert distance_to_class(rows, train) == pytest.approx(plain)
    assert distance_to_class(rows, train[:2])[0] == pytest.approx(np.linalg.norm(train[:2] - rows[0], axis=1).mean())


def test_typicality_is_a_percentile_among_real_pictures() -> None:
    real = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert typicality(np.array([0.0, 3.0, 3.5, 9.0]), real) == pytest.approx([1.0, 0.6, 0.4, 0.0])
    assert typicality(real, real, own=True) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_the_score_is_the_mean_of_three_in_their_ranges() -> None:
    assert alignment(np.array([1.0, 0.4]), np.array([1.0, -0.5]), np.array([1.0, 0.0])) == pytest.approx(
        [1.0, (0.4 + 0.25 + 0.0) / 3]
    )
    with pytest.raises(ValueError, match=r"class_margin must be in \[-1, 1\], got 1.5"):
        alignment(np.array([1.0]), np.array([1.5]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"checklist_share must be in \[0, 1\], got nan"):
        alignment(np.array([np.nan]), np.array([0.5]), np.array([1.0]))


def test_the_tail_is_a_twentieth_among_like_and_all_among_worse() -> None:
    rng = np.random.default_rng(0)
    real, like = rng.uniform(size=400), rng.uniform(size=400)
    assert 0.02 < low_tail(like, real) < 0.09 and low_tail(real, real) <= 0.05
    low, high = low_tail_interval(like, real, 100)
    assert low <= low_tail(like, real) <= high and 0.01 < high - low < 0.12
    assert low_tail(like - 1, real) == 1 and low_tail(like + 1, real) == 0
    # the threshold's own uncertainty counts: few real pictures make the interval wider
    few = low_tail_interval(like, real[:25], 100)
    assert few[1] - few[0] > high - low
    # and ten alike of each person say no more than one
    persons = np.argsort(np.argsort(real)) // 10
    people = low_tail_interval(like, real, 100, persons=persons)
    assert people[1] - people[0] > 1.3 * (high - low)
    assert tail_threshold(np.array([0.5] * 19 + [0.2])) == 0.2


def test_the_metric_loads_from_its_folder() -> None:
    metric = evaluate.load(str(REPOSITORY / "metrics" / "alignment"))
    sides = {"source": ["real"] * 20 + ["synthetic"] * 4, "typicality": [0.5] * 24, "class_margin": [0.0] * 24}
    found = metric.compute(**sides, checklist_share=[0.8] * 20 + [0.8, 0.8, 0.8, 0.2])
    assert found["low_alignment_tail"] == 0.25 and found["threshold"] == pytest.approx((0.8 + 0.5 + 0.5) / 3)
    assert found["alignment_real"] == pytest.approx(0.6) and found["alignment"] == pytest.approx(0.55)
    assert (found["n_real"], found["n_synthetic"], found["interval"]) == (20, 4, None)
    by_class = evaluate.load(str(REPOSITORY / "metrics" / "alignment"), "per_class")
    labels = ["a", "b"] * 12
    found = by_class.compute(**sides, checklist_share=[0.8] * 24, label=labels, n_bootstrap=20)
    assert set(found) == {"a", "b"} and found["a"]["n_real"] == 10 and found["a"]["interval"] == (0.0, 0.0)
    with pytest.raises(ValueError, match="needs both sides, got 0 real"):
        metric.compute(**{**sides, "source": ["synthetic"] * 24}, checklist_share=[0.8] * 24)


def test_classes_with_few_real_pictures_have_no_percentile() -> None:
    rng = np.random.default_rng(0)
    train = Features(rng.normal(size=(30, 3)), np.repeat([0, 1], 15))
    held_out = Features(rng.normal(size=(21, 3)), np.repeat([0, 1], [12, 9]))
    side = Features(rng.normal(size=(6, 3)), np.repeat([0, 1], 3))
    found = typicalities(side, held_out, train)
    assert np.isfinite(found[:3]).all() and np.isnan(found[3:]).all()
    assert sorted(typicalities(held_out, held_out, train)[:12]) == pytest.approx(np.linspace(0, 1, 12))
    rows = score([1.0, None, 0.5, 1.0, 1.0, 1.0], np.full((6, 2), 0.5), side.labels, found)
    assert np.isnan(rows[[1, 3, 4, 5], 3]).all() and rows[0, 3] == pytest.approx((1 + 0.5 + found[0]) / 3)


def test_records_have_interval_floor_and_n() -> None:
    rng = np.random.default_rng(0)
    sides = [Features(rng.uniform(size=(n, 4)), np.zeros(n, dtype=int)) for n in (60, 80, 40)]
    sides[0].rows[:30, 3] = -1  # half of the synthetic pictures
    records = {
        record.metric: record
        for record in measure_alignment(Comparison("a", "test", *sides), MeasurementSettings("net", 50))
    }
    assert list(records) == [*PARTS, "low_alignment_tail"]
    tail = records["low_alignment_tail"]
    assert 0.5 <= tail.value < 0.6 and tail.interval[0] < tail.value < tail.interval[1]
    assert (
        tail.floor < 0.15
        and tail.floor_n == 40
        and tail.floor_held_out < 0.2
        and (tail.n_real, tail.n_synthetic) == (80, 60)
    )
    assert records["checklist_share"].floor == pytest.approx(sides[1].rows[:, 0].mean())
    few = measure_alignment(
        Comparison("a", "test", sides[0].take(np.arange(4)), *sides[1:]), MeasurementSettings("net", 50)
    )
    assert [record.value for record in few] == [None] * 5 and few[0].note == "not measured, n=4"


@pytest.fixture(scope="module")
def eyes() -> dict[str, ImageArrays]:
    return load_image_arrays(ImageDataArguments(dataset=PHANTOM))


def small_features(arrays: ImageArrays) -> Features:
    rows = arrays.images[:, :, ::8, ::8].reshape(len(arrays.labels), -1).astype(float)
    return Features(rows, arrays.labels)


def test_wrong_labels_lower_every_part_and_fill_the_tail(eyes: dict[str, ImageArrays], tmp_path: Path) -> None:
    judge = load_judge("measure", None, "phantom-fundus")
    truth = {
        image.tobytes(): label for side in eyes.values() for image, label in zip(side.images, side.labels, strict=True)
    }

    def classify(images: np.ndarray) -> np.ndarray:
        """A classifier that is right."""
        return np.eye(5)[[truth[image.tobytes()] for image in images]] * 0.8 + 0.04

    def measured(synthetic: ImageArrays, name: str) -> dict[str, Any]:
        sets = {**eyes, "synthetic": synthetic}
        features = {split: small_features(arrays) for split, arrays in sets.items()}
        finished = Kept(tmp_path / f"{name}.json")
        settings = MeasurementSettings("pixels", 20)
        found = alignment_evidence(judge, classify, sets, features, settings, finished, name)
        return {**found, "overall": {r["metric"]: r for r in found["records"] if r["label"] == "overall"}}

    rows = np.arange(0, 30)
    right = eyes["validation"].take(rows)
    wrong = ImageArrays(right.images, (right.labels + 1) % 5, right.label_names)
    good, bad = measured(right, "right")["overall"], measured(wrong, "wrong")["overall"]
    assert (
        good["checklist_share"]["value"] > 0.9
        and bad["checklist_share"]["value"] < good["checklist_share"]["value"] - 0.1
    )
    assert good["class_margin"]["value"] == pytest.approx(0.8) and bad["class_margin"]["value"] == pytest.approx(-0.8)
    assert good["low_alignment_tail"]["value"] < 0.35 and bad["low_alignment_tail"]["value"] > 0.6
    kept = json.loads((tmp_path / "right.json").read_text())
    assert {len(values) for values in kept.values()} == {30, 150}


def test_a_judge_without_an_answer_is_counted_and_not_guessed(eyes: dict[str, ImageArrays]) -> None:
    judge = load_judge("measure", None, "phantom-fundus")

    class SilentOnTheFirst(Judge):
        def __call__(self, questions: Sequence[Question], batch_size: int = 64) -> list[Answer]:
            first, *rest = judge(questions)
            return [unscored(first["condition"], "prose"), *rest]

    shares = checklist_shares(SilentOnTheFirst(judge.checklist, {}), eyes["test"].take(np.arange(5)), "test")
    assert shares[0] is None and all(0 <= share <= 1 for share in shares[1:])


def test_a_judge_that_chose_or_taught_is_named(tmp_path: Path) -> None:
    judge = {"judge": "measure", "weights_sha256": None}
    generation: dict[str, Any] = {"generator": {"model": str(tmp_path), "keep": {}}}
    assert not_independent(generation, judge, "abc") == [] == not_independent(None, judge, "abc")
    generation["generator"]["keep"] = {
        "checklist": {**judge, "least_share": "4/5"},
        "class": {"weights_sha256": "abc"},
    }
    found = not_independent(generation, judge, "abc")
    assert len(found) == 2 and "--keep_if_checklist" in found[0] and "--keep_if_class" in found[1]
    assert not_independent(generation, {"judge": "classifier", "weights_sha256": "d"}, "e") == []
    (tmp_path / "preferences" / "pairs").mkdir(parents=True)
    (tmp_path / "preferences" / "pairs" / "preferences.json").write_text(json.dumps({**judge, "pairs": 5}))
    assert "train preference" in not_independent(generation, judge, "x")[-1]


@pytest.fixture(scope="module")
def small_eyes() -> dict[str, ImageArrays]:
    return load_image_arrays(ImageDataArguments(dataset=SMALL))


def evaluate_folder(folder: Path, out: Path, **changes: Any) -> None:
    settings = {"classifier": "none", "bootstrap": 10, "checklist": "phantom-fundus"}
    main(EvaluateImagesArguments(real=SMALL, synthetic=str(folder), output_dir=str(out), **settings | changes))


def test_the_command_adds_rows_and_a_part_of_the_page(small_eyes: dict[str, ImageArrays], tmp_path: Path) -> None:
    rows = small_eyes["validation"]
    pictures = [np.asarray(to_picture(image)) for image in rows.images]
    folder = write_synthetic(tmp_path / "synthetic", pictures, rows.labels, GRADES)
    evaluate_folder(folder, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evidence.json").read_text())["alignment"]
    assert found["judge"]["checklist_version"] >= 1 and found["not_independent"] == []
    assert found["not_judged"] == {"test": 0, "validation": 0, "synthetic": 0}
    assert {record["label"] for record in found["records"]} == {"overall", *GRADES}
    assert {record["metric"] for record in found["records"]} == {*PARTS, "low_alignment_tail"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Do the images show their class?" in page and "By a checklist" in page and "low-alignment tail" in page
    assert "Nothing on record says that either chose these images" in page
    with pytest.raises(ValueError, match="has no condition 'grade 0', a class of --real"):
        evaluate_folder(folder, tmp_path / "other", checklist="dermatoscopy-measured", judge="measure")


def test_pictures_made_from_test_pictures_are_refused(small_eyes: dict[str, ImageArrays], tmp_path: Path) -> None:
    rows = small_eyes["validation"]
    folder = write_synthetic(tmp_path / "s", [np.asarray(to_picture(i)) for i in rows.images], rows.labels, GRADES)
    (path,) = (folder / "data").glob("*.parquet")
    table = pq.read_table(path)
    ids = [sample_id(to_picture(image)) for image in small_eyes["train"].images[:29]]
    ids.append(sample_id(to_picture(small_eyes["test"].images[3])))
    pq.write_table(table.append_column("source_id", pa.array(ids)), path)
    with pytest.raises(ValueError, match="1 of 30 images were made from test images of --real"):
        evaluate_folder(folder, tmp_path / "out")


def test_flags_without_a_checklist_are_named() -> None:
    with pytest.raises(ValueError, match="--judge_model and --class_model are about a --checklist"):
        EvaluateImagesArguments(class_model="a")
    with pytest.raises(ValueError, match=r"--judge must be one of .* got 'nobody'"):
        EvaluateImagesArguments(checklist="phantom-fundus", judge="nobody")
