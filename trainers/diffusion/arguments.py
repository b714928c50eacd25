"""The flags of diffusion models; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import Literal

from clinsynth.arguments import check_at_least
from clinsynth.trainers.arguments import DescentArguments, FromScratchArguments, check_above_zero, check_shares

LARGEST_EPSILON = 100.0


@dataclass
class DDPMArguments(FromScratchArguments, DescentArguments):
    """Train a class-conditioned DDPM on labelled images.

    Start the same command again to resume. Example:

      clinsynth train ddpm --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom
    """

    output_dir: str = "runs/ddpm"
    train_steps: int = 5_000
    """optimizer steps; at 32 pixels one takes about a second on one CPU core"""
    seed: int = 0
    """of the weights' start, the order of images and all noise (with --dp_epsilon of the start alone: the rest must
    not be known, so a resumed run is valid but not the same to the last bit)"""
    backbone: Literal["unet2d", "context_unet"] = "unet2d"
    """unet2d: diffusers' UNet2DModel; context_unet: the e-health paper's network, 28 to 64 px"""
    width: int = 32
    """channels at full resolution, a multiple of 8: the dial of the network's size (the paper's ContextUnet: 128)"""
    gradient_accumulation_steps: int = 1
    """parts that a global batch is computed in, to save memory"""
    weight_decay: float = 0.0
    """AdamW weight decay"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm; with --dp_epsilon --dp_max_grad_norm takes its place"""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """auto: bf16 where the device computes in it natively, else no; with --dp_epsilon no"""
    compile: bool = False
    """torch.compile the network: slow to start, then faster on a GPU"""
    num_train_timesteps: int = 1000
    """T, the noise levels (the paper: 400)"""
    beta_schedule: Literal["linear", "cosine", "zero_snr"] = "cosine"
    """linear: 1e-4 to 0.02 (the paper's); cosine: Nichol & Dhariwal 2021; zero_snr: linear, rescaled to end in pure
    noise (Lin et al. 2024), which needs v_prediction"""
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    """what the network predicts: the noise (the paper's) or the velocity (Salimans & Ho 2022)"""
    min_snr_gamma: float | None = None
    """gamma of the min-SNR loss weights (Hang et al. 2023), usually 5; null weights all noise levels alike, as the
    paper does: with v_prediction min-SNR nearly leaves out the noisiest levels, where brightness is decided"""
    class_dropout: float = 0.1
    """share of labels replaced by the null class, which guidance needs"""
    dp_epsilon: float | None = None
    """train with differential privacy (DP-SGD; needs clinsynth[privacy]) within this epsilon, 8 is usual and 1 strict;
    the spent epsilon and what it covers go to privacy.json. It costs quality: use large batches and many images"""
    dp_delta: float | None = None
    """delta of the guarantee, at most 1/n for n training images; default: n^-1.1"""
    dp_max_grad_norm: float = 1.0
    """with --dp_epsilon, each image's gradient is clipped to this norm"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "width gradient_accumulation_steps num_train_timesteps dp_max_grad_norm".split())
        check_at_least(self, 0, ["weight_decay"])
        check_shares(self, ["class_dropout"])
        if self.beta_schedule == "zero_snr" and self.prediction_type == "epsilon":
            raise ValueError(
                "--beta_schedule zero_snr ends in pure noise, from which --prediction_type epsilon cannot recover the "
                "image; use --prediction_type v_prediction"
            )
        if self.width % 8:
            raise ValueError(f"--width must be a multiple of 8, got {self.width}")
        if self.dp_epsilon is not None:
            self.check_private()
        elif self.dp_delta is not None:
            raise ValueError(f"--dp_delta {self.dp_delta} needs --dp_epsilon; 8 is usual, 1 is strict")

    def check_private(self) -> None:
        """Raise a `ValueError` for the first flag that --dp_epsilon cannot be honoured with."""
        if not 0 < (self.dp_epsilon or 0) <= LARGEST_EPSILON:
            raise ValueError(
                f"--dp_epsilon must be in (0, {LARGEST_EPSILON:g}], got {self.dp_epsilon}; 8 is usual, 1 is strict, "
                "more than that guarantees next to nothing"
            )
        if self.dp_delta is not None and not 0 < self.dp_delta < 1:
            raise ValueError(f"--dp_delta must be in (0, 1), got {self.dp_delta}; below 1/n for n training images")
        if self.mixed_precision not in ("auto", "no"):
            raise ValueError(
                f"--mixed_precision must be no with --dp_epsilon, got {self.mixed_precision}: gradients are clipped "
                "image by image in float32"
            )
        if self.compile:
            raise ValueError(
                "--compile cannot be used with --dp_epsilon, whose gradients of each image it loses; drop it"
            )
        if self.class_balanced:
            raise ValueError(
                "--class_balanced cannot be used with --dp_epsilon: images of rare classes would be drawn more often "
                "than the accountant counts; drop it"
            )
        if self.validation_steps:
            raise ValueError(
                f"--validation_steps must be 0 with --dp_epsilon, got {self.validation_steps}: validation compares by "
                "a network trained on the train split without noise, so its choice of the best step would leak; the "
                "last step is the result"
            )
