"""Small real models and sets that the tests of judges use."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from helpers import WITHOUT_CLINSYNTH, run_warm
from PIL import Image
from text_models import tiny_tokenizer

from clinsynth.scripts.judge import JudgeImagesArguments
from clinsynth.synthesis.image_shards import ImageShards, write_image_shards

GRADES = [f"grade {number}" for number in range(5)]
SEEING_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def image_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def save_tiny_vlm(folder: Path, context: int = 4096, chat: bool = True) -> Path:
    """An untrained Llava of one layer with its processor."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=image_token)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor(),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=SEEING_TEMPLATE if chat else None,
    ).save_pretrained(folder)
    return folder


def save_tiny_clip(folder: Path, context: int = 512, kind: str = "CLIP") -> Path:
    """An untrained CLIP (or SigLIP) with its image processor and tokenizer."""
    import transformers

    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.model_max_length = context
    torch.manual_seed(0)
    sizes = {name: VISION[name] for name in list(VISION)[:4]}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": context,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    own = {"projection_dim": 16} if kind == "CLIP" else {}
    config = getattr(transformers, f"{kind if kind == 'CLIP' else 'Siglip'}Config")(
        text_config={**sizes, **text}, vision_config=VISION, **own
    )
    model = getattr(transformers, f"{kind if kind == 'CLIP' else 'Siglip'}Model")(config)
    for part in model.parameters():  # an untrained one sees hardly any difference between texts
        torch.nn.init.normal_(part, std=0.2)
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def answers_without_clinsynth(folder: Path) -> dict[str, Any]:
    """What the judge saved as `judge` in `folder` says of `eye.png` there, of grade 2, by transformers alone."""
    script = (
        f"{WITHOUT_CLINSYNTH}import json\n"
        "from transformers import pipeline\nfrom PIL import Image\n"
        f"judge = pipeline('checklist-judge', model={str(folder / 'judge')!r}, trust_remote_code=True)\n"
        f"print(json.dumps(judge({{'image': Image.open({str(folder / 'eye.png')!r}), 'condition': 'grade 2'}})))\n"
    )
    printed = run_warm("-c", script, HF_HOME=str(folder / "home")).stdout
    answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return answer


def save_checklist(path: Path, **changes: Any) -> Path:
    """Two items for each of the conditions grade 0 to 4."""
    items = [
        {"id": "disc", "aspect": "location", "question": "Is there a disc?", "criterion": "One.", **changes},
        {"id": "red", "aspect": "colour", "question": "Is it red?", "criterion": "Not brown."},
    ]
    values = {
        "name": "small",
        "version": 3,
        "title": "Small",
        "modality": "picture",
        "source": "a book",
        "conditions": dict.fromkeys(GRADES, items),
    }
    path.write_text(yaml.safe_dump(values))
    return path


def save_synthetic(folder: Path, per_class: int = 4, side: int = 32) -> Path:
    """A set of noise as `clinsynth generate images` writes one."""
    labels = [grade for grade in range(len(GRADES)) for _ in range(per_class)]
    plan = ImageShards(folder, labels, dict(enumerate(GRADES)), seed=0, shard_size=50)
    folder.mkdir()
    plan.begin({"model": "noise", "seed": 0})

    def sample(wanted: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        made = [np.random.default_rng(seed).integers(0, 256, (3, side, side)) for seed in seeds]
        return np.stack(made).astype(np.uint8), np.ones(len(wanted), dtype=bool)

    write_image_shards(plan, sample, batch_size=16)
    plan.finish({"model": "noise", "seed": 0})
    return folder


def pictures(count: int, side: int = 32) -> list[Image.Image]:
    """Noise."""
    made = [np.random.default_rng(number).integers(0, 256, (side, side, 3)) for number in range(count)]
    return [Image.fromarray(pixels.astype(np.uint8)) for pixels in made]


def arguments(folder: Path, **changes: Any) -> JudgeImagesArguments:
    """Of a judge of the checklist small and the set synthetic in `folder`, which are made where they are not there."""
    checklist, images = folder / "small.yaml", folder / "synthetic"
    if not checklist.exists():
        save_checklist(checklist)
    if not images.exists():
        save_synthetic(images)
    settings = {"checklist": str(checklist), "images": str(images), "output_dir": str(folder / "judged")}
    return JudgeImagesArguments(**{**settings, "shard_size": 5, **changes})
