"""Prompts that make variety and keep the label, and what refuses a text by what it says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_generate_text import ChainWriter, Row, arguments, plan_of, posts, read_rows, report
from text_posts import LABELS, save_tiny_encoder, write_posts

from clinsynth.data.tasks import load_task
from clinsynth.judges.text_rules import read_categories
from clinsynth.models.linear_texts import cross_fitted, folds_of
from clinsynth.synthesis.plan import Prompts
from clinsynth.synthesis.prompt_parts import PromptParts, farthest_first, find_neighbours, find_topics, load_parts
from clinsynth.synthesis.text_checks import ECHO, NOT_IN_BAND, SCRIPT, LabelBandCheck, OddTextCheck
from clinsynth.synthesis.text_filters import SeenTexts
from clinsynth.synthesis.text_shards import write_text_shards

ASKED = [
    {"role": "user", "content": 'Write about a walk in the rain with two old friends of yours. "a b c d e f g h i"'}
]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("As an AI language model, I have no feelings.", "refusal"),
        ("I’m sorry, but I can’t assist with that request.", "refusal"),
        ("Nobody wrote back. If you or someone you know is in need, call a helpline.", "refusal"),
        ("Here is a short post about a bad day: I slept badly.", "about the task"),
        ("A text with the label severe.", "about the task"),
        ("PHQ-9 range 15 to 27, that is me.", "about the task"),
        ("We took a walk in the rain with two old friends today.", ECHO),
        ("I'm sorry, but I can't do this any more. I cannot sleep, and nobody can help me.", None),
        ("PHQ-9 was administered; score 17.", None),
        ("this is a question i keep asking. a b c d e f g h i", None),
        ("Тоска, и больше ничего.", SCRIPT),
        ("今天很累 but I went to work", SCRIPT),
        ("I had a café crème and felt naïve, 😀", None),
    ],
)
def test_refusals_task_talk_echoes_and_scripts_are_told(text: str, reason: str | None) -> None:
    check = OddTextCheck(["refusal", "task", "echo", "script"], ["I walk, and I do not sleep. Café."])
    assert check(text, "mild", ASKED) == reason
    assert OddTextCheck(["script"])(text, "mild", ASKED) == (reason if reason == SCRIPT else None)


def test_rules_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    for text, message in (
        ("a: {meaning: b, patterns: ['(']}", r"--rules .*: a has the pattern '\(', which is none"),
        ("a: {patterns: [b]}", "--rules .*: a must have a meaning"),
        ("- a", "--rules .* must hold categories"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_categories(path, "--rules")


def test_folds_share_out_every_label() -> None:
    labels = np.repeat([0, 1], [7, 5])
    folds = np.stack(list(folds_of(labels, 5)))
    assert (folds.sum(0) == 1).all() and all(set(labels[fold]) == {0, 1} for fold in folds)


def test_texts_of_another_label_lie_below_the_band_of_real_ones(tmp_path: Path) -> None:
    real, more = write_posts(120, 0, "r"), write_posts(60, 1, "s")
    encoder = save_tiny_encoder(tmp_path, real.texts)
    check = LabelBandCheck(real.texts, real.labels, LABELS, 0.1, str(encoder))
    held_out, _ = cross_fitted(check.encoder(real.texts), real.labels, 2)
    own = held_out[np.arange(120), real.labels]
    below = [own[real.labels == label] < check.least[name] for label, name in enumerate(LABELS)]
    assert all(abs(share.mean() - 0.1) < 0.03 for share in below)
    kept, swapped = (
        np.mean(
            [
                check(text, LABELS[abs(label - swap)], []) is None
                for text, label in zip(more.texts, more.labels, strict=True)
            ]
        )
        for swap in (0, 1)
    )
    assert kept > 0.7 and swapped < kept - 0.3 and check("bread", "mild", []) in (None, NOT_IN_BAND)
    assert check.facts["keep_if_label"] == 0.1 and set(check.facts["label_band"]) == set(LABELS)
    with pytest.raises(
        ValueError, match=r"--keep_if_label 0\.1 needs 5 real train texts of every label; 'mild' has 2"
    ):
        LabelBandCheck(real.texts[:3], real.labels[:3], LABELS, 0.1, str(encoder))


def test_examples_are_those_farthest_from_each_other() -> None:
    angles = np.radians([0, 5, 10, 90, 180])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert farthest_first(rows, 3) == [0, 4, 3]


def test_topics_stand_in_several_texts_and_are_no_names() -> None:
    texts = [f"sleep is gone, said Marlene {number}" for number in range(4)] + [f"work goes on {n}" for n in range(4)]
    texts += ["marlene again", "sleep unique"]
    found = find_topics(["low", "well"], texts, np.array([0] * 4 + [1] * 4 + [0, 0]))
    assert found["low"][0] == "sleep" and "marlene" not in found["low"] and "unique" not in found["low"]
    assert found["well"] == ["goes", "work"]
    with pytest.raises(ValueError, match="--prompt_parts topics: no word stands in 3 train texts of 'low'"):
        find_topics(["low"], ["one", "two"], np.zeros(2, dtype=int))


def test_the_neighbour_is_what_real_texts_are_taken_for() -> None:
    pairs = [("rain and lamps", 0), ("rain or lamps", 0), ("sun at noon", 1), ("sun by noon", 1)] * 5
    pairs += [("rain with lamps", 2), ("rain and old lamps", 2)] * 5
    texts, labels = [text for text, _ in pairs], np.array([label for _, label in pairs])
    found = find_neighbours(["a", "b", "c"], texts, labels)
    assert found["a"] == "c" and found["c"] == "a"
    assert find_neighbours(["a", "b", "c"], [], np.array([])) == {"a": "b", "b": "c", "c": "b"}


def prompts_of(folder: Path, parts: list[str], k_shot: int = 2) -> tuple[Prompts, list[str]]:
    task = load_task("severity-posts")
    names = list(task.labels)
    rows = [line.rsplit(",", 1) for line in posts(folder).read_text().splitlines()[1:]]
    texts, labels = [text for text, _ in rows], np.array([names.index(label.strip()) for _, label in rows])
    pools = {
        name: [{"id": str(row), "text": texts[row]} for row in np.flatnonzero(labels == number)]
        for number, name in enumerate(names)
    }
    return Prompts(task, names, pools, k_shot, load_parts(parts, names, texts, labels, pools)), names


def test_a_prompt_says_topics_neighbour_and_place_and_a_row_keeps_them(tmp_path: Path) -> None:
    prompts, _ = prompts_of(tmp_path, ["topics", "diverse", "contrast", "scale"])
    messages, ids = prompts(3, seed=5)
    choices = prompts.choices(3, 5)
    said = messages[-1]["content"]
    assert choices is not None and said.startswith(prompts_of(tmp_path, [], 0)[0](3, 5)[0][-1]["content"][:60])
    assert f"Let it touch on: {', '.join(choices['topics'])}." in said and len(set(ids)) == 2
    assert (
        f'It must not read as one with the label "{choices["contrast"]}"' in said and choices["contrast"] != "severe"
    )
    assert 'Yours is number 4: go beyond "moderate".' in said and choices["style"] in said
    assert 'number 1: stay short of "mild".' in prompts(0, 5)[0][-1]["content"]
    assert prompts(3, 5) == (messages, ids) and prompts.facts["prompt_parts"] == list(prompts.parts.parts)

    plan = replace(plan_of(tmp_path / "out", per_class=4), choices=prompts.choices)
    refuse = lambda text, label, messages: "odd" if "Let it" in messages[-1]["content"] and " rain " in text else None  # noqa: E731
    write_text_shards(plan, prompts, ChainWriter(), SeenTexts(0.0, checks=[refuse]))
    plan.finish({})
    rows, made = read_rows(tmp_path / "out"), report(tmp_path / "out")
    assert all(prompts.choices(row["label"], row["seed"]) == choices_of(row) for row in rows)
    rejected, by_choice = made["rejected"], made["rejected_by_choice"]
    assert set(rejected) == {"odd"} and rejected["odd"] > 0
    assert sum(n for name, n in by_choice.items() if name.startswith("contrast: ")) == rejected["odd"]


def choices_of(row: dict[str, Any]) -> Any:
    import json

    return json.loads(row["prompt_choices"])


def test_rows_that_were_not_valid_are_blamed_on_their_choices(tmp_path: Path) -> None:
    prompts, _ = prompts_of(tmp_path, ["scale"])

    def fail(requests: Any) -> Iterator[Row]:
        yield from (Row(None, 2, ["not JSON"] * 2) for _ in requests)

    plan = replace(plan_of(tmp_path / "out", per_class=2), choices=prompts.choices)
    write_text_shards(plan, prompts, fail, SeenTexts(0.0))
    plan.finish({})
    made = report(tmp_path / "out")
    assert (
        made["given_up"] == 8
        and made["rejected"] == {"not JSON": 16}
        and sum(made["rejected_by_choice"].values()) == 8
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_parts": "topic"}, "--prompt_parts must be among topics, diverse, contrast, scale, got 'topic'"),
        ({"prompt_parts": "topics"}, "--prompt_parts topics needs --dataset"),
        ({"prompt_parts": "diverse", "k_shot": 1}, "give --k_shot 2 or more, got 1"),
        ({"keep_if_label": 0.1}, "--keep_if_label 0.1 needs --dataset"),
        ({"keep_if_label": 1.0, "dataset": "posts.csv"}, "--keep_if_label must be above 0 and below 1, got 1.0"),
        ({"reject": "refusal,length"}, "--reject must be among refusal, task, echo, script, or none; got 'length'"),
        (
            {"prompt_parts": "topics", "dataset": "posts.csv", "endpoint": "https://example.org/v1"},
            "--prompt_parts topics sends words of real texts to --endpoint https://example.org/v1",
        ),
    ],
)
def test_bad_flags_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_a_prompt_without_parts_is_as_before(tmp_path: Path) -> None:
    prompts, names = prompts_of(tmp_path, [], 0)
    bare = Prompts(prompts.task, names, prompts.examples, 0)
    assert bare.choices(0, 1) is None and bare(0, 1)[0] == replace(prompts, parts=None)(0, 1)[0]
    assert isinstance(prompts.parts, PromptParts)
