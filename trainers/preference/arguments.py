"""The flags of training on preferences; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clinsynth.arguments import check_at_least
from clinsynth.judges.judges import check_judge
from clinsynth.trainers.arguments import DescentArguments, check_above_zero


@dataclass
class PreferenceArguments(DescentArguments):
    """Train a DDPM or a text-to-image model further on the preferences of a checklist's judge.

    Start the same command again to resume. Example:

      clinsynth train preference --model runs/phantom --held_out classifier --held_out_model runs/control/best-real
    """

    essentials: ClassVar[str] = (
        "model dataset output_dir checklist judge judge_model held_out held_out_model train_steps rounds method seed"
    )

    output_dir: str = "runs/preference"
    """run folder; afterwards itself a checkpoint, as --model is one"""
    model: str = ""
    """first-stage model: folder or Hub id of what `clinsynth train ddpm` or `clinsynth train text-to-image-lora` made
    on --dataset"""
    checklist: str = "phantom-fundus"
    """name of a checklist that comes with clinsynth, or a .yaml file"""
    judge: str = "measure"
    """the judge to learn from: measure, classifier, clip, vlm or expert, as in `clinsynth judge`"""
    judge_model: str | None = None
    """the judge's model, as in `clinsynth judge`"""
    judge_endpoint: str | None = None
    """--judge vlm: a server that runs the model, as in `clinsynth judge`; it is sent generated images alone"""
    held_out: str = "classifier"
    """a second judge, not learned from, which watches: measure, classifier or clip"""
    held_out_model: str | None = None
    """the second judge's model, another one than --judge_model"""
    least_kappa: float = 0.6
    """items on which judge and drawn truth agree less (Cohen's kappa) are not used (checklist phantom-fundus)"""
    held_out_least_kappa: float = 0.6
    """the same for the second judge, which only watches"""
    calibration_pictures: int = 60
    """drawn images of each condition for that comparison"""
    control: Literal["none", "shuffled"] = "none"
    """shuffled: the judge's scores are dealt out at random among the candidates of a class, so that preferences say
    nothing: what a run gains with its scores beyond what it gains so is the feedback's"""
    preferences: str | None = None
    """preference data set to learn from (the preferences/pairs of another run, or on the Hub) instead of a new one"""
    prompts: int = 32
    """prompts of each class"""
    candidates: int = 4
    """images of each prompt; all are used"""
    pair_rule: Literal["magic", "margin"] = "magic"
    """magic: the paper's, on shares of items met; margin: the higher share wins where it leads by --margin"""
    margin: float = 0.0
    """least lead of a winner, in [0, 1]; only --pair_rule margin"""
    method: Literal["diffusion-dpo", "kto", "reward", "d3po"] = "diffusion-dpo"
    """diffusion-dpo: pairs at random noise levels; kto: images one by one; reward: denoising weighted by the score;
    d3po: pairs along the sampler's path"""
    beta: float = 2500.0
    """how closely the model is held to the first-stage one; d3po, whose errors are larger, takes about a hundredth"""
    temperature: float = 0.2
    """--method reward: an image's weight is exp(share / temperature)"""
    reward: Literal["judge", "model"] = "judge"
    """--method reward: weigh by the judge's own shares, or by those that a reward model fitted to them predicts; its
    error on prompts held out is in preferences/reward_model/reward.json"""
    fidelity_weight: float = 1.0
    """weight of the denoising loss on real train images; 0 leaves it out"""
    learning_rate: float = 2e-5
    lr_scheduler: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """course of the learning rate over the steps; the other two end at 0"""
    lr_warmup_steps: int = 20
    lora_rank: int = 0
    """rank of a LoRA adapter that a DDPM is trained by, merged into its weights at the end; 0: all weights. A
    text-to-image model's own adapter is what is trained of it, at its own rank"""
    mixed_precision: Literal["no", "bf16"] = "no"
    """bf16: compute in bfloat16, and keep what is frozen of a text-to-image model in it"""
    gradient_checkpointing: bool = False
    """compute a third more to need much less memory"""
    ema_decay: float = 0.95
    """largest decay of the average of the weights that is judged and saved; it warms up with the steps. 0: the last
    weights alone"""
    train_steps: int = 500
    train_batch_size: int = 32
    """pairs (or images) a step and process, and as many real images"""
    num_inference_steps: int = 20
    """steps of the sampler of candidates and of watched images"""
    sampling_batch_size: int = 64
    """images drawn, or made into latents, at once"""
    guard_steps: int = 100
    """steps between two looks of the held-out judge"""
    guard_images: int = 20
    """images of each class it looks at, always of the same seeds"""
    fidelity_tolerance: float = 0.05
    """share by which the loss on real validation images may rise"""
    frechet_tolerance: float = 0.25
    """share by which the Frechet distance of the watched images to real validation images may rise: of so few
    images (--guard_images) it is uncertain by a tenth or two"""
    seed: int = 0
    """of candidates, order and noise"""
    log_steps: int = 10
    checkpointing_steps: int = 100
    rounds: int = 1
    """times that candidates are drawn, judged and learned from, each time by the model that came of the time before; a
    round that the held-out judge finds to make it worse at once is dropped. More can be asked for later"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError(
                "--model is missing; give the --output_dir of `clinsynth train ddpm` or `clinsynth train "
                "text-to-image-lora`"
            )
        check_above_zero(
            self,
            "prompts candidates beta temperature num_inference_steps sampling_batch_size guard_steps".split(),
        )
        check_at_least(self, 0, "fidelity_weight fidelity_tolerance frechet_tolerance lora_rank".split())
        check_at_least(self, 1, ["rounds"])
        if not 0 <= self.margin <= 1:
            raise ValueError(f"--margin must be in [0, 1], got {self.margin}; it is a share of the items")
        if self.guard_images < 2 or self.calibration_pictures < 5:
            raise ValueError(
                f"--guard_images must be at least 2 and --calibration_pictures at least 5, got {self.guard_images} "
                f"and {self.calibration_pictures}"
            )
        self.check_method()
        self.check_judges()

    def check_method(self) -> None:
        """Raise a `ValueError` for what a method cannot do."""
        if self.method == "d3po" and self.num_inference_steps < 2:
            raise ValueError("--method d3po needs --num_inference_steps 2 or more: the last step is not random")
        if self.method == "reward" and self.preferences:
            raise ValueError("--method reward learns from all scored candidates; leave --preferences out")
        if self.method != "reward" and self.reward != "judge":
            raise ValueError(f"--reward model is for --method reward; got --method {self.method}")
        if self.control == "shuffled" and self.preferences:
            raise ValueError("--control shuffled shuffles the scores of new candidates; leave --preferences out")
        if self.rounds > 1 and self.preferences:
            raise ValueError(f"--rounds {self.rounds} draws new candidates in each round; leave --preferences out")
        if self.rounds > 1 and self.judge == "expert":
            raise ValueError(
                f"--rounds {self.rounds} draws new candidates in each round, which no expert has seen; train a round, "
                "have its candidates scored, and give --judge expert with --rounds 1"
            )

    def check_judges(self) -> None:
        """Raise a `ValueError` where a judge misses its model, or both are the same."""
        check_judge("held_out", self.held_out, self.held_out_model)
        if self.held_out in ("vlm", "expert"):
            raise ValueError(
                f"--held_out must be measure, classifier or clip, got {self.held_out}: it judges images of every "
                "look, of which no expert has seen any and a model that writes would be asked hundreds of times"
            )
        if self.judge_endpoint and self.judge != "vlm":
            raise ValueError(f"--judge_endpoint is for --judge vlm; got --judge {self.judge}")
        if self.preferences:
            return
        check_judge("judge", self.judge, self.judge_model)
        if (self.judge, self.judge_model) == (self.held_out, self.held_out_model) or self.judge == self.held_out == (
            "measure"
        ):
            raise ValueError(
                f"--held_out {self.held_out} is the judge that is learned from, which can see no gaming of itself; "
                "name another one"
            )
