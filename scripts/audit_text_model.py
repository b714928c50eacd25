"""Attack a language model that was tuned on real texts: does it give them away?

    clinsynth audit text-model --model runs/lora --task severity-posts --dataset posts.csv --output_dir runs/lora-audit

Give the data flags and the seed of the training run. Writes attacks.json: membership inference against the test split
(0.5 is ideal) and extraction by prefix (as often as held-out texts is ideal), with intervals and controls. What a set
written by the model gives away is measured by `clinsynth evaluate text`, canaries' exposure too.
"""

import json
from dataclasses import dataclass
from typing import ClassVar

from clinsynth.arguments import check_at_least, run
from clinsynth.data.arguments import TextDataArguments


@dataclass
class AuditTextModelArguments(TextDataArguments):
    """Attack a language model of `clinsynth train text-lora`: does it give away which texts it was tuned on?

    Give the data flags and the seed of the training run. Example:

      clinsynth audit text-model --model runs/lora --task severity-posts --dataset posts.csv --output_dir runs/lora-audit
    """  # noqa: E501

    essentials: ClassVar[str] = "model task dataset text_column label_column output_dir seed"

    model: str = ""
    """folder or Hub id of the tuned model"""
    task: str = ""
    """the task that it was tuned for"""
    codes: str | None = None
    """labels of a task of ICD-10 codes"""
    output_dir: str = "runs/text-model-audit"
    """where attacks.json goes"""
    prefix: int = 12
    """tokens of a text that the attacker knows"""
    length: int = 20
    """tokens that must follow word by word"""
    max_rows: int = 500
    """texts of each split at most, drawn with the same label mix"""
    seed: int = 0
    """the training run's, for the choice of --few_shot and --train_fraction; also of prompts and halves"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, hint in (("model", "a tuned model"), ("task", "its task"), ("dataset", "the real texts")):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing; name {hint}")
        check_at_least(self, 1, ["prefix", "length", "max_rows"])


def main(args: AuditTextModelArguments) -> None:
    """Attack, write attacks.json, print what came out."""
    from clinsynth.data.tasks import load_task
    from clinsynth.data.texts import load_text_arrays
    from clinsynth.models.language_models import load_causal_model
    from clinsynth.models.weights import best_device
    from clinsynth.run_folder import atomic_write, create_run_folder
    from clinsynth.study.text_attacks import TunedModel, attack_texts
    from clinsynth.trainers.text_lora.examples import Encoder

    data = load_text_arrays(args, args.seed)
    model, tokenizer = load_causal_model(args.model)
    model = model.to(best_device())  # type: ignore[arg-type]
    tuned = TunedModel(model, Encoder(tokenizer, load_task(args.task, args.codes)), args.seed)
    settings = {"prefix": args.prefix, "length": args.length, "seed": args.seed, "max_rows": args.max_rows}
    record = attack_texts(tuned, data["train"], data["test"], **settings)
    path = create_run_folder(args.output_dir) / "attacks.json"
    atomic_write(path, json.dumps({"model": args.model, "dataset": args.dataset} | record, indent=1) + "\n")
    for name in ("membership", "extraction"):
        own = record[name]
        found = own.get("note") if own["value"] is None else f"{own['value']:.3f}, interval {own['interval']}"
        print(f"{name}: {found}")
    print(f"record: {path}")


if __name__ == "__main__":
    run(AuditTextModelArguments, main)
