"""Flags of `train gan`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clinsynth.arguments import check_at_least
from clinsynth.trainers.arguments import FromScratchArguments, check_above_zero, check_shares

# What each loss was published with: learning rate, Adam's betas, discriminator updates for one of the generator.
# dcgan: Radford et al. 2016; wgan_gp: Gulrajani et al. 2017, algorithm 1; hinge: Miyato et al. 2018, table 1, row C.
PUBLISHED = {
    "dcgan": {"learning_rate": 2e-4, "beta1": 0.5, "beta2": 0.999, "n_critic": 1},
    "wgan_gp": {"learning_rate": 1e-4, "beta1": 0.0, "beta2": 0.9, "n_critic": 5},
    "hinge": {"learning_rate": 2e-4, "beta1": 0.5, "beta2": 0.999, "n_critic": 1},
}


@dataclass
class GANArguments(FromScratchArguments):
    """Train a class-conditional GAN on labelled images.

    Start the same command again to resume. Example:

      clinsynth train gan --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom-gan
    """

    essentials: ClassVar[str] = (
        "dataset resolution channels output_dir train_steps loss width train_batch_size seed validation_steps "
        "push_to_hub dry_run"
    )

    output_dir: str = "runs/gan"
    train_steps: int = 10_000
    """updates of the generator"""
    dry_run: bool = False
    """print the resolved settings, the data and the networks' sizes, and stop"""
    loss: Literal["dcgan", "wgan_gp", "hinge"] = "hinge"
    """dcgan: non-saturating, with DCGAN's discriminator (Radford et al. 2016); wgan_gp: Wasserstein with gradient
    penalty (Gulrajani et al. 2017); hinge: with a spectrally normalised discriminator (Miyato et al. 2018)"""
    width: int = 64
    """channels at half the full resolution in both networks: the dial of their size"""
    latent_dim: int = 128
    """numbers of noise an image is made from"""
    train_batch_size: int = 64
    """images in an update, and as many generated ones"""
    learning_rate: float | None = None
    """of the generator's Adam; default: the loss's own, 2e-4, for wgan_gp 1e-4"""
    discriminator_learning_rate: float | None = None
    """of the discriminator's Adam; default: as --learning_rate"""
    beta1: float | None = None
    """decay of Adam's first moment; default: the loss's own, 0.5, for wgan_gp 0"""
    beta2: float | None = None
    """decay of Adam's second moment; default: the loss's own, 0.999, for wgan_gp 0.9"""
    n_critic: int | None = None
    """updates of the discriminator for one of the generator; default: the loss's own, 1, for wgan_gp 5"""
    gradient_penalty: float = 10.0
    """lambda of the loss wgan_gp"""
    diff_augment: bool = True
    """colour, translation and cutout for real and generated images alike before the discriminator sees them (Zhao et
    al. 2020): without it a few hundred images are soon learned by heart; the generated pictures do not show it"""
    ema_decay: float = 0.999
    """largest decay of the average of the generator's weights that is saved; it warms up with the steps"""

    def __post_init__(self) -> None:
        for name, published in PUBLISHED[self.loss].items():
            if getattr(self, name) is None:
                setattr(self, name, published)
        if self.discriminator_learning_rate is None:
            self.discriminator_learning_rate = self.learning_rate
        super().__post_init__()
        check_above_zero(self, "width latent_dim learning_rate discriminator_learning_rate n_critic".split())
        check_at_least(self, 0, ["gradient_penalty"])
        check_shares(self, ["beta1", "beta2"])
