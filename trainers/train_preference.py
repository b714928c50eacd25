"""Train a DDPM further on preferences: of several pictures a prompt, those that meet more of an expert checklist.

    clinsynth train preference --model runs/phantom --dataset phantom-fundus --checklist phantom-fundus \\
        --judge measure --held_out classifier --held_out_model runs/control/best-real --output_dir runs/phantom-magic
    clinsynth train preference --model runs/phantom --method reward --preferences runs/phantom-magic/preferences …

The folder --output_dir then loads with `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`. A second
judge, which the model is not trained on, watches: training stops where its score or the fidelity gets worse, and the
result is the last model that it accepted. A run that was stopped goes on when the same command is started again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.run_folder import (
    append_metrics,
    check_same_run,
    create_run_folder,
    drop_metrics_after,
    read_metrics,
    write_run_config,
)
from clinsynth.scripts.judges import check_judge

MAY_DIFFER = frozenset(
    "output_dir log_steps checkpointing_steps checkpoints_total_limit sampling_batch_size judge_endpoint".split()
)

PAIRING = frozenset({"pair_rule", "margin"})
"""What may also differ until there are pairs: scored candidates of which no pair could be made are kept."""


@dataclass
class PreferenceArguments(ImageDataArguments):
    """Train a DDPM further on the preferences of a checklist's judge.

    Start the same command again to resume. Example:

      clinsynth train preference --model runs/phantom --held_out classifier --held_out_model runs/control/best-real
    """

    model: str = ""
    """first-stage model: folder or Hub id of a DDPM that `clinsynth train ddpm` made on --dataset"""
    output_dir: str = "runs/preference"
    """run folder; afterwards itself a checkpoint that DiffusionPipeline.from_pretrained loads"""
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
    lr_warmup_steps: int = 20
    """steps over which the learning rate rises from 0"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm"""
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
    """pictures drawn at once"""
    guard_steps: int = 100
    """steps between two looks of the held-out judge"""
    guard_images: int = 20
    """pictures of each class it looks at, always of the same seeds"""
    fidelity_tolerance: float = 0.05
    """share by which the loss on real validation pictures may rise"""
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
            raise ValueError("--model is missing; give the --output_dir of `clinsynth train ddpm`")
        for name in (
            "prompts candidates beta temperature learning_rate max_grad_norm train_steps train_batch_size "
            "num_inference_steps sampling_batch_size guard_steps log_steps checkpointing_steps checkpoints_total_limit"
        ).split():
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be above 0, got {getattr(self, name)}")
        for name, lowest in (("fidelity_weight", 0), ("fidelity_tolerance", 0), ("lr_warmup_steps", 0), ("seed", 0)):
            if not getattr(self, name) >= lowest:
                raise ValueError(f"--{name} must be at least {lowest}, got {getattr(self, name)}")
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
    from dataclasses import replace

    from clinsynth.data.arrays import load_image_arrays
    from clinsynth.scripts.checkpoint import load_pipeline

    pipeline = load_pipeline(args.model)
    if "unet" not in pipeline.components:
        raise ValueError(f"--model {args.model} is a GAN; give a DDPM of `clinsynth train ddpm`")
    config = pipeline.unet.config
    data = load_image_arrays(
        replace(args, resolution=config["sample_size"], channels=config["in_channels"]), args.seed
    )
    if data["train"].label_names != list(pipeline.id2label.values()):
        raise ValueError(
            f"--dataset {args.dataset} has the classes {data['train'].label_names}, but --model {args.model} was "
            f"trained on {list(pipeline.id2label.values())}; give the data set that it saw"
        )
    output_dir = create_run_folder(args.output_dir)
    paired = (output_dir / "preferences" / "pairs").exists()
    check_same_run(output_dir, args, MAY_DIFFER if paired or args.preferences else MAY_DIFFER | PAIRING)
    train(args, pipeline, data, output_dir)


def train(args: PreferenceArguments, pipeline: Any, data: dict[str, Any], output_dir: Path) -> None:
    """The loop; `data` holds the real splits as `ImageArrays`."""
    import torch
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    from clinsynth.trainers.ddpm_step import check_finite
    from clinsynth.trainers.preference_data import prepare
    from clinsynth.trainers.preference_step import Preferences, build_state, fidelity_stream, keep_good, train_step
    from clinsynth.trainers.training_state import checkpoints, drop_old_checkpoints, publish

    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
    pipeline.to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    main_process = accelerator.is_main_process
    if main_process:
        write_run_config(output_dir, args)
    with accelerator.main_process_first():
        rows, scored, guard = prepare(args, pipeline, data)
    state, reference = build_state(args, pipeline, accelerator)
    preferences = Preferences(args, pipeline, reference, rows, scored, accelerator)
    saved = checkpoints(output_dir)
    if saved:
        state.load(saved[-1])
        accelerator.print(f"resuming at step {state.step} of {args.train_steps} from {saved[-1]}")
    if main_process:
        drop_metrics_after(output_dir, state.step)
    unet, optimizer = accelerator.prepare(state.model, state.optimizer)
    real = fidelity_stream(args, data["train"], pipeline, accelerator.device)
    looks = [record for record in read_metrics(output_dir) if "held_out_share" in record]
    objection = looks[-1].get("stopped") if looks else None
    progress = tqdm(total=args.train_steps, initial=state.step, desc="train", disable=not main_process)

    while state.step < args.train_steps and not objection:
        if state.step == 0 and not looks:
            looks.append({"step": 0, **watch(state, pipeline, guard)})
            if main_process:
                keep_good(state, pipeline, output_dir)
                append_metrics(output_dir, looks[0])
        numbers = train_step(args, accelerator, unet, optimizer, preferences, real, state.step)
        check_finite(numbers["loss"] + numbers["fidelity_loss"], numbers["grad_norm"], state, output_dir)
        state.advance()
        progress.update()

        record: dict[str, Any] = {"step": state.step, **numbers}
        last = state.step == args.train_steps
        if last or state.step % args.guard_steps == 0:
            record |= watch(state, pipeline, guard)
            objection = guard.objection(looks[0], record)
            record |= {"stopped": objection} if objection else {}
        if main_process:
            if "held_out_share" in record and not objection:
                keep_good(state, pipeline, output_dir)
            if last or objection or "held_out_share" in record or state.step % args.log_steps == 0:
                append_metrics(output_dir, record)
            if last or objection or state.step % args.checkpointing_steps == 0:
                state.save(output_dir, pipeline)
                drop_old_checkpoints(output_dir, args.checkpoints_total_limit)
        accelerator.wait_for_everyone()

    if main_process:
        publish(output_dir / "good", output_dir)
        print(f"stopped at step {state.step}: {objection}" if objection else f"trained {state.step} steps")
        print(f"checkpoint: {output_dir}")
    accelerator.end_training()


def watch(state: Any, pipeline: Any, guard: Any) -> dict[str, Any]:
    """The guard's measurements of the weights that are saved."""
    with state.averaged_weights():
        found: dict[str, Any] = guard.measure(pipeline)
    return found


if __name__ == "__main__":
    run(PreferenceArguments, main)
