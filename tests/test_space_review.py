"""The Review tab: blinded sessions, scores on disk, agreement, and the tab behind a server."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image
from studio_sets import images, noise, png, write_zip

gr = pytest.importorskip("gradio", reason="needs gradio: pip install clinsynth[space]")

import review_scores  # noqa: E402
import review_tab  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from review_session import Session, Sessions, draw_session, label_checklist  # noqa: E402
from sets import LabelledSet  # noqa: E402

from clinsynth.judges.checklists import Checklist, load_checklist, sample_id  # noqa: E402


@pytest.fixture
def checklist() -> Checklist:
    return load_checklist("phantom-fundus")


def test_a_session_is_mixed_evenly_and_always_the_same(checklist: Checklist) -> None:
    synthetic, real = images(1), images(2, per_class=3)
    session = draw_session(checklist, synthetic, real, 10, 0)
    assert session == draw_session(checklist, synthetic, real, 10, 0)
    assert session.id != draw_session(checklist, synthetic, real, 10, 1).id
    conditions = [sorted(s.condition for s in session.samples if s.source == kind) for kind in ("synthetic", "real")]
    assert conditions[0] == conditions[1]
    assert len(session.samples) == 10
    orders = [[sample.id for sample in session.order(rater)] for rater in ("Ann", "Bob")]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(sample.id for sample in session.samples)


def test_nothing_but_pixels_is_shown(checklist: Checklist) -> None:
    marked = [png(noise(i), parameters="synthetic") for i in range(4)]
    session = draw_session(checklist, LabelledSet("s", marked, ["grade 0"] * 4), None, 4, 0)
    assert all(b"synthetic" not in sample.content for sample in session.samples)
    assert {sample.id for sample in session.samples} == {sample_id(noise(i)) for i in range(4)}


def test_size_and_colour_tell_nothing(checklist: Checklist) -> None:
    session = draw_session(checklist, images(1, side=28, mode="L"), images(2, side=56), 12, 0)
    shown = [Image.open(io.BytesIO(sample.content)) for sample in session.samples]
    assert {(image.size, image.mode) for image in shown} == {((28, 28), "L")}
    assert "6 images reduced to 28 pixels, 6 images turned grey" in session.notes[0]


def test_samples_that_cannot_be_judged_are_left_out_with_a_word(checklist: Checklist) -> None:
    synthetic, real = images(1), images(2)
    copied = LabelledSet("s", [*synthetic.contents[:11], real.contents[11]], synthetic.labels)
    session = draw_session(checklist, copied, real, 24, 0)
    assert len(session.samples) == 22
    assert any("2 samples left out, since they are there more than once" in note for note in session.notes)
    other = LabelledSet("s", synthetic.contents, ["measles", *synthetic.labels[1:]])
    notes = draw_session(checklist, other, None, 24, 0).notes
    assert "1 synthetic samples left out: the checklist has no condition measles" in notes
    assert any("only 11 samples" in note for note in notes)


def test_sets_that_cannot_be_reviewed(checklist: Checklist) -> None:
    texts = LabelledSet("t", ["one", "two"], ["grade 0", "grade 1"])
    assert {s.content for s in draw_session(checklist, texts, None, 2, 0).samples} == {"one", "two"}
    with pytest.raises(ValueError, match="t holds texts and set images; give two of a kind"):
        draw_session(checklist, texts, images(1), 2, 0)
    with pytest.raises(ValueError, match="the classes measles, the checklist phantom-fundus the conditions grade 0"):
        draw_session(checklist, LabelledSet("t", ["one"], ["measles"]), None, 2, 0)
    with pytest.raises(ValueError, match="number of samples must be a number from 2 to 200, got 201"):
        draw_session(checklist, texts, None, 201, 0)
    with pytest.raises(ValueError, match="as if both sets were the same"):
        draw_session(checklist, images(1), images(1), 24, 0)


def test_sessions_in_memory_are_bounded(checklist: Checklist, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("review_session.MEMORY", 60_000)
    sessions = Sessions()
    drawn = [draw_session(checklist, images(i), None, 12, 0) for i in range(3)]
    for session in drawn:
        sessions.add(session)
    assert sum(kept.size() for kept in sessions.kept.values()) <= 60_000
    assert sessions.get(drawn[2].id) is drawn[2]
    with pytest.raises(ValueError, match="start it again with the same sets"):
        sessions.get(drawn[0].id)


@pytest.fixture
def session(tmp_path: Path, checklist: Checklist) -> Session:
    opened = draw_session(checklist, images(1), images(2), 10, 0)
    review_scores.open_session(tmp_path, opened)
    return opened


def answers(session: Session, sample: int, yes: int) -> dict[str, int]:
    return {item.id: yes for item in session.checklist.items(session.samples[sample].condition)}


def score(folder: Path, session: Session, rater: str, sample: int, yes: int, looks_real: bool | None = True) -> None:
    place = session.samples[sample].id
    review_scores.save_score(folder, session.id, rater, place, answers(session, sample, yes), looks_real)


def test_the_last_score_counts_and_a_torn_line_costs_itself_alone(tmp_path: Path, session: Session) -> None:
    score(tmp_path, session, "Ann", 0, 0)
    score(tmp_path, session, "Ann", 1, 1)
    path = next((tmp_path / session.id).glob("*.jsonl"))
    with path.open("a") as file:
        file.write('{"sample_id": "torn')
    score(tmp_path, session, " Ann ", 0, 1)
    found = review_scores.read_scores(tmp_path, session.id)
    assert list(found) == ["Ann"]
    assert all(set(record["scores"].values()) == {1} for record in found["Ann"].values())
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rater": "=cmd()"}, "the rater's name must have 1 to 40"),
        ({"rater": ""}, "the rater's name must have"),
        ({"sample": "0" * 16}, "is not part of review"),
        ({"session_id": "../../etc"}, "there is no review"),
        ({"scores": {"one_disc": 1}}, "scores must hold the items of grade"),
        ({"looks_real": "maybe"}, "looks_real must be true, false or null, got 'maybe'"),
    ],
)
def test_scores_that_are_refused(tmp_path: Path, session: Session, change: dict[str, Any], told: str) -> None:
    good = {"rater": "Ann", "sample": session.samples[0].id, "scores": answers(session, 0, 1), "looks_real": True}
    with pytest.raises(ValueError, match=told):
        review_scores.save_score(tmp_path, **{"session_id": session.id, **good, **change})
    with pytest.raises(ValueError, match="must be 0 or 1, got 2"):
        review_scores.save_score(tmp_path, session.id, **{**good, "scores": answers(session, 0, 2)})
    assert review_scores.read_scores(tmp_path, session.id) == {}
    with pytest.raises(ValueError, match="nothing is scored yet"):
        review_scores.export_rows(tmp_path, session.id)


def test_a_name_is_taken_by_the_first_who_starts_under_it(tmp_path: Path, session: Session) -> None:
    key = review_scores.claim_name(tmp_path, session.id, "Ann", None)
    assert review_scores.claim_name(tmp_path, session.id, "Ann", key) == key
    assert review_scores.claim_name(tmp_path, session.id, "Bob", key) != key
    with pytest.raises(ValueError, match="the name 'Ann' is taken"):
        review_scores.claim_name(tmp_path, session.id, "Ann", "")
    with pytest.raises(ValueError, match="the name 'Nobody' is taken"):
        review_scores.check_key(tmp_path, session.id, "Nobody", "")
    assert not any(key in path.read_text() for path in (tmp_path / session.id).iterdir())
    assert len(list((tmp_path / session.id).glob("*.key*"))) == 2


def test_any_set_can_be_reviewed_without_a_checklist() -> None:
    made = LabelledSet("made", ["one text", "another text", "a third"], ["mild", "severe", "mild"])
    chosen = draw_session(label_checklist(made.labels), made, None, 3, 0)
    assert len(chosen.samples) == 3
    assert {item.id for sample in chosen.samples for item in chosen.checklist.items(sample.condition)} == {
        "shows_label"
    }


def test_an_exported_table_computes_nothing(tmp_path: Path, session: Session) -> None:
    """What a spreadsheet would take for a formula is set in quotes; the Parquet file holds it as it is."""
    formula = '=HYPERLINK("http://x")'
    path = tmp_path / session.id / "session.json"
    opened = json.loads(path.read_text())
    opened["questions"] |= {formula: opened["questions"][session.samples[0].condition]}
    opened["samples"][session.samples[0].id]["condition"] = formula
    path.write_text(json.dumps(opened))
    score(tmp_path, session, "Ann", 0, 1)
    parquet, table = review_scores.export_scores(tmp_path, session.id, tmp_path)
    assert pq.read_table(parquet)["condition"][0].as_py() == formula
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["condition"] for row in rows} == {f"'{formula}"}
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_kappa_of_two_raters_by_hand() -> None:
    """Equal in 7 of 10; Ann says yes six times, Bob five times: (0.7 - 0.5) / (1 - 0.5)."""
    ann = {str(i): int(i < 6) for i in range(10)}
    bob = {str(i): int(i in (0, 1, 2, 3, 8)) for i in range(10)}
    found = review_scores.agreement({"Ann": ann, "Bob": {**bob, "more": 1}})
    assert found["value"] == pytest.approx(0.4)
    assert (found["statistic"], found["agreement"], found["samples"]) == ("Cohen's kappa", 0.7, 10)


def test_alpha_of_four_raters_as_krippendorff_gives_it() -> None:
    """Four observers, twelve units, missing answers: nominal alpha 0.743 (his worked example of 2011)."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    by_rater = {
        str(rater): {str(unit): answer for unit, answer in enumerate(row) if answer is not None}
        for rater, row in enumerate(rows)
    }
    found = review_scores.agreement(by_rater)
    assert found["statistic"] == "Krippendorff's alpha"
    assert found["value"] == pytest.approx(0.743, abs=0.0005)


def test_agreement_without_variance_is_undefined() -> None:
    same = {"Ann": {"a": 1, "b": 1}, "Bob": {"a": 1, "b": 1}}
    found = review_scores.agreement(same)
    assert (found["value"], found["agreement"]) == (None, 1.0)
    assert "undefined: every answer is the same" in found["note"]
    alone = review_scores.agreement({"Ann": {"a": 1}})
    assert alone["value"] is None
    assert "no sample that two raters scored" in alone["note"]


def test_who_has_not_finished_is_not_told_which_are_real(tmp_path: Path, session: Session) -> None:
    for number, sample in enumerate(session.samples):
        right = sample.source == "real"
        score(tmp_path, session, "Ann", number, 1, looks_real=right if number < 8 else not right)
        if number < 9:
            score(tmp_path, session, "Bob", number, 1)
    values = review_scores.read_session(tmp_path, session.id)
    ann, bob = review_scores.discrimination_table(values, review_scores.read_scores(tmp_path, session.id))
    assert (ann["right"], ann["n"], ann["rate"]) == (8, 10, 0.8)
    assert (ann["low"], ann["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson, by his formula
    assert bob == {"rater": "Bob", "what": "not finished (9 of 10)"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The tab in Blocks of its own behind a real server."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("scores")
        patch.setenv("STUDIO_SCORES", str(folder))
        patch.setenv("GRADIO_TEMP_DIR", str(folder.parent / "uploads"))
        with gr.Blocks() as app, gr.Tab("Review"):
            review_tab.build()
        app.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        yield Client(app.local_url, verbose=False, ssl_verify=False, download_files=str(folder.parent / "downloads"))
        app.close()


def start(client: Client, folder: Path, rater: str, key: str | None = None, **sets: Path) -> dict[str, Any]:
    made = write_zip(folder / "made.zip", images(1))
    true = write_zip(folder / "true.zip", images(2))
    files = [handle_file(str(sets.get("made", made))), handle_file(str(true))]
    arguments = [rater, "phantom-fundus", None, None, files[0], None, files[1], 10, 0, key]
    plan: dict[str, Any] = client.predict(*arguments, api_name="/review_start")
    return plan


def test_two_raters_score_ten_samples_through_the_server(client: Client, tmp_path: Path) -> None:
    yes = {"Ann": range(6), "Bob": (0, 1, 2, 3, 8)}
    for rater, chosen in yes.items():
        plan = start(client, tmp_path, rater)
        assert len(plan["samples"]) == 10
        assert "source" not in json.dumps(plan)
        by_id = {sample["id"]: sample["condition"] for sample in plan["samples"]}
        for number, place in enumerate(sorted(by_id)):
            scores = {item["id"]: int(number in chosen) for item in plan["items"][by_id[place]]}
            arguments = (plan["session"], rater, place, scores, number in chosen, plan["key"])
            record = client.predict(*arguments, api_name="/review_score")
            assert (record["scored"], record["total"]) == (number + 1, 10)
        if rater == "Ann":
            ann = plan
    assert start(client, tmp_path, "Ann", ann["key"])["scored"] == sorted(by_id)
    for key in (None, plan["key"]):  # of nobody, of Bob
        with pytest.raises(AppError, match="the name 'Ann' is taken in this review, and the key is not its"):
            start(client, tmp_path, "Ann", key)
        with pytest.raises(AppError, match="the name 'Ann' is taken in this review"):
            client.predict(ann["session"], "Ann", place, scores, True, key or "", api_name="/review_score")

    found = client.predict(plan["session"], api_name="/review_agreement")
    rows = {row["item"]: row for row in found["agreement"]}
    assert rows["looks real"]["value"] == pytest.approx(0.4)  # by hand, as above
    assert rows["one_disc"]["value"] == pytest.approx(0.4)  # one item in the same words for all conditions
    assert rows["all items"]["value"] == pytest.approx(0.4)
    assert [row["n"] for row in found["discrimination"]] == [10, 10]

    parquet, csv = client.predict(plan["session"], api_name="/review_export")
    dataset = load_dataset("parquet", data_files=parquet, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(dataset) == 2 * 10 * 5
    assert set(dataset.column_names) == set(Path(csv).read_text().splitlines()[0].split(","))
    row = dataset.filter(lambda row: row["rater"] == "Bob" and row["sample_id"] == min(by_id))[0]
    assert (row["checklist"], row["version"], row["score"], row["looks_real"]) == ("phantom-fundus", 1, 1, True)


def test_uploads_are_removed_and_errors_are_messages(client: Client, tmp_path: Path) -> None:
    start(client, tmp_path, "Cleo")
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    with pytest.raises(AppError, match=r"the synthetic set: broken\.zip is a damaged \.zip"):
        start(client, tmp_path, "Ann", made=tmp_path / "broken.zip")
    assert not [path for path in Path(get_upload_folder()).rglob("*") if path.suffix == ".zip"]
    with pytest.raises(AppError, match="the rater's name must have"):
        start(client, tmp_path, "")
    with pytest.raises(AppError, match="there is no review"):
        client.predict("f" * 16, api_name="/review_export")
