"""Load what was pushed with the libraries that others will use; run by `clinsynth push … --verify`, without clinsynth.

python clinsynth/hub/verify.py model "" me/retina-ddpm COMMIT
python clinsynth/hub/verify.py dataset "" me/retina-synthetic COMMIT CONFIGURATION …
"""

import json
import sys
from pathlib import Path
from typing import Any

FIRST_ROWS = 8
LORA = "pytorch_lora_weights.safetensors"


def load_model(repo_id: str, commit: str) -> str:
    """The pipeline of diffusers or transformers that the checkpoint names, or the LoRA of a text-to-image model."""
    from huggingface_hub import HfApi, hf_hub_download

    files = HfApi().list_repo_files(repo_id, revision=commit)
    if "text_to_image.json" in files:
        from diffusers import StableDiffusionPipeline

        weights = StableDiffusionPipeline.lora_state_dict(
            repo_id, revision=commit, weight_name=LORA, use_safetensors=True
        )
        return f"LoRA of {len(weights)} tensors"
    if "model_index.json" in files:
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(
            repo_id, revision=commit, trust_remote_code=True, use_safetensors=True
        )
        return f"{type(pipeline).__name__} of {', '.join(sorted(pipeline.components))}"
    import transformers

    config = json.loads(Path(hf_hub_download(repo_id, "config.json", revision=commit)).read_text())
    if config.get("custom_pipelines"):
        task = next(iter(config["custom_pipelines"]))
        safe = {"use_safetensors": True}
        writer = transformers.pipeline(task, repo_id, revision=commit, trust_remote_code=True, model_kwargs=safe)
        return type(writer).__name__
    model = transformers.AutoModelForCausalLM.from_pretrained(repo_id, revision=commit, use_safetensors=True)
    transformers.AutoTokenizer.from_pretrained(repo_id, revision=commit)
    return type(model).__name__


def load_data(repo_id: str, commit: str, configs: list[str]) -> str:
    """The first rows of each configuration, streamed; each must say that it is synthetic."""
    from datasets import load_dataset

    found = []
    for name in configs or ["default"]:
        data: Any = load_dataset(repo_id, name, split="train", streaming=True, revision=commit)
        rows = list(data.take(FIRST_ROWS))
        if not rows or not all(row["synthetic"] for row in rows):
            raise ValueError(f"configuration {name} has no rows, or rows that do not say that they are synthetic")
        found.append(f"{name} with columns {', '.join(data.features)}")
    return f"streamed {'; '.join(found)}"


def load_space(sdk: str, repo_id: str, commit: str) -> str:
    """A metric, which is a static Space, by `evaluate`; of an app its code is read, not run."""
    if sdk == "static":
        import evaluate

        metric = evaluate.load(repo_id, revision=commit)
        return f"{type(metric).__name__} with inputs {', '.join(metric.features)}"
    import ast

    from huggingface_hub import SpaceCard, hf_hub_download

    file = SpaceCard.load(repo_id).data.app_file
    path = hf_hub_download(repo_id, file, repo_type="space", revision=commit)
    ast.parse(Path(path).read_text(encoding="utf-8"))
    return f"{file} of the Space"


def main(kind: str, sdk: str, repo_id: str, commit: str, *configs: str) -> None:
    """Load, and print what was loaded in one line."""
    if kind == "model":
        print(load_model(repo_id, commit))
    elif kind == "dataset":
        print(load_data(repo_id, commit, list(configs)))
    else:
        print(load_space(sdk, repo_id, commit))


if __name__ == "__main__":
    main(*sys.argv[1:])
