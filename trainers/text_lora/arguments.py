"""The flags of a language model's LoRA; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clinsynth.arguments import check_at_least
from clinsynth.data.arguments import TextDataArguments
from clinsynth.trainers.arguments import check_shares


@dataclass
class AdapterArguments:
    """Low-rank adapters of a language model."""

    lora_rank: int = 16
    """rank of the adapters: the dial of how much they can learn"""
    lora_alpha: int = 32
    """the adapters' share is scaled by this over the rank"""
    lora_dropout: float = 0.05
    """share of the adapters' inputs left out at random"""
    target_modules: str = "all-linear"
    """layers to adapt: all-linear (all but the head), or the ends of their names, as q_proj,v_proj"""

    def __post_init__(self) -> None:
        check_at_least(self, 1, ["lora_rank", "lora_alpha"])
        check_shares(self, ["lora_dropout"])


@dataclass
class TextLoraArguments(TextDataArguments, AdapterArguments):
    """Fine-tune a language model (LoRA) to write texts of each label of a task.

    It memorises some of its training texts: check what it writes with `clinsynth evaluate text`, and keep the folder
    as confidential as the texts. Start the same command again to resume. Example:

      clinsynth train text-lora --model HuggingFaceTB/SmolLM2-135M-Instruct --task severity-posts --dataset posts.csv --output_dir runs/lora
    """  # noqa: E501

    essentials: ClassVar[str] = (
        "model dataset task output_dir codes text_column epochs train_steps batch_size lora_rank seed dry_run"
    )

    dry_run: bool = False
    """print the resolved settings and the examples' numbers, and stop"""
    model: str = ""
    """folder or Hub id of a causal language model, or a .gguf file; with or without a chat template"""
    task: str = ""
    """a task whose texts have the one field "text": severity-posts, note-sections, counselling-questions, or the path
    of a .yaml file like theirs; give `generate text` the same one"""
    codes: str | None = None
    """labels of a task of ICD-10 codes, as F32.1,F41.1,…; a block (F30-F39) or a letter stands for all below it"""
    output_dir: str = "runs/text-lora"
    """run folder; afterwards itself a model that transformers loads, with the adapter alone in adapter/"""
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

    def __post_init__(self) -> None:
        TextDataArguments.__post_init__(self)
        AdapterArguments.__post_init__(self)
        for name, hint in (
            ("model", "a folder, a Hub id or a .gguf file of a language model"),
            ("task", "severity-posts, note-sections, … or a .yaml file"),
            ("dataset", "the real texts"),
        ):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing; give {hint}")
        counts = "epochs train_steps batch_size gradient_accumulation max_length".split()
        check_at_least(self, 1, [*counts, "checkpointing_steps"])
        check_at_least(self, 0, ["canaries", "seed"])
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"--learning_rate must be in (0, 1), got {self.learning_rate}; 2e-4 is usual")
