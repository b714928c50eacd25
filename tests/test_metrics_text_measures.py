"""Measures on texts: against sacrebleu, lexicalrichness, scikit-learn, scipy, double loops and values by hand."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

from clinsynth.data.texts import as_objects
from clinsynth.metrics.mmd.mmd import BLOCK_ROWS, count_blocks, median_bandwidth, mmd_interval, mmd_squared
from clinsynth.metrics.records import Features, MeasurementSettings
from clinsynth.metrics.texts.diversity import (
    Stream,
    distinct,
    draw_two_streams,
    exact_duplicates,
    mattr,
    mtld,
    near_duplicates,
    vocabulary_coverage,
)
from clinsynth.metrics.texts.entities import common_words, entities
from clinsynth.metrics.texts.privacy import make_canaries, measure_exposure, pair_by_class
from clinsynth.metrics.texts.words import (
    HARSH_AFFECT,
    HOPEFUL_AFFECT,
    NEGATIVE_AFFECT,
    WORD_LISTS,
    number_words,
    self_bleu,
    shared_words,
    words_of,
)

FOLDER = Path(__file__).parent.parent / "metrics" / "mmd"
SETTINGS = MeasurementSettings("none", replicates=20)


def random_texts(count: int, longest: int, seed: int = 0) -> list[str]:
    """Texts of one word and more from a vocabulary of 40 with a long tail."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest, size=count)
    return [" ".join(f"w{min(word, 40)}" for word in generator.zipf(1.4, size=length)) for length in lengths]


def two_sets(n: int, m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(n, d)), generator.normal(0.3, 1.2, size=(m, d))


def test_words_ignore_case_and_keep_apostrophes() -> None:
    assert words_of("I CAN’T sleep—self-harm, 2 a.m.") == ["i", "can't", "sleep", "self-harm", "2", "a", "m"]
    assert words_of("שלום עולם 🙂") == ["שלום", "עולם"]
    left, right = number_words([["a", "b"], ["b"]], [["c", "a"]])
    assert [x.tolist() for x in left + right] == [[0, 1], [1], [2, 0]]


def test_self_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = random_texts(30, 25)
    texts += [*texts[:3], "one", "two words"]
    (numbers,) = number_words(map(words_of, texts))
    theirs = [
        sacrebleu.sentence_bleu(
            text, texts[:i] + texts[i + 1 :], tokenize="none", smooth_method="exp", use_effective_order=True
        ).score
        for i, text in enumerate(texts)
    ]
    assert self_bleu(numbers) * 100 == pytest.approx(theirs, abs=1e-9)
    assert max(theirs) == pytest.approx(100) and min(theirs) == 0
    with pytest.raises(ValueError, match="two texts or more, got 1"):
        self_bleu(numbers[:1])


def test_mattr_and_mtld_are_lexicalrichness() -> None:
    richness = pytest.importorskip("lexicalrichness")
    for text in random_texts(4, 400, seed=3):
        words = text.split() * 2
        (numbers,) = number_words([words])
        theirs = richness.LexicalRichness(words, preprocessor=None, tokenizer=None)
        window = min(50, len(words))
        assert mattr(numbers[0]) == pytest.approx(theirs.mattr(window), abs=1e-12)
        assert mtld(numbers[0]) == pytest.approx(theirs.mtld(0.72), rel=1e-12)
    assert mtld(np.arange(30)) == 30


def test_distinct_and_coverage_by_hand() -> None:
    stream = Stream(np.array([1, 2, 1, 2, 1, 2, 3]), np.array([0, 0, 0, 0, 1, 1, 1]))
    assert distinct(stream, 1) == 3 / 7
    assert distinct(stream, 2) == 3 / 5  # 12 21 12 | 12 23, none across the two texts
    assert distinct(stream, 3) == 1  # 121 212 | 123
    assert distinct(stream, 5) == 1
    assert vocabulary_coverage(np.array([1, 1, 2, 3, 4]), np.array([4, 1, 9])) == 0.5


def test_two_streams_share_no_text() -> None:
    texts = [np.full(length, number) for number, length in enumerate([30, 5, 40, 8, 17, 20, 3, 9])]
    generator = np.random.default_rng(0)
    for _ in range(20):
        first, second = draw_two_streams(texts, 50, generator)
        assert len(first.words) == 50 and len(second.words) > 10
        assert not set(first.texts) & set(second.texts)


def brute_force(text: list[int], others: list[list[int]]) -> tuple[int, float]:
    runs = {tuple(other[i:j]) for other in others for i in range(len(other)) for j in range(i + 1, len(other) + 1)}
    longest, covered = 0, np.zeros(len(text), dtype=bool)
    for i in range(len(text)):
        for j in range(i + 1, len(text) + 1):
            if tuple(text[i:j]) in runs:
                longest = max(longest, j - i)
                covered[i:j] |= j - i == 4
    return longest, covered.mean()


def test_shared_words_agree_with_all_pairs_of_runs() -> None:
    texts, others = (random_texts(25, 20, seed) for seed in (1, 2))
    left, right = number_words(map(words_of, texts + others[:1]), map(words_of, others))
    longest, copied = shared_words(left, right, 4)
    expected = [brute_force(text.tolist(), [other.tolist() for other in right]) for text in left]
    assert list(zip(longest.tolist(), copied.tolist(), strict=True)) == expected
    assert longest[-1] == len(left[-1]) and len({*longest.tolist()}) > 3
    assert shared_words(left[:2], [])[0].tolist() == [0, 0]


def test_duplicates_exact_and_near() -> None:
    signature = pytest.importorskip("clinsynth.data.duplicates").signature
    pytest.importorskip("datasketch")
    texts = [
        "the rain walks over the quiet house while old friends count the small lamps",
        "nobody sleeps till morning",
    ]
    texts += [texts[0].replace("old", "new"), "a text of its own about bread and butter", texts[1]]
    assert exact_duplicates(texts).tolist() == [0, 1, 0, 0, 1]
    assert near_duplicates([signature(text) for text in texts]).tolist() == [1, 1, 1, 0, 1]


def test_mmd_agrees_with_scikit_learns_kernel_and_is_read_in_blocks() -> None:
    real, synthetic = two_sets(BLOCK_ROWS + 30, 40, 3)
    width = median_bandwidth(real[:51])
    distances = np.linalg.norm(real[:51, None] - real[:51], axis=2)
    assert width == pytest.approx(np.median(distances[np.triu_indices(51, 1)]), rel=1e-12)
    grams = [rbf_kernel(x, y, gamma=0.5 / width**2) for x, y in ((real, real), (synthetic, synthetic))]
    within = [(gram.sum() - len(gram)) / (len(gram) * (len(gram) - 1)) for gram in grams]
    expected = sum(within) - 2 * rbf_kernel(real, synthetic, gamma=0.5 / width**2).mean()
    assert mmd_squared(real, synthetic, width) == pytest.approx(expected, rel=1e-9)
    calls: list[None] = []
    low, high = mmd_interval(real, synthetic, width, 50, on_block=lambda: calls.append(None))
    assert low < expected < high
    assert len(calls) == count_blocks(len(real), len(synthetic)) == 5


def test_mmd_interval_is_that_of_resampled_rows_without_pairs_of_copies() -> None:
    real, synthetic = two_sets(9, 8, 4)
    generator = np.random.default_rng(7)
    counts = [generator.multinomial(n, np.full(n, 1 / n), size=3) for n in (9, 8)]
    expected = []
    for weights in zip(*counts, strict=True):
        rows = [np.repeat(np.arange(len(w)), w) for w in weights]
        kernels = [rbf_kernel(x, gamma=0.5) for x in (real, synthetic)]
        within = [
            np.mean([kernel[i, j] for i in index for j in index if i != j])
            for kernel, index in zip(kernels, rows, strict=True)
        ]
        cross = rbf_kernel(real, synthetic, gamma=0.5)[np.ix_(*rows)].mean()
        expected.append(sum(within) - 2 * cross)
    low, high = mmd_interval(real, synthetic, 1.0, n_bootstrap=3, seed=7, level=0.5)
    assert [low, high] == pytest.approx(np.quantile(expected, [0.25, 0.75]), rel=1e-10)


def test_mmd_interval_holds_zero_for_one_distribution_and_bad_input_is_refused() -> None:
    real, synthetic = two_sets(300, 300, 8)
    low, high = mmd_interval(real[:150], real[150:], 3.0)
    assert low < 0 < high
    assert 0 < mmd_interval(real, synthetic, 3.0)[0]
    with pytest.raises(ValueError, match="bandwidth must be above 0, got 0"):
        mmd_squared(real, synthetic, 0)
    with pytest.raises(ValueError, match="their median distance is 0"):
        median_bandwidth(np.ones((5, 2)))
    with pytest.raises(ValueError, match="use one extractor for both"):
        mmd_squared(real, synthetic[:, :3], 1)


def test_mmd_loads_with_evaluate_from_its_folder_overall_and_per_class() -> None:
    real, synthetic = two_sets(40, 30, 6)
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    metric.add_batch(features=np.concatenate([real, synthetic]), source=["real"] * 40 + ["synthetic"] * 30)
    result = metric.compute(n_bootstrap=10, seed=5)
    width = median_bandwidth(real)
    assert result["bandwidth"] == pytest.approx(width)
    assert result["mmd_squared"] == pytest.approx(mmd_squared(real, synthetic, width), rel=1e-12)
    assert tuple(result["interval"]) == pytest.approx(mmd_interval(real, synthetic, width, 10, 5), rel=1e-12)

    metric = evaluate.load(str(FOLDER), "per_class", keep_in_memory=True)
    metric.add_batch(features=real, source=["real"] * 40, label=["a"] * 20 + ["b"] * 20)
    metric.add_batch(features=synthetic, source=["synthetic"] * 30, label=["a"] * 10 + ["b"] * 20)
    result = metric.compute(bandwidth=2.0)
    assert result["a"]["mmd_squared"] == pytest.approx(mmd_squared(real[:20], synthetic[:10], 2.0), rel=1e-12)


def test_lexicon_counts_words_that_nothing_takes_back() -> None:
    rows = [
        words_of(text) for text in ("I feel hopeless, I hate this", "he denies suicidal ideation", "no hope at all")
    ]
    assert [WORD_LISTS[NEGATIVE_AFFECT].count(row) for row in rows] == [2, 0, 0]
    assert [WORD_LISTS[HARSH_AFFECT].count(row) for row in rows] == [2, 0, 0]
    assert [WORD_LISTS[HOPEFUL_AFFECT].count(row) for row in (*rows, words_of("I can't cope, growing hope"))] == [
        0,
        0,
        0,
        1,
    ]
    assert WORD_LISTS[NEGATIVE_AFFECT].count(words_of("I can't stop crying, he'll shell the painting")) == 1
    assert WORD_LISTS[NEGATIVE_AFFECT].rates([*rows, []]).tolist() == pytest.approx([100 * 2 / 6, 0, 0, 0])


ENTITY_CASES = {
    "names": ("Saw Dr. Imre Falk today; my name is Odile. Call me later.", {"imre falk", "odile"}),
    "dates": ("Born 03/04/1981, seen 2021-05-06 and on March 4th, 2020; may be 2 marches", {
        "81-03-04", "81-04-03", "21-05-06", "20-03-04"}),
    "phones": ("Ring +49 171 555 0199 or (020) 7946-0958, not 10 20 or 2019.", {"715550199", "079460958"}),
    "emails": ("write to o.falk+a@mail.example.org.", {"o.falk+a@mail.example.org"}),
    "ids": ("MRN: 00-48213, SSN 078-05-1120, AB1234567; case 2019, 50 mg", {"0048213", "078051120", "ab1234567"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ENTITY_CASES)
def test_entities_by_rules(kind: str) -> None:
    text, expected = ENTITY_CASES[kind]
    found = entities(text)
    assert found.pop(kind) == expected
    assert {name: values for name, values in found.items() if values} == {}


def test_capital_pairs_are_names_unless_their_words_are_common() -> None:
    text = "today Mira Kovacs told me of Bipolar Disorder, and Bipolar Disorder is hard"
    common = common_words(["bipolar disorder is common", text])
    assert entities(text, common)["names"] == {"mira kovacs"}


def test_exposure_ranks_planted_canaries() -> None:
    canaries = make_canaries(5, 63, seed=1)
    assert len({*canaries.planted, *canaries.references}) == 68
    assert make_canaries(5, 63, seed=1) == canaries
    texts = ["nothing of the kind"] * 9
    exposure, emitted = measure_exposure(
        [*texts, *(f"so {text} then" for text in canaries.planted)], canaries, SETTINGS
    )
    assert (exposure.value, exposure.interval, emitted.value) == (pytest.approx(6), (6.0, 6.0), 1.0)
    exposure, emitted = measure_exposure(texts, canaries, SETTINGS)
    assert exposure.value == pytest.approx(np.log2(64) - np.log2(1 + 63 / 2)) and emitted.value == 0
    assert exposure.floor == pytest.approx(exposure.value, abs=0.03)
    with pytest.raises(ValueError, match="make_canaries makes both"):
        measure_exposure(texts, make_canaries(1, 1), SETTINGS)


def test_pairs_are_of_one_class() -> None:
    labels, others = np.array([0, 1, 2, 1, 0]), np.array([1, 1, 0, 0, 0])
    places = pair_by_class(labels, others, 0)
    assert places[2] == -1 and (others[places[places >= 0]] == labels[places >= 0]).all()


def test_rows_of_objects_are_chosen_as_features_are() -> None:
    side = Features(as_objects([["a"], ["b", "c"], []]), np.array([0, 1, 0]))
    assert list(side.take(side.labels == 0).rows) == [["a"], []]
