"""The judge vlm: a real image-text-to-text model of tiny size that is held to the schema."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import clinsynth
from judge_models import arguments, pictures, save_checklist, save_synthetic, save_tiny_vlm

from clinsynth.data.sources import load_folder
from clinsynth.judges.judges import load_judge
from clinsynth.judges.vlm import MOST_REASON, VlmJudge, answer_schema, question_text
from clinsynth.pipelines.structured_medical_text.schemas import check_text
from clinsynth.scripts.judge import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_vlm(tmp_path_factory.mktemp("vlm") / "model"))


@pytest.fixture(scope="module")
def judge(model: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_judge("vlm", model, str(save_checklist(tmp_path_factory.mktemp("list") / "small.yaml")))


def test_the_schema_takes_zero_or_one_and_a_short_reason(judge: Any) -> None:
    schema = answer_schema(judge.checklist, "grade 1")
    good = {"disc": {"reason": "round", "met": 1}, "red": {"reason": "brown", "met": 0}}
    assert check_text(json.dumps(good), schema) == (good, None)
    for part in ({"reason": "a", "met": 2}, {"reason": "", "met": 1}, {"reason": "a" * (MOST_REASON + 1), "met": 1}):
        assert check_text(json.dumps({**good, "red": part}), schema)[0] is None
    assert check_text(json.dumps({"disc": good["disc"]}), schema)[1] == "required at $"
    text = question_text(judge.checklist, "grade 1")
    assert "meant to show: grade 1" in text and "- red: Is it red? Not brown." in text


def test_every_answer_of_an_untrained_model_holds_to_the_schema(judge: Any) -> None:
    rows = [{"image": picture, "condition": f"grade {number % 2}"} for number, picture in enumerate(pictures(4))]
    answers = judge(rows)
    assert [answer["condition"] for answer in answers] == ["grade 0", "grade 1"] * 2
    for answer in answers:
        assert list(answer["scores"]) == ["disc", "red"] and set(answer["scores"].values()) <= {0, 1}
        assert answer["share"] == sum(answer["scores"].values()) / 2 and "failure" not in answer
        assert all(1 <= len(reason) <= MOST_REASON for reason in answer["reasons"].values())
    assert judge(rows[2:3]) == answers[2:3] and judge([]) == []
    facts = judge.identity()
    assert facts["judge"] == "vlm" and len(facts["weights_sha256"]) == 64 and facts["checklist_version"] == 3


def test_the_command_writes_scores_and_goes_on(model: str, tmp_path: Path) -> None:
    save_synthetic(tmp_path / "synthetic", per_class=1)
    args = arguments(tmp_path, judge="vlm", judge_model=model, shard_size=3)
    main(args)
    judged = json.loads((tmp_path / "judged" / "judged.json").read_text())
    assert judged["unscored"] == {"n": 0, "reasons": {}, "first_rows": []} and judged["overall"]["passed"]["n"] == 5
    assert judged["calibration"] is None and judged["model"] == model
    rows = load_folder(tmp_path / "judged" / "data")["train"]
    assert {entry["item"] for entry in rows[0]["items"]} == {"disc", "red"} and set(rows["failure"]) == {None}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "judged" / "data").iterdir()}
    lost = sorted(before)[1]
    lost.unlink()
    main(args)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "judged" / "data").iterdir()}
    assert [path for path in before if before[path] != after[path]] == [lost]
    assert json.loads((tmp_path / "judged" / "judged.json").read_text()) == judged


def test_models_that_cannot_be_asked_are_named(judge: VlmJudge, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the judge .*nowhere cannot be loaded as an image-text-to-text model"):
        load_judge("vlm", str(tmp_path / "nowhere"), "retinopathy")
    dumb = save_tiny_vlm(tmp_path / "dumb", chat=False)
    with pytest.raises(ValueError, match="has no chat template, so that it cannot be asked"):
        load_judge("vlm", str(dumb), "retinopathy")
    short = load_judge("vlm", str(save_tiny_vlm(tmp_path / "short", context=300)), "retinopathy")
    with pytest.raises(ValueError, match=r"more than the context of 300 of the judge .*short; take a model"):
        short([{"image": pictures(1)[0], "condition": "grade 0"}])
    with pytest.raises(ValueError, match="condition 'grade 9' is not in checklist small"):
        judge([{"image": pictures(1)[0], "condition": "grade 9"}])
    with pytest.raises(ValueError, match="--judge vlm needs --judge_model, the folder or Hub id of an image-text"):
        arguments(tmp_path, judge="vlm")


def test_the_help_teaches_all_judges() -> None:
    words = " ".join(clinsynth("judge", "--help").stdout.split())
    for taught in ("measure: counts", "clip: is", "vlm: a model that sees", "expert: looks up", "--send_real"):
        assert taught in words
