"""Rounds of candidates, scores and training on them: what each leaves, and that stopping anywhere changes nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from helpers import clinsynth, flags_of, kill_when, same_weights
from preference_runs import any_classifier, arguments, first_stage  # noqa: F401 (fixtures)

from clinsynth.data.sources import load_folder
from clinsynth.models.generators import load_pipeline
from clinsynth.models.weights import hash_weights
from clinsynth.run_folder import read_metrics
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.pairs import read_pairs
from clinsynth.trainers.train_preference import main
from clinsynth.trainers.training_state import checkpoints


def two_rounds(model: Path, classifier: Path, folder: Path, **changes: Any) -> PreferenceArguments:
    """Two rounds of four steps, with a checkpoint after each step."""
    settings = {"judge_model": str(classifier), "rounds": 2, "checkpointing_steps": 1, "learning_rate": 1e-3}
    return arguments(model, folder, **settings | changes)


def words(args: PreferenceArguments) -> list[str]:
    """The command line of a run: runs whose weights are compared have processes of their own, all on one thread."""
    return ["train", "preference", *flags_of(args)]


@pytest.fixture(scope="module")
def whole(model: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two rounds that nothing stopped."""
    folder = tmp_path_factory.mktemp("rounds") / "whole"
    clinsynth(*words(two_rounds(model, classifier, folder)))
    return folder


def record(folder: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"round-{number}" / "round.json").read_text())
    return found


def candidates_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "preferences/candidates/generation.json").read_text())["generator"]
    return found


def test_each_round_starts_from_what_the_last_one_kept(model: Path, whole: Path) -> None:
    first, second = (candidates_of(whole / f"round-{number}") for number in (1, 2))
    assert first["weights_sha256"] == hash_weights(load_pipeline(str(model)).unet)
    assert second["weights_sha256"] == hash_weights(load_pipeline(str(whole / "round-1" / "good")).unet)
    assert first["weights_sha256"] != second["weights_sha256"] and first["seed"] != second["seed"]
    assert [(r["round"], r["step"]) for r in read_metrics(whole)] == [(n, s) for n in (1, 2) for s in range(5)]
    for number in (1, 2):
        found = record(whole, number)
        assert found["steps"] == found["kept_step"] == 4 and found["stopped"] is None
        assert found["before"]["step"] == 0 and found["after"]["step"] == 4
        assert not checkpoints(whole / f"round-{number}")
    assert same_weights(whole, whole / "round-2" / "good") and not same_weights(whole, whole / "round-1" / "good")
    pipe = DiffusionPipeline.from_pretrained(whole, trust_remote_code=True)
    assert pipe("grade 1", num_inference_steps=2, output_type="np").images.shape == (1, 28, 28, 1)


def test_a_run_of_one_round_is_the_first_of_several(
    model: Path, classifier: Path, whole: Path, tmp_path: Path
) -> None:
    clinsynth(*words(two_rounds(model, classifier, tmp_path / "one", rounds=1)))
    assert same_weights(tmp_path / "one", whole / "round-1" / "good")
    lines = [{"round": 1, **line} for line in read_metrics(tmp_path / "one")]
    assert lines == [line for line in read_metrics(whole) if line["round"] == 1]


def test_a_kill_between_and_within_rounds_changes_nothing(
    model: Path, classifier: Path, whole: Path, tmp_path: Path
) -> None:
    args = two_rounds(model, classifier, tmp_path / "run")
    second = tmp_path / "run" / "round-2"
    kill_when((tmp_path / "run" / "round-1" / "good" / "model_index.json").exists, *words(args))
    assert not (tmp_path / "run" / "round-1" / "round.json").exists(), "the first round was over before it was killed"
    kill_when((tmp_path / "run" / "round-1" / "round.json").exists, *words(args))
    finished = (tmp_path / "run" / "round-1" / "round.json").stat().st_mtime_ns
    kill_when(lambda: checkpoints(second), *words(args))
    assert not (tmp_path / "run" / "model_index.json").exists(), "the run ended before it was killed"
    clinsynth(*words(args))
    assert (tmp_path / "run" / "round-1" / "round.json").stat().st_mtime_ns == finished
    for kept in ("", "round-1/good", "round-2/good"):
        assert same_weights(tmp_path / "run" / kept, whole / kept)
    assert read_metrics(tmp_path / "run") == read_metrics(whole)
    assert record(tmp_path / "run", 2) == record(whole, 2)


def test_more_rounds_can_be_asked_for_later_and_one_is_another_run(
    model: Path, classifier: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    finished = (tmp_path / "run" / "round-2" / "round.json").stat().st_mtime_ns
    main(two_rounds(model, classifier, tmp_path / "run", rounds=3))
    assert (tmp_path / "run" / "round-2" / "round.json").stat().st_mtime_ns == finished
    assert {line["round"] for line in read_metrics(tmp_path / "run")} == {1, 2, 3}
    assert same_weights(tmp_path / "run", tmp_path / "run" / "round-3" / "good")
    with pytest.raises(ValueError, match="was begun with --rounds 3, not 1"):
        main(two_rounds(model, classifier, tmp_path / "run", rounds=1))
    (tmp_path / "one" / "preferences").mkdir(parents=True)
    with pytest.raises(ValueError, match="was begun with --rounds 1, not 2"):
        main(two_rounds(model, classifier, tmp_path / "one"))


def test_a_round_that_makes_it_worse_at_once_is_dropped(
    model: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"learning_rate": 0.5, "lr_warmup_steps": 0, "fidelity_tolerance": 0.0, "ema_decay": 0.0}
    main(two_rounds(model, classifier, tmp_path / "run", guard_steps=1, **changes))
    for number in (1, 2):
        assert record(tmp_path / "run", number)["kept_step"] == 0 and record(tmp_path / "run", number)["stopped"]
    assert same_weights(tmp_path / "run", model)
    first, second = (candidates_of(tmp_path / "run" / f"round-{number}") for number in (1, 2))
    assert first["weights_sha256"] == second["weights_sha256"] and first["seed"] != second["seed"]
    assert "round 1 of 2: stopped at step 1: " in (said := capsys.readouterr().out)
    assert "dropped, the next one begins where it began; held-out judge " in said


def test_the_control_learns_from_scores_that_say_nothing(
    model: Path, classifier: Path, whole: Path, tmp_path: Path
) -> None:
    main(two_rounds(model, classifier, tmp_path / "run", control="shuffled", candidates=4, rounds=1, train_steps=1))
    folder = tmp_path / "run" / "preferences"
    assert json.loads((folder / "pairs" / "preferences.json").read_text())["control"] == "shuffled"
    judged = load_folder(folder / "scores" / "data")["train"]
    rows = read_pairs(folder / "pairs", unpaired=False)
    said = {
        row: share
        for side in ("chosen", "rejected")
        for row, share in zip(rows[f"{side}_row"], rows[f"{side}_share"], strict=True)
    }
    places = sorted(said)
    assert [said[row] for row in places] != [judged[row]["share"] for row in places]
    for first in range(0, 20, 4):  # a prompt of each class
        scores = {judged[row]["share"] for row in range(first, first + 4)}
        assert {said[row] for row in places if row in range(first, first + 4)} <= scores
    assert "control" not in json.loads((whole / "round-1/preferences/pairs/preferences.json").read_text())
