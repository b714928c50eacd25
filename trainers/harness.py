"""What every training loop of an image model has around its step: where a run stands, what it logs and what it keeps.

    accelerator = begin(args, output_dir)
    state, pipeline = build_state(…)
    run = Run(args, accelerator, state, pipeline, output_dir, args.validation_steps)
    while not run.over:
        loss, norm = train_step(…)
        state.advance()
        run.log(loss=loss, grad_norm=norm)
        if validate and run.is_due(args.validation_steps):
            run.validate(validate)
        run.end_step()
    run.finish()

A run that was stopped goes on at its last checkpoint and ends with the weights of one that never stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.metrics.privacy.exact import keep_training_digest, picture_digests
from clinsynth.models.weights import computes_in_bfloat16
from clinsynth.progress import TimedBar
from clinsynth.run_folder import (
    append_metrics,
    check_same_run,
    complete_folder,
    config_yaml,
    create_run_folder,
    describe_environment,
    drop_metrics_after,
    remove_folder,
    write_run_config,
)
from clinsynth.trainers.arguments import MAY_DIFFER, FromScratchArguments, RunArguments
from clinsynth.trainers.diffusion.arguments import AutoencoderArguments
from clinsynth.trainers.training_state import (
    Savable,
    TrainingState,
    checkpoints,
    numbered_checkpoints,
    publish,
)

Number = torch.Tensor | float
G = TypeVar("G", bound=FromScratchArguments | AutoencoderArguments)


def open_run_folder(args: RunArguments) -> Path:
    """The folder --output_dir, made where it is missing.

    Raises:
        ValueError: it cannot be written to, or holds a run with checkpoints and other settings.
    """
    output_dir = create_run_folder(args.output_dir)
    begun = [*output_dir.glob("checkpoint-*"), *output_dir.glob("*/checkpoint-*")]
    if begun:  # a command that failed before its first checkpoint binds nobody
        check_same_run(output_dir, args, MAY_DIFFER)
    return output_dir


def train_on_images(
    args: G,
    train: Callable[[G, dict[str, ImageArrays], Path], None],
    dry_run_text: Callable[[G, dict[str, ImageArrays]], str],
) -> None:
    """The course of a command that trains on images in memory: with --dry_run it prints what `dry_run_text` says."""
    data = load_image_arrays(args, args.seed)
    if args.dry_run:
        print(dry_run_text(args, data))
    else:
        output_dir, seen = open_run_folder(args), data["train"].images
        keep_training_digest(output_dir, picture_digests(seen), seen.shape[1:])
        train(args, data, output_dir)


def resolve_precision(mixed_precision: str) -> str:
    """`"auto"` to bf16 where the device computes in it natively, else to no mixed precision."""
    if mixed_precision != "auto":
        return mixed_precision
    return "bf16" if computes_in_bfloat16() else "no"


def begin(args: RunArguments, output_dir: Path, precision: str = "no", report_to: str = "none") -> Accelerator:
    """What places a run on its devices and processes; the settings are written down and told to the tracker."""
    on_cpu = not torch.accelerator.is_available()  # accelerate sees several CPU processes only when told
    tracker = None if report_to == "none" else report_to
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, log_with=tracker, project_dir=output_dir)
    if accelerator.is_main_process:
        write_run_config(output_dir, args)
    accelerator.init_trackers("clinsynth", {k: str(v) for k, v in dataclasses.asdict(args).items()})
    return accelerator


class Run:
    """A training run under way. Of several processes all make the same calls, and the main one writes.

    Args:
        args: how long, how often and where to.
        accelerator: of `begin`.
        state: before the first step; takes over the newest checkpoint in `output_dir`.
        saved_as: what holds the model that is trained; its `save_pretrained` writes what is published.
        output_dir: of checkpoints, metrics.jsonl and the result.
        validation_steps: steps between two validations, 0 for none.
        unlogged: numbers that are looked at, but written nowhere.
    """

    def __init__(
        self,
        args: RunArguments,
        accelerator: Accelerator,
        state: TrainingState,
        saved_as: Savable,
        output_dir: Path,
        validation_steps: int = 0,
        unlogged: frozenset[str] = frozenset(),
    ):
        self.args, self.accelerator, self.state, self.saved_as = args, accelerator, state, saved_as
        self.output_dir, self.validation_steps, self.unlogged = output_dir, validation_steps, unlogged
        self.writes: bool = accelerator.is_main_process
        self.unread: list[tuple[int, dict[str, Number]]] = []
        self.notes: dict[str, Any] = {}
        saved = checkpoints(output_dir)
        if saved:
            state.load(saved[-1])
            accelerator.print(f"resuming at step {state.step} of {args.train_steps} from {saved[-1]}")
        self.line: dict[str, Any] = {"step": state.step}
        if self.writes:
            drop_metrics_after(output_dir, state.step)
        self.progress = TimedBar(
            total=args.train_steps, initial=state.step, desc=output_dir.name, disable=not self.writes, warm_up=1
        )

    @property
    def over(self) -> bool:
        """Whether the step that was last taken is the last one."""
        return self.state.stopped or self.state.step >= self.args.train_steps

    def is_due(self, every: int) -> bool:
        """Whether what happens every so many steps does after this one, as it does after the last; 0: never."""
        return every > 0 and (self.over or (self.state.step > 0 and self.state.step % every == 0))

    def log(self, **numbers: Number) -> None:
        """Take the numbers of the step that was just counted.

        Those on the device stay there until a line is written or the weights are used, so that no step waits for one
        before it.

        Raises:
            FloatingPointError: one since the last reading is not finite; names its step and the last good checkpoint.
        """
        self.unread.append((self.state.step, numbers))
        self.progress.update()
        if any(map(self.is_due, (self.args.log_steps, self.args.checkpointing_steps, self.validation_steps))):
            self.read()

    def read(self) -> None:
        """Fetch the numbers of all steps since the last reading, in one go; the last ones become the line."""
        if not self.unread:
            return
        tensors = [number for _, row in self.unread for number in row.values() if isinstance(number, torch.Tensor)]
        fetched = iter(torch.stack(tensors).tolist() if tensors else [])
        for step, row in self.unread:
            values = {name: next(fetched) if isinstance(n, torch.Tensor) else n for name, n in row.items()}
            scaled = {"grad_norm"} if self.state.scaler else set()  # fp16's scaler answers an infinite norm itself
            check_finite(step, {name: value for name, value in values.items() if name not in scaled}, self.output_dir)
        self.progress.set_postfix({name: f"{value:.4f}" for name, value in values.items() if "loss" in name})
        self.line = {"step": step} | {name: v for name, v in values.items() if name not in self.unlogged}
        self.unread = []

    def note(self, **values: Any) -> None:
        """Have a line written after this step, with `values` at its end."""
        self.notes |= values

    def validate(self, measure: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """Call `measure` with the step's number while the model has its averaged weights, and note what it returns.

        Where its `validation_kid` is the lowest so far, the weights are kept as `best`. Where it says that they
        `memorise`, they are kept only for want of others, and the run is stopped.
        """
        with self.state.averaged_weights():
            scores = measure(self.state.step)
            memorises = scores.pop("memorises", False)
            wanted = not memorises or math.isinf(self.state.best_kid)
            if wanted and scores.get("validation_kid", math.inf) < self.state.best_kid:
                self.state.best_kid = scores["validation_kid"]
                with complete_folder(self.output_dir / "best") as folder:
                    self.saved_as.save_pretrained(folder)
        if memorises:
            self.state.stopped = True
            self.note(stopped="memorises")
            print(f"stopped at step {self.state.step}: images lie nearer to train than to held-out images", flush=True)
        self.note(**scores)
        return scores

    def keep(self, name: str) -> None:
        """Save the averaged weights as the folder `name` in the run's own."""
        if self.writes:
            with self.state.averaged_weights(), complete_folder(self.output_dir / name) as folder:
                self.saved_as.save_pretrained(folder)

    def end_step(self) -> None:
        """Write the line and the checkpoint that are due."""
        self.agree_on_stop()
        if self.notes or self.state.stopped:
            self.read()
        if self.writes and (self.notes or self.is_due(self.args.log_steps)):
            append_metrics(self.output_dir, self.line | self.notes)
            self.accelerator.log(self.line | self.notes, step=self.state.step)
        if self.writes and self.is_due(self.args.checkpointing_steps):
            self.state.save(self.output_dir, self.saved_as)
            for path in checkpoints(self.output_dir)[: -self.args.checkpoints_total_limit]:
                remove_folder(path)
        self.notes = {}
        if self.over:
            self.progress.close()
        if any(map(self.is_due, (self.args.checkpointing_steps, self.validation_steps))):  # else nobody is far behind
            self.accelerator.wait_for_everyone()

    def agree_on_stop(self) -> None:
        """Tell all processes what the main one found when it validated."""
        validated = self.validation_steps and self.state.step % self.validation_steps == 0
        if validated and self.accelerator.num_processes > 1:
            found = torch.tensor(float(self.state.stopped), device=self.accelerator.device)
            self.state.stopped = bool(self.accelerator.reduce(found, "sum"))

    def finish(self, kept: str | None = None) -> None:
        """Make what was kept under the name `kept`, or else the last checkpoint, the result, and say where it is."""
        if self.writes:
            publish(self.output_dir / kept if kept else checkpoints(self.output_dir)[-1], self.output_dir)
            print(f"checkpoint: {self.output_dir}")
        self.accelerator.end_training()


def check_finite(step: int, numbers: dict[str, float], output_dir: Path) -> None:
    """Stop a diverged run before it overwrites anything.

    Raises:
        FloatingPointError: names the step and the last good checkpoint.
    """
    if all(math.isfinite(value) for value in numbers.values()):
        return
    saved = numbered_checkpoints(output_dir)
    good = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
    found = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    raise FloatingPointError(
        f"training diverged at step {step}: {found}; {good}. "
        "Start anew in another --output_dir with a lower --learning_rate, or in float32"
    )


def describe_run(args: RunArguments) -> str:
    """The resolved settings and the environment, for --dry_run."""
    return f"{config_yaml(args)}\n{json.dumps(describe_environment(), indent=2)}\n\n"


def describe_split(name: str, split: ImageArrays) -> str:
    """Images, size and classes of a split, for --dry_run."""
    counts = torch.bincount(torch.from_numpy(split.labels), minlength=len(split.label_names)).tolist()
    classes = ", ".join(f"{label} {count}" for label, count in zip(split.label_names, counts, strict=True))
    return f"{name}: {len(split.labels)} images, {split.images.shape[1:]} (channels, height, width): {classes}\n"


def count_parameters(network: torch.nn.Module) -> str:
    """The trained weights, as `2.54 M parameters`."""
    return f"{sum(weight.numel() for weight in network.parameters() if weight.requires_grad) / 1e6:.2f} M parameters"


def push_result(output_dir: Path, repository: str | None) -> None:
    """Upload the result by `clinsynth push model` to a private repository, named as the folder by default.

    Raises:
        ValueError: it could not be pushed; the command has said why.
    """
    name = repository or output_dir.resolve().name
    if "/" not in name:
        from huggingface_hub import whoami

        name = f"{whoami()['name']}/{name}"
    command = ["push", "model", str(output_dir), "--repo_id", name]
    if subprocess.run([sys.executable, "-m", "clinsynth", *command]).returncode:
        raise ValueError(f"the result is in {output_dir}, but was not pushed; run `clinsynth {' '.join(command)}`")
