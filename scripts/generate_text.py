"""Turn a language model into a synthetic data set of labelled texts, each a JSON object of the task's schema.

    clinsynth generate text --model … --task icd10-report --codes F32.1,F41.1,F20.0 --per_class 50 \\
        --output_dir runs/reports
    clinsynth generate text --endpoint http://127.0.0.1:8000/v1 --model NAME --task severity-posts --per_class 200 \\
        --output_dir runs/remote
    accelerate launch scripts/generate_text.py --model … --task severity-posts --counts severe=100 \\
        --output_dir runs/severe
    clinsynth generate text --model … --task severity-posts --per_class 5000 --engine ray --address auto \\
        --output_dir runs/many

The folder --output_dir then loads with `datasets.load_dataset(folder)`: rows of text, label, seed and more.
A run that was stopped goes on when the same command is started again; finished shards are kept.

Each text has --max_attempts attempts to fit its schema; one that fits and that a filter refuses (a near-duplicate, a
copy, another label) is drawn anew with another seed. Whole texts go to drawn-N.jsonl at once, and from there into the
Parquet shard N when it is full.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from clinsynth.arguments import check_at_least, run
from clinsynth.data.arguments import TextDataArguments
from clinsynth.models.writers import WriterArguments, check_real_texts, is_loopback
from clinsynth.run_folder import check_same_run, create_run_folder, write_run_config
from clinsynth.synthesis.arguments import PARTS, TextFilterArguments, WorkersArguments, check_amounts

if TYPE_CHECKING:
    import torch

    from clinsynth.models.writers import Write
    from clinsynth.synthesis.plan import Prompts
    from clinsynth.synthesis.text_filters import SeenTexts
    from clinsynth.synthesis.text_shards import Ask, TextShards

MAY_DIFFER = frozenset(
    "output_dir batch_size dry_run endpoint concurrency timeout_s send_real_texts engine address workers".split()
)


@dataclass
class GenerateTextArguments(TextDataArguments, WriterArguments, TextFilterArguments, WorkersArguments):
    """Turn a language model into a synthetic data set of labelled texts.

    Say how many texts with one of --per_class, --counts and --balance_to. Start the same command again to resume.
    Example:

      clinsynth generate text --model HuggingFaceTB/SmolLM2-135M-Instruct --task severity-posts --per_class 200 --dataset posts.csv --k_shot 4 --output_dir runs/posts
    """  # noqa: E501

    essentials: ClassVar[str] = (
        "model task output_dir per_class counts balance_to dataset k_shot reject_copies codes "
        "endpoint send_real_texts temperature seed dry_run"
    )

    dataset: str = ""
    """real data set, whose train split gives the examples of --k_shot and what --balance_to counts; else not needed"""
    send_real_texts: bool = False
    """allow that the examples of --k_shot, which are real texts, go to an --endpoint that is not this machine"""
    task: str = ""
    """severity-posts, icd10-report, note-sections, counselling-questions, or the path of a .yaml file like theirs"""
    codes: str | None = None
    """labels of icd10-report, as F32.1,F41.1,…; a block (F30-F39) or a letter stands for all below it; default: F"""
    output_dir: str = "runs/texts"
    """folder of the synthetic data set"""
    per_class: int | None = None
    """texts of every label"""
    counts: str | None = None
    """texts of some labels, LABEL=N,LABEL=N"""
    balance_to: int | None = None
    """of every label as many texts as the real train split of --dataset lacks to this number"""
    k_shot: int = 0
    """real train texts of the same label in each prompt, others in each row; their ids are kept in the row"""
    prompt_parts: str = ""
    """what prompts say besides, as a,b,…: topics (words that stand in three real train texts of the label or more),
    diverse (of the real texts drawn, the --k_shot most different stand in the prompt), contrast (what tells the label
    from the one that it is most easily taken for), scale (the label's place among all, for labels that have an order);
    what a row's prompt was made of is kept in its column prompt_choices, which no push publishes"""
    seed: int = 0
    """text i has its own seed derived from this one and i, kept in its row"""
    shard_size: int = 100
    """rows of a Parquet file; a killed run loses the batches at hand, not the file"""
    dry_run: bool = False
    """print what would be generated, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task:
            raise ValueError("--task is missing; give severity-posts, icd10-report, note-sections, … or a .yaml file")
        WriterArguments.__post_init__(self)
        WorkersArguments.__post_init__(self)
        if self.engine == "ray" and self.backend == "vllm":
            raise ValueError(
                "--backend vllm takes a whole GPU here too, not in the workers alone; with --engine ray start vLLM's "
                "own server and give --endpoint"
            )
        check_amounts(self)
        check_at_least(self, 0, ["k_shot"])
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown:
            raise ValueError(f"--prompt_parts must be among {', '.join(PARTS)}, got {unknown[0]!r}")
        if "topics" in self.parts and not self.dataset:
            raise ValueError("--prompt_parts topics needs --dataset, the real texts whose words they are; name it")
        if "diverse" in self.parts and self.k_shot < 2:
            raise ValueError(f"--prompt_parts diverse chooses examples; give --k_shot 2 or more, got {self.k_shot}")
        if self.reject_copies is None:
            self.reject_copies = self.k_shot > 0 and self.near_duplicate > 0
        for name in ("k_shot", "reject_copies", "keep_if_label"):
            if getattr(self, name) and not self.dataset:
                raise ValueError(f"--{name} {getattr(self, name)} needs --dataset, the real texts; name it")
        TextFilterArguments.__post_init__(self)
        if self.endpoint and "topics" in self.parts and not self.send_real_texts and not is_loopback(self.endpoint):
            raise ValueError(
                f"--prompt_parts topics sends words of real texts to --endpoint {self.endpoint}, which is not this "
                "machine; if their owners and licence allow that, say --send_real_texts true, else leave topics out"
            )
        if self.endpoint is not None:
            check_real_texts(self.endpoint, self.k_shot, self.send_real_texts)

    @property
    def at_once(self) -> int:
        """Texts that are asked for together."""
        return self.concurrency if self.endpoint else self.batch_size

    @property
    def parts(self) -> list[str]:
        """What --prompt_parts names."""
        return [part.strip() for part in self.prompt_parts.split(",")] if self.prompt_parts else []


def main(args: GenerateTextArguments) -> None:
    """Generate the data set into `args.output_dir`."""
    import json

    import torch
    from accelerate import PartialState

    from clinsynth.judges.text_audit import AuditArguments, load_judges
    from clinsynth.reports.audit import audit_set
    from clinsynth.run_folder import atomic_write
    from clinsynth.synthesis.plan import describe_counts
    from clinsynth.synthesis.ray_shards import write_on_ray
    from clinsynth.synthesis.text_shards import settle_shards, write_text_shards

    state = PartialState(cpu=not torch.accelerator.is_available())  # else several CPU processes go unseen
    asked = ask_for(args)
    planned = describe_counts(asked.labels, asked.id2label, "texts")
    if args.dry_run:
        print(planned)
        return
    # before the texts are written: a guard that cannot be loaded is no news for hours later
    categories, judges = load_judges(AuditArguments(args.audit_rules, args.audit_guard))
    output_dir = create_run_folder(args.output_dir)
    check_same_run(output_dir, args, MAY_DIFFER)
    plan, facts, writing = prepare(args, asked, state.device)
    plan = replace(plan, num_processes=state.num_processes)
    if state.is_main_process:
        plan.begin(facts)
        write_run_config(output_dir, args)
        task = asked.prompts.task
        atomic_write(output_dir / "task.json", json.dumps(task.to_dict(), indent=2, ensure_ascii=False) + "\n")
        kept_apart = "; a text that is near a real one is drawn anew" if args.reject_copies else ""
        print(f"generating {planned}{kept_apart}")
    state.wait_for_everyone()
    if args.engine == "ray":
        write_on_ray(plan, args, writer_of_shards)
    else:
        write_text_shards(plan, *writing, state.process_index, args.at_once)
    state.wait_for_everyone()
    if state.is_main_process:
        settle_shards(plan, *writing)
        print(plan.finish(facts))
        if args.audit != "off":
            print(audit_set(output_dir, output_dir, categories, judges, show_texts=None))


class Asked(NamedTuple):
    """What is asked for: the label's number of each text, all labels, how each is prompted, and the real train texts
    with their labels' numbers."""

    labels: list[int]
    id2label: dict[int, str]
    prompts: "Prompts"
    real: list[str]
    real_labels: list[int]

    @property
    def names(self) -> list[str]:
        """The labels that some text has."""
        return [self.id2label[label] for label in sorted(set(self.labels))]


def ask_for(args: GenerateTextArguments) -> Asked:
    """What the flags ask for."""
    import numpy as np

    from clinsynth.data.tasks import load_task
    from clinsynth.data.texts import load_text_dataset
    from clinsynth.synthesis.plan import (
        Prompts,
        examples_by_label,
        find_label,
        name_labels,
        number_labels,
        plan_labels,
        texts_of,
    )
    from clinsynth.synthesis.prompt_parts import load_parts

    task = load_task(args.task, args.codes)
    train = load_text_dataset(args, args.seed)["train"] if args.dataset else None
    names = name_labels(task, args.task, train if args.codes is None else None, args.dataset)
    id2label = dict(enumerate(names))
    labels = plan_labels(args, id2label, partial(find_label, names), partial(number_labels, train, names), "texts")
    asked = [names[label] for label in sorted(set(labels))]
    texts, numbers = texts_of(train, names)
    pools = examples_by_label(asked, train, args.k_shot, args.dataset)
    parts = load_parts(args.parts, names, texts, np.array(numbers), pools) if args.parts else None
    return Asked(labels, id2label, Prompts(task, names, pools, args.k_shot, parts), texts, numbers)


def prepare(
    args: GenerateTextArguments, asked: Asked, device: "torch.device | str"
) -> "tuple[TextShards, dict[str, Any], tuple[Ask, Write, SeenTexts]]":
    """The plan for one process, what identifies the set, and what writes its shards."""
    from clinsynth.models.language_models import load_writer
    from clinsynth.synthesis.text_filters import load_filter
    from clinsynth.synthesis.text_shards import TextShards

    task, names = asked.prompts.task, list(asked.id2label.values())
    seen, filter_facts = load_filter(args, asked.names, names, asked.real, asked.real_labels, device)
    writer = load_writer(args, task, device)
    plan = TextShards(
        Path(args.output_dir),
        asked.labels,
        asked.id2label,
        args.seed,
        args.shard_size,
        columns=tuple(task.schema["properties"]),
        choices=asked.prompts.choices if args.parts else None,
        thinks=args.thinking > 0,
    )
    facts = {"model": args.model} | writer.facts | asked.prompts.facts | args.sampling | filter_facts
    return plan, facts | {"seed": args.seed}, (asked.prompts, writer.write, seen)


def writer_of_shards(args: GenerateTextArguments) -> "Callable[[int], None]":
    """What writes one shard, in a worker of Ray."""
    from clinsynth.models.weights import best_device
    from clinsynth.synthesis.text_shards import write_text_shards

    plan, _, writing = prepare(args, ask_for(args), best_device())
    each = replace(plan, num_processes=plan.num_shards)  # so that a process has one shard
    return lambda shard: write_text_shards(each, *writing, shard, args.at_once)


if __name__ == "__main__":
    run(GenerateTextArguments, main)
