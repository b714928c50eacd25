"""Fine-tune a language model on labelled real texts, so that it writes such texts when asked as `generate text` asks.

    clinsynth train text-lora --model HuggingFaceTB/SmolLM2-135M-Instruct --task note-sections --dataset mts-dialog \\
        --drop_small_classes --output_dir runs/lora
    torchrun --nproc_per_node 2 trainers/train_text_lora.py --model … --task note-sections --dataset … --output_dir …
    clinsynth generate text --model runs/lora --task note-sections --dataset mts-dialog --per_class 100 \\
        --output_dir runs/lora-texts

Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) learn p(text | label). A training example is the prompt that
`clinsynth generate text` would write for the label, and after it the task's JSON of a real text; the loss is on the
JSON alone. Persona, situation, style and length of a prompt are drawn anew each time and independently of the text, as
they are in generation: they look familiar there, and since they tell nothing of the text, the label is what is left to
learn from. What sets two rows of one label apart afterwards is the sampling and no longer the persona.

A model that is trained on patients' texts memorises some of them, and can give them away word by word, to whoever has
the weights too. Look at what it writes with `clinsynth evaluate text` before anything leaves the house; --canaries
plants sentences whose coming back is measured there. The folder is as confidential as the texts are.

The folder --output_dir then loads with `AutoModelForCausalLM.from_pretrained(folder)`; its adapter/ is the adapter
alone. A run that was stopped goes on when the same command is started again, and ends with the same weights.
"""

from dataclasses import dataclass
from typing import Literal

from clinsynth.arguments import run
from clinsynth.data.arguments import TextDataArguments

MAY_DIFFER = frozenset({"output_dir", "dry_run", "checkpointing_steps"})


@dataclass
class TextLoraArguments(TextDataArguments):
    """Fine-tune a language model (LoRA) to write texts of each label of a task.

    It memorises some of its training texts: check what it writes with `clinsynth evaluate text`, and keep the folder
    as confidential as the texts. Start the same command again to resume. Example:

      clinsynth train text-lora --model HuggingFaceTB/SmolLM2-135M-Instruct --task severity-posts --dataset posts.csv --output_dir runs/lora
    """  # noqa: E501

    model: str = ""
    """folder or Hub id of a causal language model, or a .gguf file; with or without a chat template"""
    task: str = ""
    """a task whose texts have the one field "text": severity-posts, note-sections, counselling-questions, or the path
    of a .yaml file like theirs; give `generate text` the same one"""
    codes: str | None = None
    """labels of a task of ICD-10 codes, as F32.1,F41.1,…; a block (F30-F39) or a letter stands for all below it"""
    output_dir: str = "runs/text-lora"
    """run folder; afterwards itself a model that transformers loads, with the adapter alone in adapter/"""
    lora_rank: int = 16
    """rank of the adapters: the dial of how much they can learn"""
    lora_alpha: int = 32
    """the adapters' share is scaled by this over the rank"""
    lora_dropout: float = 0.05
    """share of the adapters' inputs left out at random"""
    target_modules: str = "all-linear"
    """layers to adapt: all-linear (all but the head), or the ends of their names, as q_proj,v_proj"""
    epochs: int = 3
    """passes over the train texts, each with prompts of its own and a validation loss after it"""
    train_steps: int | None = None
    """optimizer steps, in place of --epochs"""
    class_balanced: bool = False
    """draw every class equally often"""
    learning_rate: float = 2e-4
    """peak learning rate of AdamW; it rises over the first twentieth of the steps and then falls as a cosine"""
    batch_size: int = 8
    """texts a step and process; the global batch is this x processes x accumulation"""
    gradient_accumulation: int = 1
    """parts that a global batch is computed in, to save memory"""
    max_length: int | None = None
    """tokens of prompt and text at most; longer texts lose their ends, and are counted. Default: the model's context,
    and a longer text is an error"""
    canaries: int = 0
    """made-up sentences to append to as many train texts; canaries.json then lists them, to measure whether they come
    back in the synthetic texts"""
    checkpointing_steps: int = 10
    """steps between two checkpoints: what a killed run loses at most"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """arithmetic of the network, and how its weights are saved; the adapters themselves are trained in float32"""
    seed: int = 0
    """of the data's splits, the prompts, the order of texts and the adapters' start"""
    dry_run: bool = False
    """print the resolved settings and the examples' numbers, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, mend in (
            ("model", "a folder, a Hub id or a .gguf file of a language model"),
            ("task", "severity-posts, note-sections, … or a .yaml file"),
            ("dataset", "the real texts"),
        ):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing; give {mend}")
        counts = "lora_rank lora_alpha epochs train_steps batch_size gradient_accumulation max_length".split()
        least = dict.fromkeys([*counts, "checkpointing_steps"], 1)
        for name, lowest in {**least, "canaries": 0, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"--{name} must be at least {lowest}, got {value}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"--learning_rate must be in (0, 1), got {self.learning_rate}; 2e-4 is usual")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"--lora_dropout must be in [0, 1), got {self.lora_dropout}; 0.05 is usual")


def main(args: TextLoraArguments) -> None:
    """Train, and leave the merged model and the adapter in `args.output_dir`."""
    try:
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise ImportError(f"train text-lora needs trl and peft ({error}); pip install clinsynth[text]") from error
    import torch
    from accelerate import PartialState

    from clinsynth.data.tasks import load_task
    from clinsynth.data.texts import load_text_dataset
    from clinsynth.run_folder import config_yaml, create_run_folder
    from clinsynth.trainers.text_lora.examples import build_examples, check_task
    from clinsynth.trainers.text_lora.fit import fit, load_base

    state = PartialState(cpu=not torch.accelerator.is_available())  # else several CPU processes go unseen
    task = load_task(args.task, args.codes)
    splits = load_text_dataset(args, args.seed)
    check_task(args, task, splits["train"].features["label"].names)
    base = load_base(args)
    examples = build_examples(args, task, splits, base, state)
    if args.dry_run:
        print(f"{config_yaml(args)}\n{examples.describe()}")
        return
    fit(args, task, examples, base, create_run_folder(args.output_dir), state)
    if state.is_main_process:
        print(closing_words(args))


def closing_words(args: TextLoraArguments) -> str:
    """How to write texts with the model, and how to look for memorised ones among them."""
    import shlex
    from dataclasses import fields

    data = [
        (f"--{field.name}", ",".join(value) if isinstance(value, list) else str(value))
        for field in fields(TextDataArguments)
        if (value := getattr(args, field.name)) != field.default
    ]
    flags = [word for pair in data for word in pair]
    codes = ["--codes", args.codes] if args.codes else []
    texts = f"{args.output_dir.rstrip('/')}-texts"
    write = ["--model", args.output_dir, "--task", args.task, *codes, *flags, "--per_class", "100"]
    check = ["--real", *flags[1:], "--synthetic", texts]
    return (
        f"fine-tuned model: {args.output_dir}\nwrite texts with it:\n"
        f"  clinsynth generate text {shlex.join([*write, '--output_dir', texts])}\n"
        "and see whether they give train texts away:\n"
        f"  clinsynth evaluate text {shlex.join([*check, '--encoder'])} … --output_dir {shlex.quote(texts)}-evidence"
    )


if __name__ == "__main__":
    run(TextLoraArguments, main)
