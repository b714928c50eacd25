"""Train a DDPM or a text-to-image model further on preferences: the pictures that meet more of an expert checklist.

    clinsynth train preference --model runs/phantom --dataset phantom-fundus --checklist phantom-fundus \\
        --judge measure --held_out classifier --held_out_model runs/control/best-real --output_dir runs/phantom-magic
    clinsynth train preference --model runs/phantom --method reward --preferences runs/phantom-magic/preferences …

The folder --output_dir then loads as that of --model does: a DDPM's with `DiffusionPipeline.from_pretrained(folder,
trust_remote_code=True)`, a text-to-image model's with `load_lora_weights(folder)` of its base model. A second
judge, which the model is not trained on, watches: training stops where its score or the fidelity gets worse, and the
result is the last model that it accepted. A run that was stopped goes on when the same command is started again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.judges.judges import check_judge
from clinsynth.run_folder import check_same_run, create_run_folder, write_run_config

MAY_DIFFER = frozenset(
    "output_dir log_steps checkpointing_steps checkpoints_total_limit sampling_batch_size judge_endpoint".split()
)

PAIRING = frozenset({"pair_rule", "margin"})
"""What may also differ until there are pairs: scored candidates of which no pair could be made are kept."""


@dataclass
class PreferenceArguments(ImageDataArguments):
    """Train a DDPM or a text-to-image model further on the preferences of a checklist's judge.

    Start the same command again to resume. Example:

      clinsynth train preference --model runs/phantom --held_out classifier --held_out_model runs/control/best-real
    """

    model: str = ""
    """first-stage model: folder or Hub id of what `clinsynth train ddpm` or `clinsynth train text-to-image-lora` made
    on --dataset"""
    output_dir: str = "runs/preference"
    """run folder; afterwards itself a checkpoint, as --model is one"""
    checklist: str = "phantom-fundus"
    """name of a checklist that comes with clinsynth, or a .yaml file"""
    judge: str = "measure"
    """the judge to learn from: measure, classifier, clip, vlm or expert, as in `clinsynth judge`"""
    judge_model: str | None = None
    """the judge's model, as in `clinsynth judge`"""
    judge_endpoint: str | None = None
    """--judge vlm: a server that runs the model, as in `clinsynth judge`; it is sent generated pictures alone"""
    held_out: str = "classifier"
    """a second judge, not learned from, which watches: measure, classifier or clip"""
    held_out_model: str | None = None
    """the second judge's model, another one than --judge_model"""
    least_kappa: float = 0.6
    """items on which judge and drawn truth agree less (Cohen's kappa) are not used (checklist phantom-fundus)"""
    held_out_least_kappa: float = 0.6
    """the same for the second judge, which only watches"""
    calibration_pictures: int = 60
    """drawn pictures of each condition for that comparison"""
    preferences: str | None = None
    """preference data set to learn from (the preferences/pairs of another run, or on the Hub) instead of a new one"""
    prompts: int = 32
    """prompts of each class"""
    candidates: int = 4
    """pictures of each prompt; all are used"""
    pair_rule: Literal["magic", "margin"] = "magic"
    """magic: the paper's, on shares of items met; margin: the higher share wins where it leads by --margin"""
    margin: float = 0.0
    """least lead of a winner, in [0, 1]; only --pair_rule margin"""
    method: Literal["diffusion-dpo", "kto", "reward", "d3po"] = "diffusion-dpo"
    """diffusion-dpo: pairs at random noise levels; kto: pictures one by one; reward: denoising weighted by the score;
    d3po: pairs along the sampler's path"""
    beta: float = 2500.0
    """how closely the model is held to the first-stage one; d3po, whose errors are larger, takes about a hundredth"""
    temperature: float = 0.2
    """--method reward: a picture's weight is exp(share / temperature)"""
    reward: Literal["judge", "model"] = "judge"
    """--method reward: weigh by the judge's own shares, or by those that a reward model fitted to them predicts; its
    error on prompts held out is in preferences/reward_model/reward.json"""
    fidelity_weight: float = 1.0
    """weight of the denoising loss on real train pictures; 0 leaves it out"""
    learning_rate: float = 2e-5
    """peak learning rate of AdamW"""
    lr_scheduler: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """course of the learning rate over the steps; the other two end at 0"""
    lr_warmup_steps: int = 20
    """steps over which the learning rate rises from 0"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm"""
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
    """optimizer steps"""
    train_batch_size: int = 32
    """pairs (or pictures) a step and process, and as many real pictures"""
    num_inference_steps: int = 20
    """steps of the sampler of candidates and of watched pictures"""
    sampling_batch_size: int = 64
    """pictures drawn, or made into latents, at once"""
    guard_steps: int = 100
    """steps between two looks of the held-out judge"""
    guard_images: int = 20
    """pictures of each class it looks at, always of the same seeds"""
    fidelity_tolerance: float = 0.05
    """share by which the loss on real validation pictures may rise"""
    frechet_tolerance: float = 0.25
    """share by which the Frechet distance of the watched pictures to real validation pictures may rise: of so few
    pictures (--guard_images) it is uncertain by a tenth or two"""
    seed: int = 0
    """of candidates, order and noise"""
    log_steps: int = 10
    """steps between two lines of metrics.jsonl"""
    checkpointing_steps: int = 100
    """steps between two checkpoints"""
    checkpoints_total_limit: int = 2
    """checkpoints that are kept, the newest"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError(
                "--model is missing; give the --output_dir of `clinsynth train ddpm` or `clinsynth train "
                "text-to-image-lora`"
            )
        for name in (
            "prompts candidates beta temperature learning_rate max_grad_norm train_steps train_batch_size "
            "num_inference_steps sampling_batch_size guard_steps log_steps checkpointing_steps checkpoints_total_limit"
        ).split():
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be above 0, got {getattr(self, name)}")
        for name in "fidelity_weight fidelity_tolerance frechet_tolerance lr_warmup_steps lora_rank seed".split():
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay must be in [0, 1), got {self.ema_decay}; 0.95 is usual")
        if not 0 <= self.margin <= 1:
            raise ValueError(f"--margin must be in [0, 1], got {self.margin}; it is a share of the items")
        if self.guard_images < 2 or self.calibration_pictures < 5:
            raise ValueError(
                f"--guard_images must be at least 2 and --calibration_pictures at least 5, got {self.guard_images} "
                f"and {self.calibration_pictures}"
            )
        if self.method == "d3po" and self.num_inference_steps < 2:
            raise ValueError("--method d3po needs --num_inference_steps 2 or more: the last step is not random")
        if self.method == "reward" and self.preferences:
            raise ValueError("--method reward learns from all scored candidates; leave --preferences out")
        if self.method != "reward" and self.reward != "judge":
            raise ValueError(f"--reward model is for --method reward; got --method {self.method}")
        self.check_judges()

    def check_judges(self) -> None:
        """Raise a `ValueError` where a judge misses its model, or both are the same."""
        check_judge("held_out", self.held_out, self.held_out_model)
        if self.held_out in ("vlm", "expert"):
            raise ValueError(
                f"--held_out must be measure, classifier or clip, got {self.held_out}: it judges pictures of every "
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


def main(args: PreferenceArguments) -> None:
    """Train, and leave the pipeline in `args.output_dir`."""
    from clinsynth.models.generators import load_pipeline

    pipeline = load_pipeline(args.model)
    check_trainable(args, pipeline)
    data = load_real(args, pipeline)
    names, known = data["validation"].label_names, list(pipeline.id2label.values())
    if names != known:
        raise ValueError(
            f"--dataset {args.dataset} has the classes {names}, but --model {args.model} was trained on {known}; give "
            "the data set that it saw"
        )
    output_dir = create_run_folder(args.output_dir)
    paired = (output_dir / "preferences" / "pairs").exists()
    check_same_run(output_dir, args, MAY_DIFFER if paired or args.preferences else MAY_DIFFER | PAIRING)
    train(args, pipeline, data, output_dir)


def check_trainable(args: PreferenceArguments, pipeline: Any) -> None:
    """Raise a `ValueError` where the flags ask of the model what it cannot do."""
    from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline
    from clinsynth.trainers.preference.model import is_prompted, network_of

    if isinstance(pipeline, ClassConditionedGANPipeline):
        raise ValueError(f"--model {args.model} is a GAN; give a DDPM of `clinsynth train ddpm`")
    if args.lora_rank and is_prompted(pipeline):
        raise ValueError(
            f"--lora_rank {args.lora_rank} is for a DDPM; --model {args.model} has an adapter, which is trained "
            "further at its own rank: leave --lora_rank out"
        )
    if args.gradient_checkpointing and not getattr(network_of(pipeline), "_supports_gradient_checkpointing", False):
        raise ValueError(
            f"--gradient_checkpointing cannot be had of the network of --model {args.model}; leave it out, or lower "
            "--train_batch_size to save memory"
        )


def load_real(args: PreferenceArguments, pipeline: Any) -> dict[str, Any]:
    """The real splits as `ImageArrays`, in the form of the model's pictures.

    The train split of a text-to-image model comes in parts: its latents are kept, and its pictures need much memory.
    """
    from dataclasses import replace

    from clinsynth.data.images import load_image_arrays, open_enlarged
    from clinsynth.trainers.preference.model import is_prompted, picture_form

    side, channels = picture_form(pipeline)
    if not is_prompted(pipeline):
        return {**load_image_arrays(replace(args, resolution=side, channels=channels), args.seed)}
    pictures = open_enlarged(args, side, args.seed)
    validation = next(pictures.batches("validation", len(pictures.splits["validation"])))
    return {"train": pictures.batches("train", args.sampling_batch_size), "validation": validation}


def train(args: PreferenceArguments, pipeline: Any, data: dict[str, Any], output_dir: Path) -> None:
    """The loop; `data` is as of `load_real`."""
    import torch
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    from clinsynth.trainers.diffusion.step import check_finite
    from clinsynth.trainers.preference.data import prepare
    from clinsynth.trainers.preference.guard import Course
    from clinsynth.trainers.preference.model import to_device
    from clinsynth.trainers.preference.step import Preferences, build_state, fidelity_stream, train_step

    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=args.mixed_precision)
    to_device(pipeline, accelerator.device, half=args.mixed_precision == "bf16")
    main_process = accelerator.is_main_process
    if main_process:
        write_run_config(output_dir, args)
    with accelerator.main_process_first():
        rows, scored, guard = prepare(args, pipeline, data)
    state, reference = build_state(args, pipeline, accelerator)
    preferences = Preferences(args, pipeline, reference, rows, scored, accelerator)
    course = Course(args, state, pipeline, guard, output_dir, main_process)
    course.resume()
    unet, optimizer = accelerator.prepare(state.model, state.optimizer)
    real = fidelity_stream(args, data["train"], pipeline, accelerator.device)
    progress = tqdm(total=args.train_steps, initial=state.step, desc="train", disable=not main_process)

    if not course.over:
        course.begin()
    while not course.over:
        numbers = train_step(args, accelerator, unet, optimizer, preferences, real, state.step)
        check_finite(numbers["loss"] + numbers["fidelity_loss"], numbers["grad_norm"], state, output_dir)
        state.advance()
        progress.update()
        course.after_step(numbers)
        accelerator.wait_for_everyone()
    course.finish()
    accelerator.end_training()


if __name__ == "__main__":
    run(PreferenceArguments, main)
