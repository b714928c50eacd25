"""Turn a language model into a synthetic data set of labelled texts, each a JSON object of the task's schema.

    clinsynth generate text --model HuggingFaceTB/SmolLM2-135M-Instruct --task severity-posts --per_class 200 \\
        --dataset posts.csv --k_shot 4 --output_dir runs/posts
    clinsynth generate text --model … --task icd10-report --codes F32.1,F41.1,F20.0 --per_class 50 \\
        --output_dir runs/reports
    clinsynth generate text --endpoint http://127.0.0.1:8000/v1 --model NAME --task severity-posts --per_class 200 \\
        --output_dir runs/remote
    accelerate launch scripts/generate_text.py --model … --task severity-posts --counts severe=100 \\
        --output_dir runs/severe

The folder --output_dir then loads with `datasets.load_dataset(folder)`: rows of text, label, seed and more.
A run that was stopped goes on when the same command is started again; finished shards are kept.
"""

from dataclasses import dataclass
from typing import Any, Literal

from clinsynth.arguments import run
from clinsynth.data.labels import first_of
from clinsynth.data.text_arguments import TextDataArguments
from clinsynth.run_folder import check_same_run, create_run_folder, write_run_config

MAY_DIFFER = frozenset(
    {"output_dir", "batch_size", "dry_run", "endpoint", "concurrency", "timeout_s", "send_real_texts"}
)


@dataclass
class GenerateTextArguments(TextDataArguments):
    """Turn a language model into a synthetic data set of labelled texts.

    Say how many texts with one of --per_class, --counts and --balance_to. Start the same command again to resume.
    Example:

      clinsynth generate text --model HuggingFaceTB/SmolLM2-135M-Instruct --task severity-posts --per_class 200 --dataset posts.csv --k_shot 4 --output_dir runs/posts
    """  # noqa: E501

    dataset: str = ""
    """real data set, whose train split gives the examples of --k_shot and what --balance_to counts; else not needed"""
    model: str = ""
    """folder or Hub id of a causal language model, or a .gguf file; with or without a chat template. With --endpoint:
    the name by which the server knows its model"""
    backend: Literal["transformers", "vllm"] = "transformers"
    """what runs the model here; vllm needs its extra: pip install clinsynth[vllm]"""
    endpoint: str | None = None
    """a server of the OpenAI chat protocol that runs the model instead, as http://127.0.0.1:8000/v1 (vLLM, TGI,
    llama.cpp, an Inference Endpoint); its key is taken from the environment: HF_TOKEN for hosts of Hugging Face, else
    OPENAI_API_KEY"""
    concurrency: int = 8
    """requests that wait at --endpoint at once, in each process"""
    timeout_s: float = 120.0
    """seconds after which a request to --endpoint has failed"""
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
    near_duplicate: float = 0.7
    """draw a text anew, up to ten times, while its likeness (Jaccard, pieces of 5 characters) to one kept is this or
    more; 1 rejects equal texts only, 0 none"""
    near_duplicate_encoder: str | None = None
    """folder or Hub id of an encoder, as sentence-transformers/all-MiniLM-L6-v2, by whose sentence embeddings a text
    is a near-duplicate, too"""
    near_duplicate_cosine: float = 0.9
    """their least cosine similarity"""
    reject_copies: bool = False
    """draw a text anew also while it is that like a train text of --dataset"""
    verify_labels: str | None = None
    """folder of a classifier trained on the real train texts (clinsynth train text-classifier); a text in which it
    reads another label than the one asked for is drawn anew"""
    batch_size: int = 8
    """texts written at once by the model here; which texts come out does not depend on it"""
    temperature: float = 1.0
    """above 1 flattens and below 1 sharpens the model's choice of words; 0 takes the likeliest"""
    top_p: float = 0.95
    """choose among the most likely words that make up this share of probability"""
    max_new_tokens: int | None = None
    """tokens of a text at most, within which it is brought to an end; default: what the schema can need"""
    max_attempts: int = 3
    """attempts at a valid text before its row is given up and counted"""
    seed: int = 0
    """text i has its own seed derived from this one and i, kept in its row"""
    shard_size: int = 100
    """rows of a Parquet file; a killed run loses the batches at hand, not the file"""
    decoding: Literal["llguidance", "lm-format-enforcer", "xgrammar"] = "llguidance"
    """what holds a model here to the schema; lm-format-enforcer is about ten times slower; xgrammar, which needs the
    extra fast, leaves out quotes and line breaks"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """arithmetic of the network here; a server has its own"""
    dry_run: bool = False
    """print what would be generated, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task:
            raise ValueError("--task is missing; give severity-posts, icd10-report, note-sections, … or a .yaml file")
        if not self.model:
            raise ValueError("--model is missing; give a folder, a Hub id or a .gguf file of a language model")
        if sum(option is not None for option in (self.per_class, self.counts, self.balance_to)) != 1:
            raise ValueError("give exactly one of --per_class N, --counts LABEL=N,… and --balance_to N")
        for name in ("balance_to", "k_shot", "reject_copies"):
            if getattr(self, name) and not self.dataset:
                raise ValueError(f"--{name} {getattr(self, name)} needs --dataset, the real texts; name it")
        self.check_ranges()
        if self.endpoint is not None:
            self.check_endpoint(self.endpoint)

    def check_endpoint(self, endpoint: str) -> None:
        """Raise a `ValueError` for an address that is none, flags of a model here, or real texts that would leave."""
        from clinsynth.scripts.text_endpoint_address import check_real_texts, split_address

        split_address(endpoint)
        # lm-format-enforcer was the default before, and stands in the configs of that time
        decoding = ("llguidance", "lm-format-enforcer")
        for name, usual in (("backend", ("transformers",)), ("decoding", decoding), ("dtype", ("float32",))):
            if getattr(self, name) not in usual:
                raise ValueError(
                    f"--{name} {getattr(self, name)} is for a model here, and --endpoint's server runs its own; "
                    f"leave --{name} or --endpoint out"
                )
        check_real_texts(endpoint, self.k_shot, self.send_real_texts)

    def check_ranges(self) -> None:
        """Raise a `ValueError` for a number out of range."""
        least = dict.fromkeys(
            ("per_class", "balance_to", "batch_size", "max_attempts", "max_new_tokens", "shard_size", "concurrency"), 1
        )
        for name, lowest in {**least, "k_shot": 0, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"--{name} must be at least {lowest}, got {value}")
        if not 0 <= self.near_duplicate <= 1:
            raise ValueError(f"--near_duplicate must be in [0, 1], got {self.near_duplicate}; 0 turns it off")
        if not 0 < self.near_duplicate_cosine <= 1:
            raise ValueError(f"--near_duplicate_cosine must be in (0, 1], got {self.near_duplicate_cosine}; give 0.9")
        if self.reject_copies and not self.near_duplicate:
            raise ValueError("--reject_copies true needs --near_duplicate above 0, the likeness of a copy; give 0.7")
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"--timeout_s must be above 0 and finite, got {self.timeout_s}; give 120")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature must be at least 0, got {self.temperature}; 1 leaves the model as it is")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top_p must be above 0 and at most 1, got {self.top_p}; 1 leaves nothing out")


def main(args: GenerateTextArguments) -> None:
    """Generate the data set into `args.output_dir`."""
    import json

    import torch
    from accelerate import PartialState

    from clinsynth.run_folder import atomic_write
    from clinsynth.scripts.text_plan import examples_by_label, label_names, plan_labels
    from clinsynth.scripts.text_shards import TextShardPlan, settle_shards, write_text_shards
    from clinsynth.scripts.text_writer import asker, describe_generator, load_writer
    from clinsynth.tasks import load_task

    state = PartialState(cpu=not torch.accelerator.is_available())  # else several CPU processes go unseen
    task = load_task(args.task, args.codes)
    train = load_train(args)
    names = label_names(args, task, train)
    labels = plan_labels(args, names, train)
    asked = [names[label] for label in sorted(set(labels))]
    examples = examples_by_label(args, asked, train)
    if args.dry_run:
        print(describe_counts(labels, names))
        return
    output_dir = create_run_folder(args.output_dir)
    check_same_run(output_dir, args, MAY_DIFFER)
    seen = load_filter(args, asked, train, state.device)
    write, identity = load_writer(args, task, state.device)
    settings = (labels, dict(enumerate(names)), args.seed, args.shard_size, state.num_processes)
    plan = TextShardPlan(output_dir, *settings, columns=tuple(task.schema["properties"]))
    generator = describe_generator(args, task, examples, identity, seen.read_label)
    if state.is_main_process:
        plan.check_same_generator(generator)
        write_run_config(output_dir, args)
        atomic_write(output_dir / "task.json", json.dumps(task.to_dict(), indent=2, ensure_ascii=False) + "\n")
        print(f"generating {describe_counts(labels, names)}")
        plan.begin(generator)
    state.wait_for_everyone()
    ask = asker(args, task, names, examples)
    write_text_shards(plan, ask, write, seen, state.process_index)
    state.wait_for_everyone()
    if state.is_main_process:
        settle_shards(plan, ask, write, seen)
        plan.finish(generator)
        print(f"synthetic data set: {output_dir}")


def load_train(args: GenerateTextArguments) -> Any:
    """The train split of --dataset, None without one."""
    from clinsynth.data.text import load_text_dataset

    return load_text_dataset(args, args.seed)["train"] if args.dataset else None


def load_filter(args: GenerateTextArguments, names: list[str], train: Any, device: Any) -> Any:
    """What tells which texts are drawn anew."""
    from clinsynth.scripts.text_filter import SeenTexts
    from clinsynth.scripts.text_similar import load_embed
    from clinsynth.scripts.text_verify import LabelCheck

    return SeenTexts(
        args.near_duplicate,
        train["text"][:] if args.reject_copies else [],
        load_embed(args.near_duplicate_encoder) if args.near_duplicate_encoder else None,
        args.near_duplicate_cosine,
        LabelCheck(args.verify_labels, names, device) if args.verify_labels else None,
    )


def describe_counts(labels: list[int], names: list[str]) -> str:
    """`400 texts: mild 100, …`."""
    parts = [f"{name} {labels.count(label)}" for label, name in enumerate(names)]
    return f"{len(labels)} texts: {first_of(parts)}"


if __name__ == "__main__":
    run(GenerateTextArguments, main)
