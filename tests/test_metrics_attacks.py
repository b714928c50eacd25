"""Attacks by the three criteria of the Article 29 Working Party, and the lower bound of epsilon."""

import numpy as np
import pytest

from clinsynth.metrics.privacy.attack import Attack, describe_attack, describe_tpr, epsilon_bound, run_attack
from clinsynth.metrics.privacy.attacks import attack_table, describe, difference, share
from clinsynth.metrics.records import Features


def rows(count: int, seed: int) -> Features:
    """Two classes, whose labels the rows nearly tell."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=count)
    return Features(generator.normal(size=(count, 12)) + 2 * labels[:, None], labels)


def test_a_generator_that_repeats_its_rows_is_found_by_all_three() -> None:
    train, held_out = rows(300, 1), rows(300, 2)
    noise = np.random.default_rng(3).normal(0, 0.01, train.rows.shape)
    copied = attack_table(Features(train.rows + noise, train.labels), train, held_out, 0)
    assert [one["criterion"] for one in copied["attacks"]] == ["singling out", "linkability", "inference"]
    for one in copied["attacks"][:2]:
        assert one["leak"] and one["strong"] and one["main"]["value"] > 0.9 and one["interval"][0] > 0.5
        assert one["interval"][0] <= one["risk"] <= one["interval"][1]
    fresh = attack_table(rows(300, 4), train, held_out, 0)
    assert not any(one["leak"] for one in fresh["attacks"])
    inference = fresh["attacks"][2]  # what the set teaches about everybody is no leak
    assert inference["strong"] and inference["main"]["value"] > 0.9 < inference["control"]["value"]
    assert len(fresh["not_run"]) == 3 and fresh["note"] == ""
    assert attack_table(rows(9, 4), train, held_out, 0)["attacks"] == []


def test_intervals_of_shares_and_their_difference() -> None:
    """Newcombe (1998), table II, example (a): 56 of 70 and 48 of 80 differ by 0.0524 to 0.3339."""
    first, second = (share(np.arange(total) < count) for count, total in ((56, 70), (48, 80)))
    assert difference(first, second) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    everything = describe((np.ones(20, bool), np.zeros(20, bool), np.ones(20, bool)))
    assert everything["risk"] == 0 and not everything["leak"] and everything["strong"]


def test_the_lower_bound_of_epsilon() -> None:
    """It lies below what the shares themselves say, and nothing is said where the sides do not differ."""
    generator = np.random.default_rng(0)
    others = generator.normal(size=2000)
    found = epsilon_bound(Attack(0, generator.normal(1, 1, 2000), others, []))
    assert 0.5 < found["value"] < found["estimate"] < 3 and found["delta"] == 1e-5
    flipped = (others + 1e-9)[: len(others)]
    assert epsilon_bound(Attack(0, flipped, others, []))["value"] == 0
    sure = epsilon_bound(Attack(0, others + 100, others, []))
    assert sure["value"] > 4  # no more than 2,000 rows can say


def test_persons_are_resampled_not_their_rows() -> None:
    """Ten rows of each person that are alike say no more than one: the intervals are those of as many persons."""
    generator = np.random.default_rng(0)
    persons, hits = np.repeat(np.arange(20), 10), np.repeat(np.arange(20) % 2 == 0, 10)
    few, alike, apart = share(hits[::10])["interval"], share(hits, persons)["interval"], share(hits)["interval"]
    assert alike[1] - alike[0] > 2 * (apart[1] - apart[0]) and alike == pytest.approx(few, abs=0.05)
    sides = [np.repeat(generator.normal(shift, 1, 20), 10) for shift in (1, 0)]
    rows, people = (Attack(0, *sides, [], whose) for whose in ((None, None), (persons, persons + 20)))
    for of in (describe_attack, lambda attack: describe_tpr(attack, 0.1, 0, 200)):
        narrow, wide = (of(attack)["interval"] for attack in (rows, people))
        assert wide[1] - wide[0] > 1.3 * (narrow[1] - narrow[0])
    assert epsilon_bound(people)["value"] < epsilon_bound(rows)["value"]
    labels = [np.zeros(200, dtype=int)] * 2
    attack = run_attack([side[:, None] for side in sides], labels, 0, (persons, persons))
    assert [len(set(whose.tolist())) for whose in attack.persons] == [10, 10] and len(attack.members) == 100


def test_attacks_on_rows_of_few_persons_say_less() -> None:
    train, held_out, made = rows(200, 1), rows(200, 2), rows(200, 3)
    persons = np.argsort(np.argsort(train.rows[:, 0])) // 20
    people = [Features(side.rows, side.labels, persons) for side in (train, held_out)]
    for plain, known in zip(
        *(attack_table(made, *sides, 0)["attacks"] for sides in ((train, held_out), people)), strict=True
    ):
        for side in ("main", "control"):
            (low, high), (least, most) = plain[side]["interval"], known[side]["interval"]
            assert least <= low and high <= most and plain[side]["value"] == known[side]["value"]
