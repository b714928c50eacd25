"""Generation of texts: the data set on disk, seeds, restarts, near-duplicates and wrong flags."""

import csv
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.duplicates import NearDuplicates
from clinsynth.data.tasks import load_task
from clinsynth.data.texts import load_text_dataset
from clinsynth.scripts.generate_text import GenerateTextArguments
from clinsynth.scripts.generate_text import main as generate
from clinsynth.synthesis import shards as synthetic_shards
from clinsynth.synthesis.plan import Prompts, examples_by_label, find_label, name_labels, plan_labels
from clinsynth.synthesis.text_filters import NEAR_DUPLICATE, TRAIN_COPY, SeenTexts
from clinsynth.synthesis.text_shards import TextShards, settle_shards, write_text_shards

WORDS = "rain walks over the quiet house while old friends count small lamps and nobody sleeps till morning".split()


@dataclass
class Row:
    """What comes of one request."""

    data: dict[str, Any] | None
    attempts: int = 1
    rejections: list[str] = field(default_factory=list)


@dataclass
class ChainWriter:
    """A generator of its own: a Markov chain over words, one random generator a request.

    A share of its rows is unfinished, and one in `repeats` is a sentence that it always writes.
    """

    repeats: float = 0.0
    unfinished: float = 0.0
    asked: list[int] = field(default_factory=list)
    stop_after: int | None = None

    def __call__(self, requests: list[tuple[list[dict[str, str]], int]]) -> Iterator[Row]:
        for messages, seed in requests:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(seed)
            yield self.write(messages[1]["content"], seed)

    def write(self, prompt: str, seed: int) -> Row:
        rng = random.Random(f"{seed} {prompt}")
        if rng.random() < self.unfinished:
            return Row(None, 5, ["not JSON"] * 5)
        if rng.random() < self.repeats:
            return Row({"text": "I always say this same sentence about my day and then I stop."})
        words = [rng.choice(WORDS)]
        for _ in range(20):
            after = WORDS[(WORDS.index(words[-1]) + rng.choice([1, 2, 3, 5])) % len(WORDS)]
            words.append(after)
        return Row({"text": " ".join(words)})


def plan_of(folder: Path, per_class: int = 10, **changes: Any) -> TextShards:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    names = list(load_task("severity-posts").labels)
    settings: dict[str, Any] = {"seed": 0, "shard_size": 8}
    labels = [label for label in range(len(names)) for _ in range(per_class)]
    return TextShards(folder, labels, dict(enumerate(names)), **settings | changes)


def arguments(folder: Path, **changes: Any) -> GenerateTextArguments:
    settings: dict[str, Any] = {"model": "m", "task": "severity-posts", "output_dir": str(folder)}
    return GenerateTextArguments(
        **settings | ({} if {"counts", "balance_to"} & set(changes) else {"per_class": 10}) | changes
    )


def ask_of(args: GenerateTextArguments, train: Any = None) -> Any:
    task = load_task(args.task)
    names = name_labels(task, args.task, train, args.dataset)
    return Prompts(task, names, examples_by_label(names, train, args.k_shot, args.dataset), args.k_shot)


def labels_of(args: GenerateTextArguments, names: list[str], train: Any = None) -> list[int]:
    return plan_labels(args, dict(enumerate(names)), partial(find_label, names), lambda: train["label"], "texts")


def posts(folder: Path, per_class: int = 12) -> Path:
    """A real data set: sentences of four severities."""
    with (folder / "posts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for label in load_task("severity-posts").labels:
            for number in range(per_class):
                writer.writerow(
                    [f"post {number} about {label} things, {WORDS[number % 17]} {WORDS[number % 7]}", label]
                )
    return folder / "posts.csv"


def write_all(plan: TextShards, write: Any, threshold: float = 0.7, ask: Any = None, train: Any = ()) -> None:
    seen, ask = SeenTexts(threshold, train), ask or ask_of(arguments(plan.output_dir))
    for process in range(plan.num_processes):
        write_text_shards(plan, ask, write, seen, process)
    settle_shards(plan, ask, write, seen)
    plan.finish({})


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generation.json").read_text())


def test_the_folder_is_a_data_set(tmp_path: Path) -> None:
    write_all(plan_of(tmp_path / "out"), ChainWriter())
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.column_names == ["id", "text", "label", "seed", "example_ids", "attempts"]
    assert dataset.features["label"].names == ["non-depressed", "mild", "moderate", "severe"]
    assert dataset["id"][:] == [str(row) for row in range(40)] and dataset["label"][:3] == [0, 0, 0]
    assert len(set(dataset["seed"])) == 40 and len(set(dataset["text"])) == 40
    assert report(tmp_path / "out")["produced"] == report(tmp_path / "out")["requested"]
    again = load_text_dataset(TextDataArguments(dataset=str(tmp_path / "out")))
    assert sum(map(len, again.values())) == 40 and again["train"].column_names == ["id", "text", "label"]


def test_a_run_that_dies_within_a_shard_draws_none_of_its_texts_again(tmp_path: Path) -> None:
    """Also where the line that was being written is cut short; the set ends as one that was never stopped."""
    drawn: list[int] = []

    def dying_after(most: int) -> Callable[[Any], Iterator[Row]]:
        write, so_far = ChainWriter(), len(drawn)

        def write_on(requests: Any) -> Iterator[Row]:
            for request, row in zip(requests, write(requests), strict=True):
                if len(drawn) - so_far == most:
                    raise ConnectionError("the server is gone")
                drawn.append(request[1])
                yield row

        return write_on

    plan = plan_of(tmp_path / "dying")
    for most in (5, 6, 9):
        with pytest.raises(ConnectionError):
            write_all(plan, dying_after(most))
        (journal,) = plan.output_dir.glob("drawn-*.jsonl")
        with journal.open("a") as file:
            file.write('{"data": {"text": "half a')
    write_all(plan, dying_after(1000))
    whole = plan_of(tmp_path / "whole")
    write_all(whole, ChainWriter())
    assert read_rows(plan.output_dir) == read_rows(whole.output_dir)
    assert report(plan.output_dir) == report(whole.output_dir)
    assert len(drawn) == len(set(drawn)) and not list(plan.output_dir.glob("drawn-*"))


def test_fields_of_a_report_become_columns(tmp_path: Path) -> None:
    def write(requests: Any) -> Iterator[Row]:
        for _, seed in requests:
            yield Row({"presenting_complaint": f"sleeps badly {seed}", "plan": f"rest {seed * 7}", "codes": [1, seed]})

    plan = plan_of(tmp_path, 1, columns=("presenting_complaint", "plan", "codes"))
    write_all(plan, write, threshold=0)
    row = read_rows(tmp_path)[2]
    seed = row["seed"]
    assert row["plan"] == f"rest {seed * 7}" and json.loads(row["codes"]) == [1, seed]
    assert row["text"] == f"Presenting complaint: sleeps badly {seed}\nPlan: rest {seed * 7}\nCodes: [1, {seed}]"


def test_examples_come_from_train_rotate_and_are_recorded(tmp_path: Path) -> None:
    args = arguments(tmp_path, dataset=str(posts(tmp_path, 30)), k_shot=4)
    splits = load_text_dataset(args, args.seed)
    ask = ask_of(args, splits["train"])
    prompts: dict[int, str] = {}

    def write(requests: Any) -> Iterator[Row]:
        for messages, seed in requests:
            prompts[seed] = messages[1]["content"]
            yield ChainWriter().write(prompts[seed], seed)

    write_all(plan_of(tmp_path / "out"), write, ask=ask)
    train = {row["id"]: row for row in splits["train"]}
    rows = read_rows(tmp_path / "out")
    for row in rows:
        assert len(set(row["example_ids"])) == 4 and {train[i]["label"] for i in row["example_ids"]} == {row["label"]}
        assert all(train[i]["text"] in prompts[row["seed"]] for i in row["example_ids"])
    assert not any(
        text in prompt
        for name in ("validation", "test")
        for text in splits[name]["text"]
        for prompt in prompts.values()
    )
    assert len({tuple(row["example_ids"]) for row in rows}) == 40 == len(set(prompts.values()))


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    write_all(plan_of(tmp_path / "whole"), ChainWriter(repeats=0.3, unfinished=0.1))
    plan, writer = plan_of(tmp_path / "stopped"), ChainWriter(repeats=0.3, unfinished=0.1, stop_after=20)
    with pytest.raises(KeyboardInterrupt):
        write_all(plan, writer)
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "data").iterdir()}
    assert 0 < len(finished) < plan.num_shards
    writer.stop_after = None
    again = len(writer.asked)
    write_text_shards(plan, ask_of(arguments(tmp_path)), writer, SeenTexts(0.7))
    assert all((tmp_path / "stopped" / "data" / name).stat().st_mtime_ns == at for name, at in finished.items())
    firsts = {synthetic_shards.seed_of(0, row, 0) for row in range(8 * len(finished))}
    assert not firsts & set(writer.asked[again:])
    write_all(plan, writer)
    assert read_rows(tmp_path / "stopped") == read_rows(tmp_path / "whole")
    assert report(tmp_path / "stopped")["rejected"] == report(tmp_path / "whole")["rejected"]


def test_a_run_stopped_while_settling_goes_on(tmp_path: Path) -> None:
    write_all(plan_of(tmp_path / "whole"), ChainWriter(repeats=0.4))
    plan, writer = plan_of(tmp_path / "stopped"), ChainWriter(repeats=0.4)
    ask, seen = ask_of(arguments(tmp_path)), SeenTexts(0.7)
    write_text_shards(plan, ask, writer, seen)
    writer.stop_after = len(writer.asked) + 2
    with pytest.raises(KeyboardInterrupt):
        settle_shards(plan, ask, writer, seen)
    assert len(read_rows(tmp_path / "stopped")) == 40
    write_all(plan, ChainWriter(repeats=0.4))
    assert read_rows(tmp_path / "stopped") == read_rows(tmp_path / "whole")


def test_processes_do_not_change_the_rows(tmp_path: Path) -> None:
    write_all(plan_of(tmp_path / "one"), ChainWriter(repeats=0.3))
    write_all(plan_of(tmp_path / "three", num_processes=3), ChainWriter(repeats=0.3))
    assert read_rows(tmp_path / "one") == read_rows(tmp_path / "three")


def test_a_generator_that_repeats_itself_is_rejected_and_counted(tmp_path: Path) -> None:
    writer = ChainWriter(repeats=0.5)
    write_all(plan_of(tmp_path / "out"), writer)
    texts = [row["text"] for row in read_rows(tmp_path / "out")]
    assert len(texts) == 40 and sum(text.startswith("I always") for text in texts) == 1
    assert report(tmp_path / "out")["rejected"] == {NEAR_DUPLICATE: len(writer.asked) - 40}
    assert sum(row["attempts"] for row in read_rows(tmp_path / "out")) == len(writer.asked)
    known = NearDuplicates(0.7)
    for text in texts:
        assert text not in known
        known.add(text)
    write_all(plan_of(tmp_path / "all"), ChainWriter(repeats=0.5), threshold=0)
    assert sum(row["text"].startswith("I always") for row in read_rows(tmp_path / "all")) > 10


def test_a_hopeless_generator_falls_short_and_says_so(tmp_path: Path) -> None:
    write_all(plan_of(tmp_path / "same", 3), ChainWriter(repeats=1.0))
    same = report(tmp_path / "same")
    assert sum(same["produced"].values()) == 1 and same["given_up"] == 11 and same["requested"]["mild"] == 3
    write_all(plan_of(tmp_path / "broken", 3), ChainWriter(unfinished=1.0))
    broken = report(tmp_path / "broken")
    assert broken["produced"] == dict.fromkeys(broken["requested"], 0) and broken["rejected"] == {"not JSON": 60}
    assert broken["given_up"] == 12 and read_rows(tmp_path / "broken") == []


def test_copies_of_train_texts_are_rejected(tmp_path: Path) -> None:
    sentence = ChainWriter(repeats=1.0).write("", 0).data
    assert sentence
    write_all(plan_of(tmp_path), ChainWriter(repeats=0.5), train=[sentence["text"]])
    assert len(read_rows(tmp_path)) == 40 and report(tmp_path)["rejected"][TRAIN_COPY] > 10
    assert not any(row["text"] == sentence["text"] for row in read_rows(tmp_path))


@pytest.mark.parametrize(
    ("flags", "rejects"),
    [
        ({"k_shot": 1}, True),
        ({"k_shot": 1, "reject_copies": False}, False),
        ({"k_shot": 1, "near_duplicate": 0.0}, False),
        ({}, False),
    ],
)
def test_copies_are_rejected_where_real_texts_stand_in_the_prompts(flags: dict[str, Any], rejects: bool) -> None:
    assert arguments(Path("out"), dataset="posts.csv", **flags).reject_copies is rejects


def test_a_full_disk_keeps_the_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, real_replace = plan_of(tmp_path), synthetic_shards.os.replace

    def full(source: Path, target: Path) -> None:
        if "00002" in Path(target).name:
            raise OSError(28, "No space left on device")
        real_replace(source, target)

    monkeypatch.setattr(synthetic_shards.os, "replace", full)
    with pytest.raises(ValueError, match=r"No space left on device.*start the same command again"):
        write_all(plan, ChainWriter())
    monkeypatch.undo()
    assert len(read_rows(tmp_path)) == 16
    write_all(plan, ChainWriter())
    assert len(read_rows(tmp_path)) == 40


def test_balance_to_and_counts(tmp_path: Path) -> None:
    path = posts(tmp_path)
    args = arguments(tmp_path, dataset=str(path), balance_to=11)
    train = load_text_dataset(args)["train"]
    names = name_labels(load_task(args.task), args.task, train, args.dataset)
    assert names == sorted(load_task(args.task).labels)
    assert labels_of(args, names, train) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert labels_of(arguments(tmp_path, counts="severe=2, mild=1"), names) == [0, 3, 3]
    with pytest.raises(ValueError, match="nothing to generate: no label is below 8 texts"):
        labels_of(arguments(tmp_path, dataset=str(path), balance_to=8), names, train)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_class": None}, "exactly one of --per_class N, --counts LABEL=N,… and --balance_to N"),
        ({"per_class": 0}, "--per_class must be at least 1, got 0"),
        ({"task": ""}, "--task is missing; give severity-posts"),
        ({"model": ""}, "--model is missing"),
        ({"k_shot": 4}, "--k_shot 4 needs --dataset"),
        ({"k_shot": -1}, "--k_shot must be at least 0, got -1|needs --dataset"),
        ({"balance_to": 5}, "--balance_to 5 needs --dataset"),
        ({"reject_copies": True}, "--reject_copies True needs --dataset"),
        ({"reject_copies": True, "dataset": "x", "near_duplicate": 0.0}, "needs --near_duplicate above 0"),
        ({"near_duplicate": 1.5}, r"--near_duplicate must be in \[0, 1\], got 1.5"),
        ({"temperature": -1.0}, "--temperature must be at least 0, got -1.0"),
        ({"top_p": 0.0}, "--top_p must be above 0 and at most 1, got 0.0"),
        ({"counts": "grave=3"}, "the label 'grave' is unknown; there are non-depressed, mild"),
        ({"counts": "mild"}, "'mild' is not LABEL=N"),
        ({"counts": "mild=1,mild=2"}, "names the label 'mild' twice"),
        ({"counts": "mild=0"}, "nothing to generate: --counts mild=0"),
        ({"task": "icd10-report", "codes": "F32.11"}, "'F32.11' is unknown; the nearest are F32.1"),
        ({"codes": "F32.1"}, "severity-posts has labels of its own"),
    ],
)
def test_bad_flags_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        generate(arguments(tmp_path / "out", **changes, dry_run=True))
    assert not (tmp_path / "out").exists()


def test_data_that_does_not_fit_the_task_is_named(tmp_path: Path) -> None:
    path = posts(tmp_path)
    with pytest.raises(
        ValueError, match=r"--k_shot 10: label 'mild' has only 9 different train texts in --dataset .*give 9 or"
    ):
        generate(arguments(tmp_path / "out", dataset=str(path), k_shot=10, dry_run=True))
    generate(arguments(tmp_path / "out", dataset=str(path), k_shot=9, dry_run=True))
    (tmp_path / "twice.csv").write_text(
        "text,label\n" + "".join(f"A{n % 2} b,mild\na{n} c,severe\n" for n in range(20))
    )
    with pytest.raises(ValueError, match=r"--k_shot 3: label 'mild' has only [12] different train texts"):
        generate(arguments(tmp_path / "out", dataset=str(tmp_path / "twice.csv"), k_shot=3, dry_run=True))
    with pytest.raises(
        ValueError, match=r"has the label 'mild', which --task note-sections does not know; its labels"
    ):
        generate(arguments(tmp_path / "out", dataset=str(path), task="note-sections", dry_run=True))
    with pytest.raises(ValueError, match=r"--k_shot 2: label 'F32.1' has only 0 different train texts"):
        flags: dict[str, Any] = {"task": "icd10-report", "codes": "F32.1", "k_shot": 2, "dry_run": True}
        generate(arguments(tmp_path / "out", dataset=str(path), **flags))
