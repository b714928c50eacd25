"""The verdict on sets with a planted fault, measured by the package's own functions, and on records without parts."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import REPOSITORY
from planted_sets import classify, evidence_on, planted

from clinsynth.metrics import verdicts
from clinsynth.metrics.readings import read_evidence
from clinsynth.metrics.verdicts import (
    CLASS,
    COPIES,
    DEMO,
    FEW,
    HELPS,
    LOOKS,
    NO,
    PARTLY,
    PARTNER,
    PIPELINE,
    PUBLICATION,
    RULES,
    SITE,
    UNKNOWN,
    UNMEASURED,
    USES,
    VARIED,
    YES,
    Verdict,
    judge,
    rules_as_markdown,
)

FAULTS = ("honest", "noise", "copies", "shuffled", "one mode", "few")


def verdict(fault: str) -> Verdict:
    return judge(evidence_on(fault))


def test_an_honest_set_is_suitable_for_giving_away() -> None:
    found = verdict("honest")
    assert [found.words[question] for question in (LOOKS, CLASS, VARIED, COPIES)] == [YES, YES, YES, NO]
    assert {DEMO, PIPELINE, PARTNER, PUBLICATION} <= set(found.suitable_for)
    numbers = {answer.question: answer.numbers for answer in found.answers}
    assert "(real ones " in numbers[LOOKS][0] and "by chance 50%" in numbers[CLASS][0]
    assert "0 of 60" in numbers[COPIES][0]


def test_noise_is_no_real_image_and_its_privacy_says_nothing() -> None:
    found = verdict("noise")
    assert (found.words[LOOKS], found.words[VARIED], found.words[COPIES]) == (NO, NO, UNKNOWN)
    assert found.suitable_for == [PIPELINE]
    (said,) = [answer for answer in found.answers if answer.question == COPIES]
    assert said.why == "privacy says little: noise copies nobody" and said.tone == verdicts.OPEN
    assert "train ddpm --config runs/spots/config.yaml" in found.step.commands[0]


def test_copies_are_fit_for_nobody_else_and_are_drawn_anew() -> None:
    found = verdict("copies")
    assert (found.words[LOOKS], found.words[COPIES]) == (YES, YES)
    assert not {DEMO, PIPELINE, PARTNER, PUBLICATION} & set(found.suitable_for)
    assert found.step.commands == [
        "clinsynth generate images --model runs/spots --dataset spots.npz --reject_copies true --output_dir "
        "runs/copies-2"
    ]
    assert {answer.question: answer.tone for answer in found.answers}[COPIES] == verdicts.BAD


def test_shuffled_labels_show_no_class() -> None:
    found = verdict("shuffled")
    assert (found.words[LOOKS], found.words[CLASS], found.words[COPIES]) == (YES, NO, NO)
    assert found.suitable_for == [PIPELINE] and "--keep_if_class" in found.step.commands[-1]


def test_one_image_again_and_again_is_not_varied() -> None:
    found = verdict("one mode")
    assert (found.words[VARIED], found.words[CLASS]) == (NO, YES)
    assert not {PARTNER, PUBLICATION} & set(found.suitable_for)


def test_few_samples_make_nothing_fine_and_say_so_first() -> None:
    found = verdict("few")
    assert YES not in found.words.values() and found.words[COPIES] == UNKNOWN
    assert found.headline.startswith("Only few images (24 synthetic, 60 held-out)")
    assert not {PARTNER, PUBLICATION, DEMO, SITE} & set(found.suitable_for)
    assert f"--per_class {FEW}" in found.step.commands[0]


def test_every_fault_has_a_block_of_its_own() -> None:
    blocks = {fault: tuple(verdict(fault).words.values()) for fault in FAULTS}
    assert len(set(blocks.values())) == len(FAULTS), blocks


def test_what_was_not_measured_is_never_passed() -> None:
    """Take one part after the other away from an honest set's evidence: no use is gained, and giving away is lost."""
    whole, full = evidence_on("honest"), set(verdict("honest").suitable_for)
    parts: dict[str, Any] = {
        "classifier": lambda e: e.update(classifier=None),
        "exact": lambda e: e["privacy"].pop("exact"),
        "single": lambda e: e["privacy"].update(
            copies=[r for r in e["privacy"]["copies"] if r["metric"] != "single copy"]
        ),
        "near": lambda e: [r.update(p_value=None) for r in e["privacy"]["copies"]],
        "closeness": lambda e: e["privacy"].update(records=[]),
        "privacy": lambda e: e.update(privacy={}),
        "verdict": lambda e: e["privacy"].pop("verdict"),
        "distance": lambda e: e.update(measurements=[r for r in e["measurements"] if r["metric"] != "frechet"]),
        "recall": lambda e: e.update(measurements=[r for r in e["measurements"] if r["metric"] != "recall"]),
        "repetition": lambda e: e.update(measurements=[r for r in e["measurements"] if r["metric"][:4] != "near"]),
        "measurements": lambda e: e.update(measurements=[]),
        "floors": lambda e: [r.update(floor=None, floor_range=None, floor_held_out=None) for r in e["measurements"]],
    }
    for name, remove in parts.items():
        evidence = copy.deepcopy(whole)
        remove(evidence)
        found = judge(evidence)
        assert set(found.suitable_for) <= full, name
        assert not {PARTNER, PUBLICATION} & set(found.suitable_for), name
        assert UNMEASURED in found.words.values(), name


def test_uses_never_accept_what_was_not_measured() -> None:
    assert all(UNMEASURED not in words for needs in USES.values() for words in needs.values())
    assert all(USES[use][COPIES] == (NO,) for use in (PARTNER, PUBLICATION))
    assert all(rules[-1].holds(read_evidence(evidence_on("few"))) for rules in RULES.values())  # some row always holds


def test_an_extractor_at_chance_makes_distances_say_nothing() -> None:
    evidence = copy.deepcopy(evidence_on("honest"))
    evidence["extractor"]["note"] = "20 epochs, validation macro-F1 0.510"
    found = judge(evidence)
    assert (found.words[LOOKS], found.words[VARIED]) == (UNKNOWN, UNKNOWN)
    assert not {PARTNER, PUBLICATION} & set(found.suitable_for)
    evidence["extractor"]["note"] = "20 epochs, validation macro-F1 0.810"
    assert judge(evidence).words[LOOKS] == YES


def test_one_seed_is_too_few_to_tell_and_a_plain_control_too_weak() -> None:
    evidence = {**evidence_on("shuffled"), "classifier": classify(planted("shuffled"), seeds=1)}
    (said,) = [answer for answer in judge(evidence).answers if answer.question == HELPS]
    assert (said.word, said.why) == (UNKNOWN, "too few seeds to tell")
    gain = {
        "metric": "macro_f1", "arms": ["composite", "real"], "verdict": "helps", "difference": 0.1,
        "interval": [0.05, 0.15], "seeds": 3,
    }  # fmt: skip
    for control, word in (("real", PARTLY), ("real_strong", YES)):
        records = [{**gain, "arms": ["composite", control]}]
        found = judge({**evidence_on("honest"), "classifier": {"comparisons": records}})
        assert found.words[HELPS] == word
        assert (SITE in found.suitable_for) is False  # whether they show their class was not measured
    for interval, why in (([0.01, 0.15], "may be chance"), ([-0.05, 0.15], "no difference seen")):
        records = [{**gain, "verdict": "no evidence", "interval": interval}]
        answers = judge({**evidence_on("honest"), "classifier": {"comparisons": records}}).answers
        (said,) = [answer for answer in answers if answer.question == HELPS]
        assert said.word == UNKNOWN and why in said.why


def test_a_study_is_judged_by_its_own_classifiers() -> None:
    """Each generator by the arms and the agreement that bear its name."""
    results = copy.deepcopy(classify(planted("shuffled")))
    for record in results["label_agreement"]:
        record["source"] = "gan"
    for record in results["comparisons"]:
        record["arms"][0] = "composite-gan"
    evidence = {**evidence_on("honest"), "classifier": None}
    assert judge(evidence, [results], "gan").words[CLASS] == NO
    other = judge(evidence, [results], "ddpm")
    assert (other.words[CLASS], other.words[HELPS]) == (UNMEASURED, UNMEASURED)


def test_evidence_of_an_earlier_version_is_read() -> None:
    path = Path(__file__).parent / "fixtures" / "f467151" / "eyes-evidence" / "evidence.json"
    found = judge(json.loads(path.read_text()))
    assert UNMEASURED in found.words.values() and not {PARTNER, PUBLICATION} & set(found.suitable_for)


def test_the_lines_say_word_reason_numbers_uses_and_command() -> None:
    lines = list(verdict("shuffled").lines())
    assert lines[0] == "As far as was measured, suitable for pipeline tests."
    assert any(line.startswith("  ✗ Shows its class?") and "%" in line for line in lines)
    assert any(line.startswith("  not suitable for publication: ") for line in lines)
    assert lines[-1].startswith("    clinsynth generate images")


def test_the_documented_rules_are_the_rules() -> None:
    page = (REPOSITORY / "docs" / "verdicts.md").read_text()
    assert rules_as_markdown() in page, "copy what rules_as_markdown() gives into docs/verdicts.md"


def test_a_command_is_repeated_with_other_flags() -> None:
    command = "clinsynth generate images --model runs/a --counts x=1 --seed=3 --output_dir=runs/b".split()
    assert verdicts.changed(command, counts=None, per_class="50", output_dir=None) == (
        "clinsynth generate images --model runs/a --seed=3 --per_class 50 --output_dir runs/b-2"
    )
    assert verdicts.changed(["clinsynth"], seed="1") == "clinsynth --seed 1"


@pytest.mark.parametrize("value", [0.0, 0.5, 1234.5, -0.25, -1.25e-08, 0.00012])
def test_numbers_behind_an_answer_are_short(value: float) -> None:
    assert len(verdicts.shown(value)) <= 8 and "e" not in verdicts.shown(np.float64(value))
