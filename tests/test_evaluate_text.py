"""`clinsynth evaluate text`: from two data sets to evidence.json and report.html; stop, start again; bad input."""

import csv
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Sequence as SequenceFeature
from report_pages import check_structure
from transformers import BertModel

from clinsynth import cli
from clinsynth.data.texts import TextSet
from clinsynth.metrics.texts.privacy import closest_pairs, histogram, make_canaries, may_be_shown
from clinsynth.metrics.texts.words import words_of
from clinsynth.reports.texts import step_line
from clinsynth.scripts.evaluate_text import main
from clinsynth.study.arguments import EvaluateTextArguments
from tests.text_models import save_tiny_model
from tests.text_posts import LABELS, save_tiny_encoder, write_posts

pytest.importorskip("datasketch")

COPIED = 7
LEAKED = "Then Dr. Falk wrote to o.falk@mail.example about it."
BREAKS = '<b>"quoted" & broken</b>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """posts.csv, an encoder, a language model; synthetic posts: row 0 is train text 7, row 1 has its mail address."""
    path = tmp_path_factory.mktemp("text")
    splits = {
        name: write_posts(count, count, name) for name, count in (("train", 102), ("validation", 12), ("test", 51))
    }
    splits["train"].texts[COPIED] += f" {LEAKED}"
    with (path / "posts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for name, side in splits.items():
            writer.writerows((text, LABELS[label], name) for text, label in zip(side.texts, side.labels, strict=True))
    made = write_posts(60, 5, "made")
    made.texts[0] = splits["train"].texts[COPIED]
    made.texts[1] += " Write to o.falk@mail.example today."
    made.texts[3] = f"{made.texts[3]} {BREAKS}"
    write_synthetic(path / "made", made, [[f"train-{row + COPIED}"] for row in range(60)])
    (path / "made" / "generation.json").write_text(json.dumps({"complete": True, "generator": {"top_p": 0.75}}))
    encoder = save_tiny_encoder(path / "encoder", splits["train"].texts)
    model = BertModel.from_pretrained(encoder)
    for part in (model.embeddings.token_type_embeddings, model.embeddings.position_embeddings):
        part.weight.data.zero_()  # else all posts lie within a hair of each other
    model.save_pretrained(encoder)
    save_tiny_model(path / "model")
    return path


def write_synthetic(
    folder: Path, made: TextSet, examples: list[list[str]] | None = None, names: list[str] = LABELS
) -> Path:
    columns: dict[str, Any] = {"id": made.ids, "text": made.texts, "label": made.labels.tolist()}
    features = {"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=names)}
    if examples is not None:
        columns["example_ids"], features["example_ids"] = examples, SequenceFeature(Value("string"))
    (folder / "data").mkdir(parents=True)
    dataset = Dataset.from_dict(columns, features=Features(features))
    dataset.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def arguments(folder: Path, output_dir: Path, **changes: Any) -> EvaluateTextArguments:
    base = {"real": str(folder / "posts.csv"), "synthetic": str(folder / "made"), "encoder": str(folder / "encoder")}
    fast = {"bootstrap": 10, "cache_dir": str(folder / "cache")}
    return EvaluateTextArguments(**{**base, **fast, "output_dir": str(output_dir), **changes})


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    main(arguments(folder, folder / "evidence", language_model=str(folder / "model")))
    return folder / "evidence"


@pytest.fixture(scope="module")
def evidence(finished: Path) -> dict[str, Any]:
    return json.loads((finished / "evidence.json").read_text())


def real_texts(folder: Path) -> list[str]:
    with (folder / "posts.csv").open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def test_every_part_is_measured_with_interval_floor_and_n(evidence: dict[str, Any]) -> None:
    found = {(r["metric"], r["reference"], r["label"]): r for r in evidence["fidelity"]}
    for metric in ("mmd_squared", "frechet", "mauve", "bertscore_f1", "loss", "perplexity_gap", "tone_distance"):
        for label in ("overall", *LABELS):
            assert (metric, "test", label) in found and (metric, "train", label) in found
        record = found[metric, "train", "overall"]
        assert record["value"] is not None, metric
        assert record["interval"][0] <= record["interval"][1] and record["floor"] is not None, metric
        assert record["floor_held_out"] is not None or metric == "mauve", metric
        assert record["n_synthetic"] >= 50
    assert "tiny" not in found["loss", "train", "overall"]["extractor"]
    assert found["loss", "train", "overall"]["extractor"].startswith("model (causal")
    assert evidence["findings"]["copies"]["flag"] and evidence["findings"]["leaks"]["flag"]
    assert not evidence["findings"]["softened tone"]["flag"]
    assert evidence["data"]["counts"]["test"] == {"mild": 34, "severe": 17}
    assert (evidence["seed"], evidence["generation"]["generator"]) == (0, {"top_p": 0.75})


def test_closest_pairs_are_numbers(evidence: dict[str, Any]) -> None:
    for by in ("embedding", "words"):
        first = next(pair for pair in evidence["closest"] if pair["by"] == by)
        assert (first["synthetic_row"], first["train_id"], first["exact"]) == (0, f"train-{COPIED}", True)
        assert first["in_prompt"] and first["shared_run"] == first["words"] and first["copied_share"] == 1
        assert first["cosine_distance"] == pytest.approx(0, abs=1e-6)
    assert len(evidence["closest"]) == 12


def test_no_real_text_is_written_unless_allowed(folder: Path, finished: Path) -> None:
    written = [path for path in finished.rglob("*") if path.suffix in (".json", ".html", ".yaml", ".jsonl", ".csv")]
    assert {path.name for path in written} >= {"evidence.json", "report.html", "measurements.json"}
    runs = {run for text in real_texts(folder) for run in runs_of(text)}
    for path in written:
        assert not runs & set(runs_of(path.read_text())), path.name
    assert "falk" not in (finished / "report.html").read_text().casefold()
    assert "no real text" in (finished / "report.html").read_text()


def runs_of(text: str) -> list[tuple[str, ...]]:
    words = words_of(re.sub(r"<[^>]+>", " ", text))
    return [tuple(words[start : start + 8]) for start in range(len(words) - 7)]


def test_pairs_stand_side_by_side_where_that_is_allowed(folder: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "shown")
    main(arguments(folder, tmp_path / "shown", show_texts=True, language_model=str(folder / "model")))
    page = (tmp_path / "shown" / "report.html").read_text()
    assert page.count(LEAKED) >= 2 and "This page shows <b>real texts</b>" in page
    assert LEAKED not in (tmp_path / "shown" / "evidence.json").read_text()


def test_the_page_is_one_file_that_says_what_was_found(folder: Path, finished: Path, evidence: dict[str, Any]) -> None:
    page = (finished / "report.html").read_text()
    reader = check_structure(page)
    assert reader.images == 0 and {"evidence.json", "evidence.csv"} <= set(reader.addresses)
    text = re.sub(r"<[^>]+>|\s+", " ", page)
    assert page.index("Copies in the set as a whole") < page.index('<h2 id="method">')
    for words in ("MAUVE", "BERTScore", "perplexity gap", "top_p", "0.75", "No clinician has read", "mild", "row 0"):
        assert words in text, words
    assert text.count("not measured") >= 1  # MAUVE against 51 test texts
    assert page.count("<polyline") == 5 and page.count('aria-label="map of embeddings') == 3
    assert "<blockquote>" in page and "<b>&#34;" not in page
    made = Dataset.from_parquet(str(folder / "made" / "data" / "*.parquet"), cache_dir=str(folder / "arrow"))
    shown = re.findall(r"<blockquote>(.*?)</blockquote>", page, re.DOTALL)
    assert 0 < len(shown) <= 6 and all(any(text.startswith(words[:20]) for text in made["text"]) for words in shown)


MEASURED_BY = dict.fromkeys(("embeddings", "streams"), "clinsynth.study.text_evidence")
MEASURED_BY |= dict.fromkeys(("mauve", "bertscore", "perplexity", "tone"), "clinsynth.metrics.texts.fidelity")
MEASURED_BY |= dict.fromkeys(("closeness", "overlap"), "clinsynth.metrics.texts.privacy")


class StoppedError(Exception):
    """In the place of a kill."""


def test_a_stopped_run_goes_on_with_what_is_finished(
    folder: Path, evidence: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = arguments(folder, tmp_path / "stopped", language_model=str(folder / "model"))
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr("clinsynth.metrics.texts.fidelity.measure_tone", named_interrupt("measure_tone"))
        main(args)
    assert not (tmp_path / "stopped" / "evidence.json").exists()
    for name in ("embeddings", "mauve", "bertscore"):
        monkeypatch.setattr(f"{MEASURED_BY[name]}.measure_{name}", named_interrupt(f"measure_{name}"))
    monkeypatch.setattr("clinsynth.models.text_encoders.TextModel.__call__", named_interrupt("__call__"))
    main(args)  # what would stop it now is finished, and all embeddings are in the cache
    resumed = json.loads((tmp_path / "stopped" / "evidence.json").read_text())
    assert {**resumed, "environment": None} == {**evidence, "environment": None}


def test_a_finished_run_is_not_measured_again(
    folder: Path, finished: Path, evidence: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in MEASURED_BY.items():
        monkeypatch.setattr(f"{module}.measure_{name}", named_interrupt(f"measure_{name}"))
    main(arguments(folder, finished, language_model=str(folder / "model")))
    again = json.loads((finished / "evidence.json").read_text())
    assert {**again, "environment": None} == {**evidence, "environment": None}


def named_interrupt(name: str) -> Any:
    """A function that stops, under the name that finished parts are kept by."""

    def stop(*args: object, **options: object) -> None:
        raise StoppedError

    stop.__name__ = name
    return stop


def test_canaries_that_come_back_are_found(folder: Path, tmp_path: Path) -> None:
    canaries = make_canaries(planted=4, references=50, seed=1)
    made = write_posts(30, 5, "made")
    for row, canary in enumerate(canaries.planted[:3]):
        made.texts[row] += f" {canary}"
    write_synthetic(tmp_path / "leaking", made)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "canaries.json").write_text(json.dumps(asdict(canaries)))
    generation = {"complete": True, "generator": {"model": str(tmp_path / "tuned")}}
    (tmp_path / "leaking" / "generation.json").write_text(json.dumps(generation))
    main(arguments(folder, tmp_path / "out", synthetic=str(tmp_path / "leaking"), bootstrap=0))
    privacy = json.loads((tmp_path / "out" / "evidence.json").read_text())["privacy"]
    found = {record["metric"]: record for record in privacy if "canar" in record["metric"]}
    assert found["canaries_emitted"]["value"] == 0.75 and found["canaries_emitted"]["floor"] == 0
    assert found["canary_exposure"]["value"] > found["canary_exposure"]["floor"] + 2
    for name, message in (("absent", "there is no such file"), ("leaking/generation", "is not a list of canaries")):
        with pytest.raises(ValueError, match=rf"--canaries .*{name}.json.* {message}.*train text-lora --canaries"):
            main(arguments(folder, tmp_path / "bad", canaries=str(tmp_path / f"{name}.json")))


def test_label_names_that_differ_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write_posts(30, 6, "other")
    write_synthetic(tmp_path / "other", made, names=["mild", "grave"])
    words = f"evaluate text --real {folder / 'posts.csv'} --synthetic {tmp_path / 'other'}".split()
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, "--encoder", str(folder / "encoder"), "--output_dir", str(tmp_path / "evidence")])
    message = capsys.readouterr().err
    assert "has labels grave, mild, --real has mild, severe: grave is not among these" in message
    assert not (tmp_path / "evidence").exists()


def test_labels_are_matched_by_name_and_may_be_strings(folder: Path, tmp_path: Path) -> None:
    from clinsynth.study.text_evidence import load_synthetic_texts

    made = write_posts(6, 6, "made")
    write_synthetic(tmp_path / "turned", made, names=["severe", "mild"])
    assert load_synthetic_texts(tmp_path / "turned", LABELS).labels.tolist() == (1 - made.labels).tolist()
    Dataset.from_dict({"text": ["a", "b"], "label": ["severe", "mild"]}).to_parquet(tmp_path / "rows.parquet")
    found = load_synthetic_texts(tmp_path, LABELS)
    assert (found.labels.tolist(), found.ids, found.example_ids) == ([1, 0], ["0", "1"], None)
    for column, values, message in (
        ("label", [0, 1], "labels need names"),
        ("text", ["a", " "], "row 1 holds no text"),
        ("post", ["a", "b"], "has no column 'text'; it has post, label"),
    ):
        rows = {"text": ["a", "b"], "label": ["mild", "mild"]} | {column: values}
        if column == "post":
            rows.pop("text")
        Dataset.from_dict(dict(sorted(rows.items(), reverse=True))).to_parquet(tmp_path / "rows.parquet")
        with pytest.raises(ValueError, match=message):
            load_synthetic_texts(tmp_path, LABELS)


def test_folders_without_texts_are_named(folder: Path, tmp_path: Path) -> None:
    for made, message in (("absent", "absent is not a folder"), ("empty", "empty holds no .parquet file")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=message):
            main(arguments(folder, tmp_path / "out", synthetic=str(tmp_path / made)))
    none = TextSet([], np.zeros(0, dtype=np.int64), [])
    with pytest.raises(ValueError, match="none holds no text; give the folder"):
        main(arguments(folder, tmp_path / "out", synthetic=str(write_synthetic(tmp_path / "none", none))))
    few = write_synthetic(tmp_path / "few", write_posts(4, 5, "few"))
    with pytest.raises(ValueError, match="the synthetic set must hold 10 texts or more, got 4"):
        main(arguments(folder, tmp_path / "out", synthetic=str(few)))
    (few / "generation.json").write_text(json.dumps({"complete": False}))
    with pytest.raises(ValueError, match="few is not finished; start its `clinsynth generate`"):
        main(arguments(folder, tmp_path / "out", synthetic=str(few)))


def test_one_class_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("text,label\n" + "".join(f"post {row} of rain,mild\n" for row in range(40)))
    with pytest.raises(ValueError, match=r"^--real .*has 1 class \(mild\); two or more are needed"):
        main(arguments(folder, tmp_path / "out", real=str(tmp_path / "one.csv")))


def test_missing_models_say_how_to_give_a_folder(folder: Path, tmp_path: Path) -> None:
    for encoder in (str(tmp_path / "nowhere"), "nobody/no-such-encoder"):
        with pytest.raises(ValueError, match=rf"--encoder {encoder} cannot be loaded.*--encoder path/of/folder"):
            main(arguments(folder, tmp_path / "out", encoder=encoder))
    with pytest.raises(ValueError, match=r"--language_model .*nowhere cannot be loaded.*a \.gguf file"):
        main(arguments(folder, tmp_path / "out", language_model=str(tmp_path / "nowhere")))
    for flags, message in (
        ({"real": ""}, "--real is missing"),
        ({"synthetic": ""}, "--synthetic is missing"),
        ({"bootstrap": -1}, "--bootstrap must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            arguments(folder, tmp_path / "out", **flags)


def test_texts_that_give_something_away_are_not_shown() -> None:
    def texts(*rows: str) -> TextSet:
        return TextSet(list(rows), np.zeros(len(rows), dtype=np.int64), [str(row) for row in range(len(rows))])

    real = texts("one two three four five six seven eight nine", "Ask Dr. Falk. Never.", "no known allergies")
    made = texts(
        "so one two three four five six seven eight then",
        "so one two three four five six seven then we went home at last and slept and slept",
        "no known allergies today",
        "we went to see Dr. Falk because of the rain and of the wind",
        "something else altogether, far away",
        "something else altogether, near by",
    )
    distances = np.array([0.3, 0.3, 0.3, 0.3, 0.3, 0.04])
    assert may_be_shown(made, [real], distances).tolist() == [False, True, False, False, True, False]


def test_pairs_by_words_are_found_in_the_right_train_text() -> None:
    made = write_posts(20, 1, "made")
    train = write_posts(30, 2, "train")
    made.texts[4] = "well " + " ".join(words_of(train.texts[11])[3:16]) + " indeed"
    rows = [np.eye(40)[start : start + count] for start, count in ((0, 20), (5, 30))]
    pairs = closest_pairs(made, train, *rows)
    by_words = next(pair for pair in pairs if pair["by"] == "words")
    assert (by_words["synthetic_row"], by_words["train_row"], by_words["shared_run"]) == (4, 11, 13)
    assert by_words["in_prompt"] is None and by_words["copied_share"] == pytest.approx(13 / 15)
    assert not by_words["exact"]
    assert pairs[0]["by"] == "embedding" and pairs[0]["cosine_distance"] == 0


def test_histograms_are_shares_and_steps() -> None:
    found = histogram({"a": np.array([0.0, 1.0, 99.0]), "b": np.array([5.0])}, 10.0)
    assert found["shares"]["a"][0] == found["shares"]["a"][-1] == found["shares"]["a"][2] == pytest.approx(1 / 3)
    assert sum(found["shares"]["b"]) == 1 and len(found["edges"]) == 25
    assert step_line([0.5, 1.0], 1.0).split() == [
        "6.0,124.0", "6.0,65.0", "220.0,65.0", "220.0,6.0", "434.0,6.0", "434.0,124.0",
    ]  # fmt: skip
