"""The judge expert: scores that the Space's Review tab exported, or a table of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from judge_models import arguments, save_checklist, save_synthetic
from studio_sets import LabelledSet, png

from clinsynth.data.sources import load_folder
from clinsynth.judges.checklists import load_checklist, sample_id
from clinsynth.judges.expert import ExpertJudge, disagreement
from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import is_met, passes
from clinsynth.judges.scores import read_answers
from clinsynth.scripts.judge import main

review_scores = pytest.importorskip("review_scores")
review_session = pytest.importorskip("review_session")


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    """The set in tmp_path/synthetic, whose checklist is tmp_path/small.yaml."""
    save_checklist(tmp_path / "small.yaml")
    return load_folder(save_synthetic(tmp_path / "synthetic", per_class=2))["train"]


def review(folder: Path, rows: Any, count: int, votes: dict[str, dict[str, int]]) -> tuple[Path, Path]:
    """A review in which the raters of `votes` say the same of all pictures, exported as Parquet and CSV."""
    names = rows.features["label"].names
    shown = LabelledSet("set", [png(image) for image in rows["image"]], [names[label] for label in rows["label"]])
    session = review_session.draw_session(load_checklist(folder / "small.yaml"), shown, None, count, 0)
    review_scores.open_session(folder, session)
    for rater, scores in votes.items():
        for sample in session.samples:
            review_scores.save_score(folder, session.id, rater, sample.id, scores, None)
    exported: tuple[Path, Path] = review_scores.export_scores(folder, session.id, folder)
    return exported


def table(path: Path, *lines: str, head: str = "row,item_id,score,rater") -> Path:
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def judged_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "judged" / "judged.json").read_text())
    return found


def test_several_raters_are_averaged_and_their_disagreement_is_kept(rows: Any, tmp_path: Path) -> None:
    votes = {"Ann": {"disc": 1, "red": 1}, "Bob": {"disc": 1, "red": 0}, "Cem": {"disc": 1, "red": 0}}
    for path in review(tmp_path, rows, len(rows), votes):
        judge = ExpertJudge(path, load_checklist(tmp_path / "small.yaml").model_dump(mode="json"))
        (answer,) = judge([{"image": rows[3]["image"], "condition": "grade 1"}])
        assert answer["scores"] == {"disc": 1.0, "red": pytest.approx(1 / 3)} and judge.facts["raters"] == 3
        assert answer["disagreement"] == {"disc": 0.0, "red": pytest.approx(2 / 3)}
        assert answer["reasons"]["red"] == "yes from 1 of 3" and answer["share"] == pytest.approx(2 / 3)
    main(arguments(tmp_path, judge="expert", judge_model=str(tmp_path / "scores.parquet")))
    judged = judged_in(tmp_path)
    assert judged["overall"]["items"]["disc"]["value"] == 1 and judged["overall"]["items"]["red"]["value"] == 0
    assert judged["overall"]["disagreement"]["red"] == pytest.approx(2 / 3) and judged["raters"] == 3
    assert judged["overall"]["passed"]["value"] == 0 and judged["overall"]["passed"]["n"] == 10
    assert "Ann" not in json.dumps(judged) and len(judged["scores_sha256"]) == 64


def test_pictures_that_nobody_scored_are_named_and_count_nowhere(rows: Any, tmp_path: Path) -> None:
    parquet, _ = review(tmp_path, rows, 4, {"Ann": {"disc": 1, "red": 1}})
    main(arguments(tmp_path, judge="expert", judge_model=str(parquet)))
    judged, answers = judged_in(tmp_path), read_answers(sorted((tmp_path / "judged" / "data").iterdir()))
    missing = [row for row, answer in enumerate(answers) if answer["failure"] == "not scored by an expert"]
    assert judged["unscored"] == {"n": 6, "reasons": {"not scored by an expert": 6}, "first_rows": missing}
    assert judged["overall"]["passed"] == {**judged["overall"]["passed"], "n": 4, "value": 1.0}


def test_a_table_may_name_rows_and_another_one_is_another_run(rows: Any, tmp_path: Path) -> None:
    lines = [f"{row},{item},{row % 2}," for row in range(10) for item in ("disc", "red")]
    path = table(tmp_path / "mine.csv", *lines)
    main(arguments(tmp_path, judge="expert", judge_model=str(path)))
    assert [item["value"] for item in judged_in(tmp_path)["overall"]["items"].values()] == [0.5, 0.5]
    assert "disagreement" not in judged_in(tmp_path)["overall"]
    table(path, *lines[:-2])
    with pytest.raises(ValueError, match=r"was begun with scores_sha256 .*give another --output_dir"):
        main(arguments(tmp_path, judge="expert", judge_model=str(path)))


def test_a_picture_is_scored_as_one_condition_and_on_every_item(rows: Any, tmp_path: Path) -> None:
    image = rows[0]["image"]
    name, head = sample_id(image), "sample_id,condition,item_id,score"
    path = table(tmp_path / "a.csv", f"{name},grade 0,disc,1", head=head)
    judge = load_judge("expert", str(path), str(tmp_path / "small.yaml"))
    answers = judge([{"image": image, "condition": condition} for condition in ("grade 0", "grade 1")])
    assert answers[0]["failure"] == "not scored by an expert: item red"
    assert answers[1]["failure"] == "not scored by an expert as this condition"
    with pytest.raises(ValueError, match=r"gave scores to none of 10 images \(.*not scored by an expert"):
        main(arguments(tmp_path, judge="expert", judge_model=str(path)))


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        ("row,item_id,score", "0,disc,2", "row 1: score must be 0 or 1, got '2'"),
        ("row,item_id,score", "0,disk,1", "row 1: small has no item 'disk'; check item_id"),
        ("row,item_id", "0,disc", r"row 1 must have sample_id \(or row\), item_id and score; it has row, item_id"),
        ("row,item_id,score,version", "0,disc,1,2", "version is 2, but --checklist small has version 3"),
        ("row,item_id,score,checklist", "0,disc,1,big", "checklist is big, but --checklist small has name small"),
        ("row,item_id,score,condition", "0,disc,1,grade 9", "condition 'grade 9' is not in checklist small"),
        ("row,item_id,score", "0,disc,1\n0,disc,0", "row 2: row 0, item disc was scored before by the same rater"),
        ("row,item_id,score,condition", "0,disc,1,grade 0\n0,red,0,grade 1", "row 2: row 0 has two conditions"),
        ("row,item_id,score", "", "has no scores; export a review"),
    ],
)
def test_bad_tables_are_named(head: str, line: str, message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "bad.csv", *[line] * bool(line), head=head)
    with pytest.raises(ValueError, match=message):
        load_judge("expert", str(path), str(save_checklist(tmp_path / "small.yaml")))


def test_files_that_are_no_tables_are_named(tmp_path: Path) -> None:
    checklist = str(save_checklist(tmp_path / "small.yaml"))
    with pytest.raises(ValueError, match=r"--judge_model .*gone.csv is no .parquet or .csv file that is there"):
        load_judge("expert", str(tmp_path / "gone.csv"), checklist)
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"bad.parquet cannot be read as Parquet"):
        load_judge("expert", str(tmp_path / "bad.parquet"), checklist)
    with pytest.raises(ValueError, match=r"--judge expert needs --judge_model, scores.parquet or scores.csv"):
        arguments(tmp_path, judge="expert")


def test_half_of_the_raters_are_not_enough() -> None:
    assert [is_met(score) for score in (0, 0.5, 2 / 3, 1)] == [False, False, True, True]
    assert not passes({"scores": {"a": 0.5}}, frozenset()) and passes({"scores": {"a": 0.6}}, frozenset())
    assert [disagreement(votes) for votes in ([1], [1, 1], [0, 1], [0, 0, 1, 1])] == [None, 0, 1, pytest.approx(4 / 6)]
