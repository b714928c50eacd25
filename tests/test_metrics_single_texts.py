"""Copies of train texts one at a time: altered ones are found, new texts are not, and the power says how many."""

import numpy as np
import pytest

from clinsynth.metrics.privacy.power import describe_power, power_in_words, tail_threshold
from clinsynth.metrics.texts.entities import all_entities, entities, leaks
from clinsynth.metrics.texts.single_copies import ENTITY_KINDS, KINDS, TextSpace, measure_single_copies

WORDS = [f"{a}{b}" for a in "bo da fe gu ka li mo nu pa re si to".split() for b in "ban dor fil gem kos lat".split()]


def write(count: int, seed: int, words: int = 24) -> list[str]:
    """Texts of three sentences each."""
    drawn = np.random.default_rng(seed).choice(WORDS, (count, 3, words // 3))
    return [". ".join(" ".join(sentence) for sentence in text) + "." for text in drawn]


@pytest.fixture(scope="module")
def sides() -> tuple[list[str], list[str], list[str]]:
    return write(80, 1), write(60, 2), write(50, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_altered_copy_is_certain_by_itself(kind: str, sides: tuple[list[str], list[str], list[str]]) -> None:
    train, held_out, fresh = sides
    found = measure_single_copies([*fresh, KINDS[kind](train[7], held_out[3])], train, held_out, frozenset(), 0)
    assert [one["count"] for one in found["copies"]] == [1]
    assert measure_single_copies(fresh, train, held_out, frozenset(), 0)["copies"][0]["count"] == 0
    power = {one["kind"]: one for one in found["power"]}
    assert set(power) == {*KINDS, *ENTITY_KINDS} and all(one["share"] == 1 for one in power.values()), power
    assert power[kind]["expected"]["5%"] == {"copies": 3, "found": 3}


def test_the_power_counts_what_is_missed_and_short_texts_say_little() -> None:
    """What every text says is nobody's: a text of two common words is no copy, whoever wrote it first."""
    train, held_out = [*write(60, 1), *["none known"] * 20], [*write(40, 2), "none known"]
    scores, same = TextSpace.of(train).closest(["none known", train[3], "quite another thing here"])
    assert scores[[0, 2]].max() == 0 and scores[1].min() > 50 and same.tolist() == [False, True, False]
    found = measure_single_copies(["none known"] * 12, train, held_out, frozenset(), 0)
    assert found["copies"][0]["count"] == 0 and found["copies"][0]["n_held_out"] == 41
    assert measure_single_copies(train, train, held_out[:9], frozenset(), 0) == {"copies": [], "power": []}


def test_the_threshold_and_the_words_of_the_power() -> None:
    tail = np.random.default_rng(0).exponential(size=4000)
    reached = tail_threshold(tail)
    assert reached is not None and 9 < reached < 12  # of an exponential one in 10,000 lies above 9.2
    assert tail_threshold(tail[:9]) is None
    record = describe_power("mirrored", 8, 4, 200)
    assert record["share"] == 0.5 and record["expected"]["2%"] == {"copies": 4, "found": 2.0}
    assert record["interval"] == pytest.approx([0.157, 0.843], abs=1e-3)
    said = power_in_words([record], 200, "the check of single texts")
    assert said == "Of 4 copies planted in 200, the check of single texts would find: mirrored 2."
    assert power_in_words([], 200, "it").startswith("Too few held-out samples to say which copies it")


@pytest.mark.parametrize(
    ("known", "leaked", "kind"),
    [
        ("Dr. Imre Kovacsek came", "kovacsek", "names"),
        ("Dr. Imre Kovacsek came", "\u0406m\u0433e then imre k\u043evacsek left", "names"),
        ("(555) 014-2778", "+1 555.014.2778", "phones"),
        ("o.falk@mail.example.org", "o.falk at mail dot example dot org", "emails"),
        ("o.falk@mail.example.org", "o.falk(at)mail.example.org", "emails"),
        ("on 2019-03-05", "5th of March, 2019", "dates"),
        ("on 2019-03-05", "05-Mar-19", "dates"),
        ("on 2019-03-05", "3/5/2019", "dates"),
        ("on 2019-03-05", "\uff12\uff10\uff11\uff19/03/05", "dates"),
        ("MRN: 00-48213", "record no. 0048213", "ids"),
    ],
)
def test_entities_are_found_in_other_forms(known: str, leaked: str, kind: str) -> None:
    there = all_entities([known], frozenset())
    assert leaks([leaked, "nothing of the kind, 10 times"], there, frozenset())[kind].tolist() == [True, False]
    assert entities("31.12.2019")["dates"] == {"19-12-31"} != entities("30.12.2019")["dates"]
