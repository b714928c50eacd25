"""What preference training starts from and refuses: candidates, scores, preferences, the guard's rule, flags."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from preference_runs import any_classifier, arguments, first_stage, write_preferences  # noqa: F401 (fixtures)

from clinsynth.data.phantom_fundus import GRADES
from clinsynth.images import to_picture
from clinsynth.judges.judges import load_judge
from clinsynth.trainers.preference.candidates import pair_candidates, reward_candidates, shuffled_within
from clinsynth.trainers.preference.guard import Guard
from clinsynth.trainers.preference.pairs import read_pairs
from clinsynth.trainers.train_preference import main


def test_scored_candidates_are_kept_where_no_pair_could_be_made(model: Path, classifier: Path, tmp_path: Path) -> None:
    settings = {"judge_model": str(classifier), "train_steps": 1}
    with pytest.raises(ValueError, match="none prefers one image"):
        main(arguments(model, tmp_path / "run", margin=1.0, **settings))
    scores = next((tmp_path / "run" / "preferences" / "scores" / "data").glob("*.parquet"))
    written = scores.stat().st_mtime_ns
    main(arguments(model, tmp_path / "run", margin=0.0, **settings))
    assert scores.stat().st_mtime_ns == written and (tmp_path / "run" / "model_index.json").exists()
    with pytest.raises(ValueError, match=r"was begun with --margin 0\.0, not 0\.1"):
        main(arguments(model, tmp_path / "run", margin=0.1, **settings))


def test_scores_are_shuffled_within_each_class() -> None:
    labels = [row // 20 for row in range(40)]
    order = shuffled_within(labels, seed=0)
    assert sorted(order[:20]) == list(range(20)) != order[:20] and sorted(order[20:]) == list(range(20, 40))
    assert shuffled_within(labels, seed=0) == order != shuffled_within(labels, seed=1)


def scored_by_brightness(count: int, without: set[int]) -> Dataset:
    """Grey images whose share is their brightness, four a prompt; the judge gave no scores to `without`."""
    levels = np.random.default_rng(0).uniform(20, 230, count)
    pictures = [to_picture(np.full((1, 28, 28), level, np.uint8)) for level in levels]
    columns = {
        "image": pictures,
        "label": [row // 4 % 5 for row in range(count)],
        "seed": list(range(count)),
        "share": [math.nan if row in without else float(level / 255) for row, level in enumerate(levels)],
        "reasons": ["no scores: not JSON"] * count,
    }
    names = ClassLabel(names=GRADES)
    values = {"seed": Value("int64"), "share": Value("float64"), "reasons": Value("string")}
    return Dataset.from_dict(columns, features=Features(image=ImageFeature(), label=names, **values))


def test_candidates_without_scores_are_left_out_and_counted(model: Path, tmp_path: Path) -> None:
    args = arguments(model, tmp_path, judge_model="x", candidates=4)
    judge = load_judge("measure", None, "phantom-fundus")
    pair_candidates(args, scored_by_brightness(20, {0, 5}), judge, tmp_path / "pairs")
    known = json.loads((tmp_path / "pairs" / "preferences.json").read_text())
    assert known["unscored"] == 2 and known["pairs"] == 3 * 6 + 2 * 3
    rows = read_pairs(tmp_path / "pairs", unpaired=False)
    assert not {0, 5} & {*rows["chosen_row"], *rows["rejected_row"]}
    with pytest.raises(ValueError, match=r"gave scores to none of 20 candidates \(no scores: not JSON\); correct it"):
        pair_candidates(args, scored_by_brightness(20, set(range(20))), judge, tmp_path / "none")


def test_a_reward_model_weighs_the_candidates_that_were_scored(model: Path, tmp_path: Path) -> None:
    changes = {"method": "reward", "reward": "model", "judge_model": "x", "candidates": 4}
    args = arguments(model, tmp_path, **changes)
    rows = reward_candidates(args, scored_by_brightness(160, {7}), tmp_path)
    assert len(rows) == 159 and np.corrcoef(rows["reward"][:], rows["share"][:])[0, 1] > 0.8
    assert (tmp_path / "reward_model" / "reward.json").exists()


def test_the_judge_that_made_the_preferences_does_not_watch(model: Path, tmp_path: Path) -> None:
    pairs = write_preferences(model, tmp_path, judge="measure")
    with pytest.raises(ValueError, match=r"those of the judge measure, which as --held_out can see no gaming"):
        main(arguments(model, tmp_path / "run", preferences=str(pairs)))


def test_d3po_refuses_pairs_that_its_model_did_not_draw(model: Path, tmp_path: Path) -> None:
    pairs = write_preferences(model, tmp_path, steps=4)
    with pytest.raises(ValueError, match=r"not those that --model .* draws in 3 ancestral steps"):
        main(arguments(model, tmp_path / "run", method="d3po", preferences=str(pairs)))


def guard_record(**changes: Any) -> dict[str, Any]:
    return {
        "finite": 1.0,
        "held_out_share": 0.5,
        "held_out_half_width": 0.1,
        "fidelity": 0.04,
        "frechet": 20.0,
    } | changes


def test_what_the_guard_objects_to() -> None:
    unused: Any = None
    args = arguments(Path("model"), Path("run"), judge_model="x", fidelity_tolerance=0.05, frechet_tolerance=0.25)
    guard = Guard(args, unused, None, unused, unused, unused)
    before = guard_record()
    assert guard.objection(before, guard_record(held_out_share=0.41, fidelity=0.0419)) is None
    assert "fell from 0.500 to 0.390" in str(guard.objection(before, guard_record(held_out_share=0.39)))
    assert "rose from 0.0400 to 0.0500" in str(guard.objection(before, guard_record(fidelity=0.05)))
    assert guard.objection(before, guard_record(frechet=24.9)) is None
    assert "rose from 20.00 to 25.10, by more than the 25%" in str(guard.objection(before, guard_record(frechet=25.1)))
    assert "not finite" in str(guard.objection(before, guard_record(finite=0.9)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "--model is missing"),
        ({"candidates": 0}, "--candidates must be above 0, got 0"),
        ({"margin": 2.0}, r"--margin must be in \[0, 1\], got 2.0"),
        ({"judge": "measure"}, "--held_out measure is the judge that is learned from"),
        ({"judge_model": None}, "--judge classifier needs --judge_model"),
        ({"guard_images": 1}, "--guard_images must be at least 2"),
        ({"method": "d3po", "num_inference_steps": 1}, "--method d3po needs --num_inference_steps 2"),
        ({"method": "reward", "preferences": "x"}, "--method reward learns from all scored candidates"),
        ({"reward": "model"}, "--reward model is for --method reward; got --method diffusion-dpo"),
        ({"ema_decay": 1.0}, r"--ema_decay must be in \[0, 1\), got 1.0"),
        ({"held_out": "expert", "held_out_model": "x"}, "--held_out must be measure, classifier or clip, got expert"),
        ({"judge_endpoint": "http://127.0.0.1:1/v1"}, "--judge_endpoint is for --judge vlm; got --judge classifier"),
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
        ({"rounds": 2, "preferences": "x"}, "--rounds 2 draws new candidates in each round; leave --preferences out"),
        ({"rounds": 2, "judge": "expert"}, "--rounds 2 draws new candidates in each round, which no expert has seen"),
        ({"control": "shuffled", "preferences": "x"}, "--control shuffled shuffles the scores of new candidates"),
        ({"candidates": 1}, "each prompt has one candidate"),
        ({"margin": 1.0}, "none prefers one image"),
        ({"label_names": "a,b,c,d,e"}, "has the cl"),
    ],
)
def test_bad_settings_are_named(
    changes: dict[str, Any], message: str, model: Path, classifier: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments(model, tmp_path / "run", **{"judge_model": str(classifier)} | changes))
