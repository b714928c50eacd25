"""Attacks by the three criteria of the Article 29 Working Party, and the lower bound of epsilon."""

import numpy as np
import pytest

from clinsynth.metrics.privacy.attack import Attack, epsilon_bound
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
    assert difference(share(56, 70), share(48, 80)) == pytest.approx((0.0524, 0.3339), abs=1e-4)
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
