"""Flags of `train text-to-image-lora`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clinsynth.arguments import check_at_least
from clinsynth.trainers.arguments import DescentArguments, check_above_zero, check_shares


@dataclass
class TextToImageLoraArguments(DescentArguments):
    """Fine-tune a text-to-image model (LoRA) on labelled pictures, each class behind a prompt.

    --resolution is what the model draws, by default the base's own; smaller pictures are enlarged, grey ones made
    colour. Start the same command again to resume. Example:

      clinsynth train text-to-image-lora --model stable-diffusion-v1-5/stable-diffusion-v1-5 --dataset ham10000 --fit squash --prompt_template "a dermatoscopic picture of {label}" --output_dir runs/derm-lora
    """  # noqa: E501

    essentials: ClassVar[str] = (
        "model dataset output_dir prompt_template fit resolution train_steps train_batch_size rank learning_rate "
        "seed dry_run"
    )

    output_dir: str = "runs/text-to-image-lora"
    """run folder; afterwards holds pytorch_lora_weights.safetensors, learned_embeds.safetensors, text_to_image.json"""
    train_steps: int = 3_000
    """optimizer steps of the LoRA"""
    dry_run: bool = False
    """print the resolved settings, the prompts, the data and the LoRA's size, and stop"""
    model: str = ""
    """base model: folder or Hub id of Stable Diffusion 1.5, 2.1, XL or their kin, with safetensors"""
    revision: str | None = None
    """commit, branch or tag of --model on the Hub; the commit that was taken is kept in text_to_image.json"""
    prompt_template: str = "a picture of {label}"
    """prompt of each class; {label} stands for its name, or with --textual_inversion_steps for its learned word"""
    prompts: str | None = None
    """other prompts for some classes: LABEL=PROMPT,LABEL=PROMPT, or a YAML file of LABEL: PROMPT"""
    textual_inversion_steps: int = 0
    """steps in which a word for each class is learned before the LoRA (MAGIC: 500); 0: no learned words"""
    textual_inversion_learning_rate: float = 5e-4
    """peak learning rate of the words"""
    rank: int = 32
    """rank of the LoRA: the dial of how much it can learn"""
    target_modules: str = "to_q,to_k,to_v,to_out.0"
    """layers of the U-Net to adapt: the ends of their names"""
    train_batch_size: int = 8
    """pictures a step and process; the global batch is this x processes x accumulation steps"""
    gradient_accumulation_steps: int = 1
    """parts that a global batch is computed in, to save memory"""
    gradient_checkpointing: bool = False
    """compute activations twice instead of keeping them: less memory, a quarter slower"""
    learning_rate: float = 1e-4
    """peak learning rate of AdamW (MAGIC: 5e-6)"""
    weight_decay: float = 0.0
    """AdamW weight decay"""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """auto: bf16 where the device computes in it natively, else no; what is trained stays float32"""
    min_snr_gamma: float | None = None
    """gamma of the min-SNR loss weights (Hang et al. 2023), usually 5; null weights all noise levels alike"""
    class_dropout: float = 0.1
    """share of prompts replaced by the empty one, which guidance needs"""
    class_balanced: bool = False
    """draw every class equally often"""
    horizontal_flip: bool = False
    """take each picture mirrored left to right too: only where that is still a true one (laterality!)"""
    vertical_flip: bool = False
    """take each picture mirrored top to bottom too"""
    guidance_scale: float = 5.0
    """guidance of the pictures in samples/, and of `generate images` unless told otherwise; 1 is without"""
    seed: int = 0
    """of the LoRA's start, the order of pictures and all noise"""
    checkpointing_steps: int = 250
    validation_steps: int = 500
    """steps between two validations: a picture grid in samples/ and the loss on validation pictures; 0: none"""
    validation_pictures: int = 4
    """pictures of each class in the grid"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError("--model is missing; give a folder or Hub id of Stable Diffusion 1.5, 2.1 or XL")
        if self.channels == 1:
            raise ValueError("--channels 1: text-to-image models draw colour, grey images become it; leave it out")
        check_above_zero(
            self, "rank gradient_accumulation_steps textual_inversion_learning_rate validation_pictures".split()
        )
        check_at_least(self, 0, ["validation_steps", "weight_decay", "textual_inversion_steps"])
        check_shares(self, ["class_dropout"])
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise ValueError(f"--min_snr_gamma must be above 0, got {self.min_snr_gamma}; 5 is usual")
        if not self.guidance_scale >= 1:
            raise ValueError(f"--guidance_scale must be at least 1, got {self.guidance_scale}; 1 is without guidance")
