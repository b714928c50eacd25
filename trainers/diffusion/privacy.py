"""The privacy budget of a DP-SGD run: the noise that a target epsilon needs, what is spent so far, the record of it.

What is guaranteed: (epsilon, delta)-differential privacy (Dwork et al. 2006) of the published weights, by DP-SGD
(Abadi et al. 2016). Whoever has every checkpoint, knows the code and the flags, and has all training images but one,
cannot tell much better than by chance whether that one was there.

- Unit: one image with its label, added or removed. A patient with k images has k times the epsilon (and a larger
  delta): give one image a patient where patients are to be protected.
- The data set is the train split as it was trained on, after --few_shot and --train_fraction.
- Counted: every optimizer step up to the checkpoint, also across restarts. A step that a killed run took after its
  last checkpoint leaves nothing behind, and its repetition draws anew.
- Taken as public, not counted: the number of images, the class names, and counts of the classes where something is
  generated to match them. The choice of flags, where it was made by looking at results of other runs on the same
  data. Whatever looks at real images later, such as an evidence report.
- Free, as post-processing: the average of the weights (EMA), AdamW's moments, generating any number of images.
- Images drawn and noise must be unknown to the adversary: they come from the system's entropy.
- Floating-point noise from an ordinary generator: safe from statistics, not from an attack on its last bits (Mironov
  2012) nor from one who breaks the generator.
"""

from __future__ import annotations

import json
import math
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from clinsynth.run_folder import atomic_write, check_unchanged, package_version
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.stream import StepInputs
from clinsynth.trainers.training_state import TrainingState

ACCOUNTANT = "prv"
FILE = "privacy.json"
SECRET_BITS = 128


@dataclass(frozen=True)
class PrivacyPlan:
    """What is fixed before the first step.

    Attributes:
        target_epsilon, delta: what the whole run may spend.
        noise_multiplier: standard deviation of the noise on a summed gradient, over `max_grad_norm`.
        max_grad_norm: the norm that each image's gradient is clipped to.
        sample_rate: probability of each image to be in a step's batch, independent of all others (Poisson sampling).
        steps: optimizer steps of the whole run.
    """

    target_epsilon: float
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps: int

    def spent(self, steps: int) -> float:
        """Epsilon after `steps` steps: the accountant's upper bound by numerical composition (Gopi et al. 2021)."""
        from opacus.accountants import create_accountant

        if steps == 0:
            return 0.0
        accountant = create_accountant(ACCOUNTANT)
        accountant.history = [(self.noise_multiplier, self.sample_rate, steps)]
        with quiet_accountant():
            return float(accountant.get_epsilon(self.delta))

    def record(self, steps: int) -> dict[str, Any]:
        """What a card needs to state the guarantee of the checkpoint after `steps` steps."""
        return {
            "epsilon": self.spent(steps),
            **asdict(self),
            "steps": steps,
            "planned_steps": self.steps,
            "accountant": ACCOUNTANT,
            "opacus_version": package_version("opacus"),
            "unit": "one training image with its label, added or removed; k images of a patient: k times epsilon",
            "sampling": "Poisson",
            "not_counted": "number of images, class names, choice of flags, anything computed from real images later",
        }


def plan_privacy(args: DDPMArguments, images: int) -> PrivacyPlan:
    """The least noise with which `args.train_steps` steps on `images` images stay within `args.dp_epsilon`.

    delta is `args.dp_delta`, else images^-1.1 (Ponomareva et al. 2023, "How to DP-fy ML").

    Raises:
        ValueError: a batch larger than the data set, or a delta above 1/images.
        ImportError: opacus is missing.
    """
    try:
        from opacus.accountants.utils import get_noise_multiplier
    except ImportError as error:
        raise ImportError(
            f"--dp_epsilon needs opacus ({error}); install it with: pip install 'clinsynth[privacy]'"
        ) from error
    assert args.dp_epsilon is not None
    batch = args.train_batch_size * args.gradient_accumulation_steps
    if batch > images:
        raise ValueError(
            f"--train_batch_size x --gradient_accumulation_steps must be at most the {images} training images with "
            f"--dp_epsilon, got {batch}; lower them"
        )
    delta = images**-1.1 if args.dp_delta is None else args.dp_delta
    if delta > 1 / images:
        raise ValueError(
            f"--dp_delta must be at most 1/n = {1 / images:.2g} for n = {images} training images, got {delta}: above "
            f"it, publishing some image whole would be allowed; leave it out for {images**-1.1:.2g}"
        )
    with quiet_accountant():
        noise_multiplier = get_noise_multiplier(
            target_epsilon=args.dp_epsilon,
            target_delta=delta,
            sample_rate=batch / images,
            steps=args.train_steps,
            accountant=ACCOUNTANT,
        )
    return PrivacyPlan(
        args.dp_epsilon, delta, noise_multiplier, args.dp_max_grad_norm, batch / images, args.train_steps
    )


@contextmanager
def quiet_accountant() -> Iterator[None]:
    """Within the block no warning of log(0) for full batches, nor of the orders of a bound that is not used."""
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield


def write_privacy(output_dir: Path, plan: PrivacyPlan, steps: int) -> float:
    """Write `privacy.json`: the epsilon spent after `steps` steps, which is returned, and how it was counted."""
    record = plan.record(steps)
    atomic_write(output_dir / FILE, json.dumps(record, indent=2) + "\n")
    return float(record["epsilon"])


def check_same_plan(output_dir: Path, plan: PrivacyPlan) -> None:
    """Refuse to resume with other noise or sampling than before, as when the data set has grown.

    Raises:
        ValueError: names what differs and both values; or there is no `privacy.json` to compare with.
    """
    path = output_dir / FILE
    if not path.exists():
        raise ValueError(
            f"{path} is missing: the run has trained without --dp_epsilon, or what it spent is unknown; start anew in "
            "another --output_dir"
        )
    before = json.loads(path.read_text())
    planned = {name: getattr(plan, name) for name in ("delta", "noise_multiplier", "max_grad_norm", "sample_rate")}
    check_unchanged(
        output_dir,
        before,
        {name: value for name, value in planned.items() if not math.isclose(before[name], value, rel_tol=1e-9)},
        "has the data set or opacus changed? Restore it, or start anew in another --output_dir",
    )


class PrivateTraining:
    """What takes the steps of a DP-SGD run.

    Args:
        model: the network; gets opacus' hooks, its parameters stay its own.
        optimizer: of `model`; learns from the noised gradients.
        plan: noise, clipping and sampling.
        images: number of training images.
        secret: what all draws derive from; None draws it from the system's entropy, which the guarantee needs.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: PrivacyPlan,
        images: int,
        secret: int | None = None,
    ):
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        self.plan = plan
        self.secret = secrets.randbits(SECRET_BITS) if secret is None else secret
        self.batch_size = plan.sample_rate * images
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(contiguous)
        self.network = GradSampleModule(model, loss_reduction="sum")
        self.optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=self.batch_size,  # the drawn number itself is private
        )

    def train_step(
        self, parts: list[StepInputs], process: DDPMProcess, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step on the batch drawn for step `step`, cut into `parts` to save memory.

        Returns, as scalars on the device, its summed loss over the expected batch size, which is not private, and the
        norm of the noised gradient, which is.
        """
        device = next(self.network.parameters()).device
        self.optimizer.generator = torch.Generator(device).manual_seed(derive_seed(self.secret, 5, step))
        total = torch.zeros((), device=device)
        for part in parts[:-1]:
            self.optimizer.signal_skip_step()
            total += self.backward(part, process)
            self.optimizer.step()  # clips and adds up only
            self.optimizer.zero_grad()
        total += self.backward(parts[-1], process)
        self.optimizer.step()
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.optimizer.params])
        self.optimizer.zero_grad()
        return total / self.batch_size, norm

    def backward(self, part: StepInputs, process: DDPMProcess) -> torch.Tensor:
        """Leave each image's gradient in its parameter's `grad_sample`; returns the summed loss."""
        count = len(part.images)
        if count == 0:
            for parameter in self.optimizer.params:
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]
            return torch.zeros((), device=part.images.device)
        loss = process.loss(self.network, part) * count
        with warnings.catch_warnings():  # layers that take time, class or image, none of which wants a gradient
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            loss.backward()
        return loss.detach()


def contiguous(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Bring a layer's inputs to row-major order: opacus 1.6 computes wrong gradients of a convolution on any other,
    as attention leaves it (its `unfold2d` takes the strides of a row-major image for granted)."""
    return tuple(tensor.contiguous() for tensor in inputs)


def build_private_training(
    state: TrainingState, plan: PrivacyPlan, images: int, accelerator: Accelerator, output_dir: Path
) -> PrivateTraining:
    """What trains `state`, new or resumed, by `plan`; brings `privacy.json` up to date.

    Raises:
        ValueError: several processes, or a resumed run whose plan was another.
    """
    if accelerator.num_processes > 1:
        raise ValueError(
            f"--dp_epsilon trains on one process, got {accelerator.num_processes}; start it without a launcher, with "
            "a larger --gradient_accumulation_steps instead"
        )
    if state.step:
        check_same_plan(output_dir, plan)
    write_privacy(output_dir, plan, state.step)
    return PrivateTraining(state.model, state.optimizer, plan, images)
