"""The model that the Space trains for itself on drawn eyes when it is given none: small, and kept for the next start.

It is made by `clinsynth train ddpm` in a process of its own, which goes on where it was stopped.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from clinsynth.run_folder import read_metrics

HERE = Path(__file__).parent
DATASET = "phantom-fundus"
STEPS = 300
SETTINGS = (
    f"--dataset {DATASET} --resolution 32 --channels 1 --width 16 --train_batch_size 32 --validation_steps 0 "
    "--checkpointing_steps 50 --log_steps 10 --lr_warmup_steps 20"
)
LINES_SHOWN = 3


class FirstModel:
    """A checkpoint in the cache folder of Hugging Face's libraries, there or being trained.

    Args:
        steps: optimizer steps; another number is another model.
    """

    def __init__(self, steps: int = STEPS) -> None:
        from huggingface_hub.constants import HF_HOME

        self.steps = steps
        self.folder = Path(HF_HOME) / "clinsynth-studio" / f"{DATASET}-{steps}-steps"
        self.log = self.folder.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()

    @property
    def is_there(self) -> bool:
        """The checkpoint is complete."""
        return (self.folder / "model_index.json").exists()

    def start(self) -> None:
        """Train it in the background unless it is there or being trained."""
        with self.lock:
            if self.is_there or (self.process and self.process.poll() is None):
                return
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            words = ["train", "ddpm", *SETTINGS.split(), "--train_steps", str(self.steps)]
            command = [sys.executable, "-m", "clinsynth", *words, "--output_dir", str(self.folder)]
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log)
            atexit.register(self.process.terminate)

    def steps_done(self) -> int:
        """Optimizer steps so far."""
        records = read_metrics(self.folder)
        return int(records[-1]["step"]) if records else 0

    def wait(self, tell: Callable[[float, str], object]) -> Path:
        """The folder of the checkpoint, once it is there.

        Args:
            tell: is called every half second with the share that is done and words for it.

        Raises:
            ValueError: the training has failed; ends with what it said.
        """
        self.start()
        while not self.is_there:
            tell(self.steps_done() / self.steps, self.status())
            process = self.process
            if process and process.poll() is not None and not self.is_there:
                raise ValueError(f"the first model could not be trained: {self.last_words()}")
            time.sleep(0.5)
        return self.folder

    def status(self) -> str:
        """One sentence for a visitor who waits; empty once the model is there."""
        if self.is_there:
            return ""
        return f"A small model is being trained on drawn eyes, once: step {self.steps_done()} of {self.steps}"

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").replace("\r", "\n").splitlines()
        said = [line for line in lines if line.strip()]
        return " ".join(said[-LINES_SHOWN:]) or "it said nothing"
