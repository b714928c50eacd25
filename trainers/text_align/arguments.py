"""The flags of a language model's alignment; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clinsynth.arguments import check_at_least
from clinsynth.data.arguments import TextDataArguments
from clinsynth.judges.text_audit import AuditArguments
from clinsynth.models.weights import MINILM
from clinsynth.trainers.text_lora.arguments import AdapterArguments


@dataclass
class TextAlignArguments(TextDataArguments, AdapterArguments, AuditArguments):
    """Teach a language model (LoRA) to prefer texts that are like real ones of their label and that harm nobody.

    It sees generated texts alone; real ones only score them. Start the same command again to resume. Example:

      clinsynth train text-align --model runs/lora --task severity-posts --dataset posts.csv --synthetic runs/lora-texts --output_dir runs/aligned
    """  # noqa: E501

    essentials: ClassVar[str] = (
        "model task dataset synthetic output_dir method harm_weight guard epochs batch_size seed dry_run"
    )

    dry_run: bool = False
    """print the resolved settings and what the pairs are, and stop"""
    model: str = ""
    """folder or Hub id of the causal language model that wrote --synthetic, or another, or a .gguf file"""
    task: str = ""
    """the task of --synthetic"""
    codes: str | None = None
    """labels of a task of ICD-10 codes, as for `generate text`"""
    synthetic: str = ""
    """folder of a set that `clinsynth generate text` wrote, whose texts are paired; generate it with --audit flag, so
    that it still holds what is to be unlearned"""
    output_dir: str = "runs/text-align"
    """run folder; afterwards itself a model that transformers loads, with the adapter alone in adapter/"""
    method: Literal["dpo", "kto"] = "dpo"
    """dpo (pairs of a better and a worse text of a label; Rafailov et al. 2023) or kto (each text good or bad;
    Ethayarajh et al. 2024)"""
    beta: float = 0.1
    """how strongly the model is held to what it was"""
    harm_weight: float = 0.5
    """share of the audit in a text's score, in [0, 1]; the rest is authenticity. 0 looks at tone
    alone, 1 at harm alone"""
    least_gap: float = 0.1
    """least difference of scores, in [0, 1], of a pair"""
    encoder: str = MINILM
    """folder or Hub id of the encoder by which authenticity is measured"""
    epochs: int = 1
    """passes over the pairs"""
    learning_rate: float = 5e-5
    """peak learning rate of AdamW"""
    batch_size: int = 4
    """pairs (kto: texts, 2 or more) a step and process"""
    checkpointing_steps: int = 10
    """steps between two checkpoints: what a killed run loses at most"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """arithmetic of the network, and how its weights are saved"""
    seed: int = 0
    """of prompts, order and the adapters' start"""

    def __post_init__(self) -> None:
        TextDataArguments.__post_init__(self)
        AdapterArguments.__post_init__(self)
        AuditArguments.__post_init__(self)
        for name, hint in (
            ("model", "a folder, a Hub id or a .gguf file of a language model"),
            ("task", "that of --synthetic"),
            ("dataset", "the real texts, which score the generated ones"),
            ("synthetic", "a folder that `clinsynth generate text` wrote"),
        ):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing; give {hint}")
        check_at_least(self, 1, ["epochs", "batch_size", "checkpointing_steps"])
        check_at_least(self, 0, ["seed"])
        for name in ("harm_weight", "least_gap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must be in [0, 1], got {getattr(self, name)}")
        if self.beta <= 0 or not 0 < self.learning_rate < 1:
            raise ValueError(
                f"--beta must be above 0 and --learning_rate in (0, 1), got {self.beta}, {self.learning_rate}"
            )
        if self.method == "kto" and self.batch_size < 2:
            raise ValueError(
                f"--method kto compares texts of a batch; --batch_size must be at least 2, got {self.batch_size}"
            )
