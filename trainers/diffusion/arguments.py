"""Flags of `train ddpm` and `train autoencoder`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clinsynth.arguments import check_at_least
from clinsynth.trainers.arguments import DescentArguments, FromScratchArguments, check_above_zero, check_shares

LARGEST_EPSILON = 100.0


@dataclass
class DDPMArguments(FromScratchArguments, DescentArguments):
    """Train a class-conditioned DDPM on labelled images.

    Start the same command again to resume. Example:

      clinsynth train ddpm --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom
    """

    presets: ClassVar = {"paper": ("ddpm", "ehealth_paper"), "fast": ("ddpm", "fast"), "best": ("ddpm", "best")}
    essentials: ClassVar[str] = (
        "dataset resolution channels output_dir train_steps width train_batch_size seed init_from dp_epsilon "
        "validation_steps push_to_hub dry_run"
    )

    output_dir: str = "runs/ddpm"
    preset: Literal["paper", "fast", "best"] | None = None
    """settings that flags and --config change: paper, the e-health paper's (recipes/ddpm/ehealth_paper.yaml); fast,
    for minutes to an hour on a CPU (fast.yaml there); best, for hours on a GPU (best.yaml)"""
    learning_rate: float | None = 2e-3  # type: ignore[assignment]  # settled by __post_init__
    """peak learning rate of AdamW; null: 2e-3 up to --width 32, beyond it falling by the width's root (64: 1.4e-3,
    128: 1e-3), as the presets fast and best have it"""
    adam_beta2: float = 0.99
    """memory of AdamW's mean square of the gradient"""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "cosine"
    """course of the learning rate over the steps"""
    train_steps: int = 5_000
    """optimizer steps; at 32 pixels one takes about half a second on one CPU core"""
    seed: int = 0
    """of the weights' start, the order of images and all noise (with --dp_epsilon of the start alone: the rest must
    not be known, so a resumed run is valid but not the same to the last bit)"""
    init_from: str | None = None
    """checkpoint of `train ddpm`, a folder or Hub id, to start from instead of from nothing, for sets of few images:
    weights of equal shape and classes of equal name are taken from it. --dp_epsilon does not cover its images"""
    backbone: Literal["unet2d", "context_unet"] = "unet2d"
    """unet2d: diffusers' UNet2DModel; context_unet: the e-health paper's network, 28 to 64 px"""
    latent: str | None = None
    """train on the latents of this autoencoder instead of on pixels, for 128 pixels and more: the --output_dir of
    `train autoencoder`, or any AutoencoderKL of diffusers, a folder or Hub id; it becomes part of the checkpoint"""
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
    channels_last: bool | None = None
    """keep the channels of a pixel together in memory, which tensor cores want; null: on a GPU"""
    num_train_timesteps: int = 1000
    """T, the noise levels (the paper: 400)"""
    noise_levels: Literal["uniform", "lognormal"] = "lognormal"
    """how often each is trained: lognormal, most where images take shape (EDM, Karras et al. 2022), or all alike (the
    paper)"""
    standardise: bool = True
    """bring each channel to mean 0 and deviation 1 for the network, as EDM does (the paper: not)"""
    patch_size: int | None = None
    """side of the squares of pixels that the network sees as channels of one; null: 2 for images of 32 pixels or more
    with --backbone unet2d and a --width of 32 or more, where a step takes less than half the time and images at equal
    time come nearer to real ones; else 1, since a narrower network leaves noise within the squares"""
    beta_schedule: Literal["linear", "cosine", "zero_snr"] = "linear"
    """linear: 1e-4 to 0.02 (the paper's); cosine: Nichol & Dhariwal 2021; zero_snr: linear, rescaled to end in pure
    noise (Lin et al. 2024), which needs v_prediction"""
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    """what the network predicts: the noise (the paper's) or the velocity (Salimans & Ho 2022)"""
    min_snr_gamma: float | None = None
    """gamma of the min-SNR loss weights (Hang et al. 2023), usually 5; null weights all noise levels alike, as the
    paper does: with v_prediction min-SNR nearly leaves out the noisiest levels, where brightness is decided"""
    class_dropout: float = 0.1
    """share of labels replaced by the null class, which guidance needs"""
    guide_at: float = 0.0
    """share of --train_steps after which the averaged weights of then are kept beside the last ones, as the guide of
    `generate images --guidance auto` (Karras et al. 2024); 0.1 is a good start, 0: none. It doubles the checkpoint"""
    augment: float = 0.0
    """for sets of few images: probability of each of mirroring, turning, zooming and shifting an image, where the
    network is told how it was moved and draws unmoved ones (EDM's augmentation); 0.12 is usual"""
    dropout: float = 0.0
    """share of the network's features that a training step leaves out, against learning by heart; 0.1 is usual"""
    dp_epsilon: float | None = None
    """train with differential privacy (DP-SGD; needs clinsynth[privacy]) within this epsilon, 8 is usual and 1 strict;
    the spent epsilon and what it covers go to privacy.json. It costs quality: use large batches and many images"""
    dp_delta: float | None = None
    """delta of the guarantee, at most 1/n for n training images; default: n^-1.1"""
    dp_max_grad_norm: float = 1.0
    """with --dp_epsilon, each image's gradient is clipped to this norm"""

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            self.learning_rate = 2e-3 * min(1.0, (32 / max(self.width, 1)) ** 0.5)
        super().__post_init__()
        check_above_zero(self, "width gradient_accumulation_steps num_train_timesteps dp_max_grad_norm".split())
        if self.patch_size is not None:
            check_above_zero(self, ["patch_size"])
        check_at_least(self, 0, ["weight_decay"])
        check_shares(self, ["class_dropout", "guide_at", "augment", "dropout"])
        for name in ("augment", "dropout"):
            if getattr(self, name) and self.backbone == "context_unet":
                raise ValueError(f"--{name} {getattr(self, name)} is for --backbone unet2d; leave it out")
        if self.latent and self.augment:
            raise ValueError(f"--augment {self.augment} moves pixels, and --latent has none; leave one out")
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
        if self.latent:
            raise ValueError(
                "--latent cannot be used with --dp_epsilon: the autoencoder has seen images without noise; drop it"
            )
        if self.augment:
            raise ValueError("--augment cannot be used with --dp_epsilon, whose clipping does not know it; drop it")
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


@dataclass
class AutoencoderArguments(DescentArguments):
    """Train a small autoencoder of images, on whose latents `train ddpm --latent` then trains.

    Start the same command again to resume. Example:

      clinsynth train autoencoder --dataset ham10000 --fit squash --resolution 256 --output_dir runs/derm-autoencoder
    """

    essentials: ClassVar[str] = (
        "dataset resolution channels fit output_dir train_steps width factor latent_channels train_batch_size seed "
        "dry_run"
    )

    output_dir: str = "runs/autoencoder"
    """run folder; afterwards itself an autoencoder that AutoencoderKL.from_pretrained loads"""
    train_batch_size: int = 16
    """images a step and process; the global batch is this x processes x accumulation steps"""
    dry_run: bool = False
    """print the resolved settings, the data and the network's size, and stop"""
    width: int = 32
    """channels at full resolution, a multiple of 8: the dial of the network's size"""
    factor: Literal[2, 4, 8] = 8
    """pixels a side that become one latent"""
    latent_channels: int = 4
    """numbers of a latent"""
    kl_weight: float = 1e-3
    """weight of the divergence that keeps latents near white noise, beside the mean absolute error"""
    gradient_accumulation_steps: int = 1
    """parts that a global batch is computed in, to save memory"""
    horizontal_flip: bool = False
    """mirror left to right at random: only where a mirrored picture is still a true one (laterality!)"""
    vertical_flip: bool = False
    """mirror top to bottom at random"""
    validation_steps: int = 1000
    """steps between two looks at validation images before and after (samples/, validation_psnr); 0: none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, ["width", "latent_channels", "gradient_accumulation_steps"])
        check_at_least(self, 0, ["kl_weight", "validation_steps"])
        if self.width % 8:
            raise ValueError(f"--width must be a multiple of 8, got {self.width}")
        if self.latent_channels > self.factor**2:
            raise ValueError(
                f"--latent_channels must be at most {self.factor**2} with --factor {self.factor}, got "
                f"{self.latent_channels}: more numbers than pixels save nothing"
            )
